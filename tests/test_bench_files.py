"""The benchmark's growth and guard, and the scripts that read its files."""

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from cases import LOSSES

from fastloss import cli
from fastloss.bench import contenders, growth, guard, memory
from fastloss.bench.cases import Extent
from fastloss.bench.results import COLUMNS, read
from fastloss.bench.session import Plan

BENCH = Path(__file__).parent.parent / "bench"


def script(name):
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("NPROC", "XLA_FLAGS", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, "")


# -- growth -----------------------------------------------------------------------------------------------------------


def test_n_grows_over_four_decades_and_c_from_2_to_262144():
    for quick in (True, False):
        counts, classes = growth.element_counts(quick), growth.class_counts(quick)
        assert (counts[0], counts[-1]) == (1000, 10_000_000)
        assert (classes[0], classes[-1]) == (2, 262_144)
        assert counts == sorted(set(counts))
        assert classes == sorted(set(classes))


def test_preferred_losses_are_of_a_family_that_grows():
    for name in (*growth.BY_ELEMENTS, *growth.BY_CLASSES):
        assert LOSSES[name].family in growth.FAMILIES


def test_everything_runs_on_one_thread_and_on_all_but_who_cannot_change():
    who, _ = contenders.available(["fresh", "numpy"])
    fixed = contenders.contender("jax")
    plan = Plan(["mse_loss", "cross_entropy"], [*who, fixed], 4, 1.0)
    steps = growth.by_elements(plan) + growth.by_classes(plan) + growth.by_threads(plan)
    assert {step.threads for step in steps} == {1, 4}
    assert all((fixed in step.contenders) == (step.threads == 4) for step in steps if step.mode != "threads")
    assert {step.loss for step in steps if step.mode == "classes"} == {"cross_entropy"}
    assert not growth.by_threads(plan._replace(threads=1))


def test_traced_memory_is_exact():
    kept = []
    found = memory.peak_extra("fresh", lambda: kept.append(np.empty(1 << 16, np.uint8)), 0)
    assert 1 << 16 <= found < (1 << 16) + 4096
    assert memory.peak_extra("torch", lambda: None, 100) is None


def test_resident_memory_is_nearly_exact():
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux")
    found = memory.peak_extra("torch", lambda: np.ones(1 << 26, np.uint8), 1 << 26)
    if found is None:
        pytest.skip("this system does not let a process reset its peak")
    assert 0.8 * (1 << 26) < found < 1.5 * (1 << 26)


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    folder = tmp_path_factory.mktemp("growth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growth, "element_counts", lambda quick: [1000, 10_000])
        patch.setattr(growth, "class_counts", lambda quick: [1 << 16, 1 << 18])
        patch.setattr(growth, "EXTENTS", {"medium": Extent(1000, (10, 100), (10, 100))})
        patch.setenv("NPROC", "")
        patch.setenv("XLA_FLAGS", "")
        patch.setenv("TF_CPP_MIN_LOG_LEVEL", "")
        args = ["mse_loss", "cross_entropy", "--growth", "--quick", "--seconds", "0.001", "--threads", "2"]
        options = ["--contenders", "fresh,reused,copy", "--out", str(folder), "--name", "here"]
        assert cli.main(["bench", *args, *options]) == 0
    return folder / "here-growth.csv"


@pytest.mark.slow
def test_growth_writes_every_mode_with_memory(grown):
    rows = read(grown)
    assert {row["mode"] for row in rows} == {"elements", "classes", "threads"}
    assert {row["threads"] for row in rows} == {"1", "2"}
    fresh = {
        int(row["elements"]): float(row["peak_extra_mb"])
        for row in rows
        if row["mode"] == "elements" and row["loss"] == "mse_loss" and row["contender"] == "fresh"
    }
    for elements, megabytes in fresh.items():  # the gradient, and a board
        assert 4e-6 * elements <= megabytes <= 4e-6 * elements + 0.01


# -- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shapes_are_those_asked_for(tmp_path):
    args = ["cross_entropy", "mse_loss", "ctc_loss", "--shapes", "30x7,5x100", "--seconds", "0.001", "--threads", "2"]
    options = ["--contenders", "fresh,reused,copy", "--out", str(tmp_path), "--name", "here"]
    assert cli.main(["bench", *args, *options]) == 0
    rows = read(tmp_path / "here-shapes.csv")
    assert {row["mode"] for row in rows} == {"shapes"}
    shapes = {(row["loss"], row["shape"], row["size"]) for row in rows}
    of_rows = {("cross_entropy", "30x7", "30x7"), ("cross_entropy", "5x100", "5x100")}
    assert shapes == of_rows | {("mse_loss", "210", "30x7"), ("mse_loss", "500", "5x100")}
    lines = script("readme").shapes_text(tmp_path / "here-shapes.csv").splitlines()
    assert lines[0] == "Shape by shape, from [here-shapes.csv](here-shapes.csv):"
    assert [line.split(" | ")[:2] for line in lines[4:]] == [
        ["| `cross_entropy`", "30x7"],
        ["| `cross_entropy`", "5x100"],
        ["| `mse_loss`", "30x7"],
        ["| `mse_loss`", "5x100"],
    ]
    one = script("readme").shapes_text(tmp_path / "here-shapes.csv", "bench/results/", "mse_loss").splitlines()
    assert "](bench/results/here-shapes.csv)" in one[0]
    assert one[1:] == lines[1:4] + lines[6:]
    assert script("readme").shapes_text(tmp_path / "none.csv") == ""


@pytest.mark.parametrize("text", ["8", "8x", "x8", "0x8", "8x8x8", "-8x8", "8x8,9", "8.0x8", ","])
def test_what_is_no_shape_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        cli.main(["bench", "mse_loss", "--shapes", text])
    assert "expected" in capsys.readouterr().err


# -- the scripts ------------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path):
    """A file with every mode of a plain run, its numbers invented."""
    path = tmp_path / "here.csv"
    who = ["copy", "reused", "fresh", "torch", "jax"]
    cells = dict.fromkeys(COLUMNS, "") | {"machine": "a machine", "threads": 2, "date": "2024-02-29", "torch": "2.13.0"}
    cells |= {"dtype": "float32", "device": "cpu"}
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for size, shape, factor in (("small", "8", 1), ("medium", "800", 10)):
            for loss, scale in (("mse_loss", 1), ("cross_entropy", 4)):
                for number, contender in enumerate(who):
                    row = {"mode": "sizes", "loss": loss, "size": size, "shape": shape, "contender": contender}
                    time = 2**number * (scale if contender == "torch" else 1) * factor
                    first = 1e3 * (1 + (loss == "mse_loss"))
                    writer.writerow(cells | row | {"median_ms": time, "first_call_ms": first})
        for contender in ("function", "class", "transform", "torch_gradient"):
            row = {"mode": "latency", "loss": "mse_loss", "size": "call", "contender": contender}
            writer.writerow(cells | row | {"median_ms": 0.01})
    return path


@pytest.mark.slow
def test_plot_draws_what_the_files_hold(results, grown, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert script("plot").main([str(results), str(grown), "--out", str(tmp_path)]) == 0
    kinds = {path.stem for path in tmp_path.glob("*.png")}
    plain = {f"here-{kind}" for kind in ("speedup", "copy", "latency")}
    of_growth = {
        f"here-growth-{kind}" for kind in ("elements", "elements-memory", "classes", "classes-memory", "threads")
    } | {"here-growth-elements-share", "here-growth-classes-share"}
    assert kinds == plain | of_growth
    assert len(capsys.readouterr().out.splitlines()) == len(kinds)


def test_the_tables_show_the_file(results, monkeypatch):
    readme = script("readme")
    text = readme.results_text(results)
    assert "a machine, 2 threads" in text
    assert "[here.csv](bench/results/here.csv)" in text
    assert "| small | 4.0 (2) | 4.0 (2) | 50 % |" in text  # torch: 2 and 8 times as long
    assert "| small calls, µs | function | class | `value_and_grad` of the function | torch, forward" in text
    assert "| median of 1 losses | 10.0 | 10.0 | 10.0 | 10.0 |" in text
    assert "fresh 1.5 s (2.0 s), JAX 1.5 s (2.0 s)." in text
    assert "png" not in text
    monkeypatch.setattr(readme, "RESULTS", results.parent)
    assert "| `mse_loss` | 800 | 10 | 20 | 40 | 80 | 160 | 2.0 |" in readme.details()
    results.with_name("here-speedup.png").touch()
    assert "](bench/results/here-speedup.png)" in readme.results_text(results)
    assert "](here-speedup.png)" in readme.details()


def test_the_newest_file_is_that_of_the_latest_time_of_day(tmp_path, monkeypatch):
    readme = script("readme")
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    times = {"c": ("2024-02-28", "23:00:00"), "b": ("2024-02-29", "10:00:00"), "a": ("2024-02-29", "11:00:00")}
    times["d"] = ("2024-02-29", None)  # of a time when there was no time
    for name, (date, time) in times.items():
        (tmp_path / f"{name}.csv").write_text(f"loss,date\nmse_loss,{date}\n")
        (tmp_path / f"{name}.json").write_text(json.dumps({"date": date} | ({"time": time} if time else {})))
    assert [path.stem for path in readme.results_files()] == ["c", "d", "b", "a"]
    assert readme.newest_results().stem == "a"
    assert readme.newest_results("cuda") is None


def test_the_table_of_a_gpu_shows_the_file(tmp_path):
    path = tmp_path / "gpu-growth.csv"
    cells = dict.fromkeys(COLUMNS, "") | {"machine": "a GPU", "date": "2024-02-29", "torch": "2.13.0", "device": "cuda"}
    cells |= {"mode": "classes", "loss": "cross_entropy", "gb_per_s": 3000.4}
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for dtype in ("float32", "bfloat16"):
            for classes in (10, 4096):
                for contender, time in (("copy", 9), ("reused", 10), ("fresh", 11), ("torch", 45)):
                    row = {"dtype": dtype, "shape": f"8192x{classes}", "contender": contender, "median_ms": time}
                    writer.writerow(cells | row)
    lines = script("readme").gpu_text(path).splitlines()
    assert lines[0] == "a GPU, 2024-02-29, torch 2.13.0; from [gpu-growth.csv](bench/results/gpu-growth.csv)."
    assert lines[4] == "| 8192x10 | bfloat16 | 3000 | 90 % | 4.5 | - |"
    assert len(lines) == 8
    assert script("readme").gpu_text(None) == ""


def test_the_summary_of_a_gpu_says_how_it_was_measured(results):
    results.with_suffix(".json").write_text(json.dumps({"seconds_per_case": 0.5, "load_at_start": 2.34}))
    lines = script("readme").gpu_sizes_text(results).splitlines()
    assert lines[0] == "a machine, 2024-02-29, torch 2.13.0; from [here.csv](bench/results/here.csv),"
    assert lines[1] == "0.5 s for each case, load of the host at the start 2.3."
    assert lines[5].startswith("| small | 4.0 (2) |")
    assert script("readme").gpu_sizes_text(None) == ""


def test_the_first_files_can_be_read(tmp_path):
    path = tmp_path / "old.csv"
    path.write_text("loss,size\nmse_loss,large\n")
    assert read(path) == [{"mode": "sizes", "device": "cpu", "loss": "mse_loss", "size": "large"}]


# -- guard ------------------------------------------------------------------------------------------------------------

STORED = {"mse_loss": {"reused/copy": 1.0, "fresh/torch": 0.2}, "l1_loss": {"reused/copy": 1.0}}


def test_worse_by_more_than_a_third_is_a_regression():
    assert not guard.regressions(STORED, {"mse_loss": {"reused/copy": 1.3, "fresh/torch": 0.26}})
    assert not guard.regressions(STORED, {"l1_loss": {"fresh/torch": 9.0}, "huber_loss": {"reused/copy": 9.0}})
    found = guard.regressions(STORED, {"mse_loss": {"reused/copy": 0.5, "fresh/torch": 0.3}})
    assert found == {"mse_loss": "fresh/torch 0.3, was 0.2"}


@pytest.mark.parametrize(("second", "status"), [(1.0, 0), (1.5, 1)])
def test_a_suspect_is_measured_again_for_longer(monkeypatch, tmp_path, capsys, second, status):
    path = tmp_path / "ratios.json"
    path.write_text(json.dumps({"processor": "another", "threads": 2, "size": "small", "ratios": STORED}))
    asked = []

    def ratios(plan, size, rounds=5):
        asked.append((plan.losses, plan.seconds, size))
        worse = {"mse_loss": {"reused/copy": 1.5 if len(asked) == 1 else second}}
        return {name: {"reused/copy": 1.0} for name in plan.losses} | worse

    monkeypatch.setattr(guard, "ratios", ratios)
    args = ["mse_loss", "l1_loss", "huber_loss", "--guard", str(path), "--seconds", "1"]
    assert cli.main(["bench", *args, "--contenders", "reused,copy"]) == status
    assert asked == [(["mse_loss", "l1_loss"], 1.0, "small"), (["mse_loss"], 4.0, "small")]
    printed = capsys.readouterr()
    assert ("WORSE by more than a third: mse_loss" in printed.out) == bool(status)
    assert "no stored ratio: huber_loss" in printed.err
    assert "the stored ratios are of another" in printed.err


@pytest.mark.parametrize("text", [b"\x93NUMPY", b"no JSON", b"[]", b"{}"])
def test_what_is_no_file_of_ratios(tmp_path, capsys, text):
    path = tmp_path / "ratios.json"
    path.write_bytes(text)
    assert cli.main(["bench", "mse_loss", "--guard", str(path), "--contenders", "reused,copy"]) == 2
    assert "ratios.json is no file of ratios" in capsys.readouterr().err
    assert path.read_bytes() == text


def test_the_worst_of_several_runs_is_stored():
    runs = [{"mse_loss": {"reused/copy": a, "fresh/torch": b}} for a, b in ((1.0, 0.2), (1.2, 0.5), (1.1, 0.1))]
    assert guard.worst(runs) == {"mse_loss": {"reused/copy": 1.2, "fresh/torch": 0.5}}


@pytest.mark.slow
def test_ratios_are_stored_and_held_against(tmp_path, capsys):
    path = tmp_path / "ratios.json"
    args = ["bench", "mse_loss", "--guard", str(path), "--seconds", "0.001", "--contenders", "reused,copy"]
    assert cli.main(args) == 2
    assert "--renew writes one" in capsys.readouterr().err
    assert cli.main([*args, "--renew", "--sizes", "small"]) == 0
    record = json.loads(path.read_text())
    assert record["size"] == "small"
    assert record["ratios"]["mse_loss"]["reused/copy"] > 0
    record["ratios"]["mse_loss"]["reused/copy"] *= 1000
    path.write_text(json.dumps(record))
    assert cli.main(args) == 0
    record["ratios"]["mse_loss"]["reused/copy"] = 1e-6
    path.write_text(json.dumps(record))
    assert cli.main(args) == 1


def test_changes_of_the_maths_that_alter_nothing_are_changes_of_the_maths():
    """What is listed stands in the sources as it is listed, once, and each with a reason."""
    mutate = script("mutate")
    changes = [
        change for path in sorted((BENCH.parent / mutate.LOSSES).glob("*.py")) for change in mutate.changes_of(path)
    ]
    keys = [change.key for change in changes]
    assert len(set(keys)) == len(keys) > 1000
    listed = json.loads(mutate.EQUIVALENTS.read_text())
    assert [
        one for one in listed if (one["function"], one["before"], one["after"]) not in keys or not one["reason"]
    ] == []
    losses = mutate.users()
    assert all(losses[change.function.split(".")[1]] for change in changes)


def test_what_a_change_of_the_maths_is(tmp_path):
    source = """@maths
def hinge(x, margin):
    '''1 - x.'''
    h = min(margin, 2.0) - x[0]  # é
    if h >= 0 and not x:
        return -h
    return h if h < 1 else 1


@loss("elementwise")
def hinge_loss(input, margin=1.0):
    return Elementwise(hinge, input / 2)
"""
    path = tmp_path / "hinges.py"
    path.write_text(source, encoding="utf-8")
    found = [(change.line, change.function, change.after) for change in script("mutate").changes_of(path)]
    hinge = "hinges.hinge"
    assert sorted(found) == sorted([
        (4, hinge, "h = max(margin, 2.0) - x[0]"), (4, hinge, "h = min(margin, 4.0) - x[0]"),
        (4, hinge, "h = min(margin, 2.0) + x[0]"), (5, hinge, "h > 0 and not x"), (5, hinge, "h >= 1 and not x"),
        (5, hinge, "h >= 0 or not x"), (6, hinge, "return h"), (7, hinge, "return h if h < 2 else 1"),
        (7, hinge, "return h if h < 1 else 2"), (12, "hinges.hinge_loss", "return Elementwise(hinge, input * 2)"),
    ])  # fmt: skip
