"""The benchmark: its cases, who takes part, what is refused, and the files it writes."""

import csv
import itertools
import json
import math
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from cases import LOSSES, TYPICAL, marked, typical

import fastloss as fl
from fastloss import cli
from fastloss.bench import contenders, places, session, threads
from fastloss.bench import measure as timing
from fastloss.bench.agreement import disagreement
from fastloss.bench.cases import EXTENTS, case_of
from fastloss.bench.contenders import available, ours, plain, pytorch, scikit
from fastloss.bench.measure import measure
from fastloss.bench.results import COLUMNS, Results, share_of_copy
from fastloss.cpu.loops import copy as copying
from fastloss.runtime.settings import thread_count


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """What the benchmark sets for libraries that start must not outlive a test."""
    for name in ("NPROC", "XLA_FLAGS", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


def small(name):
    case = case_of(LOSSES[name], "small")
    if case is None:
        pytest.skip("takes more than arrays, and has no recipe in fastloss/bench/cases.py")
    return case


@pytest.mark.parametrize("name", marked(LOSSES, ("mse_loss", "cross_entropy").__contains__))
def test_the_small_case_of_a_loss_runs_and_reused_equals_fresh(name):
    case = small(name)
    function = fl.value_and_grad(case.loss.function, case.wrt)
    value, fresh = function(*case.arrays(), **case.options)
    given = tuple(np.zeros_like(case.operands[name]) for name in case.wrt)
    _, reused = function(*case.arrays(), **case.options, grad_out=given)
    assert np.isfinite(value).all()
    for new, old, returned in zip(fresh, given, reused, strict=True):
        np.testing.assert_array_equal(new, old)
        assert returned is old


@pytest.mark.parametrize("who", ["fresh", "reused", "torch", "sklearn", "numpy"])
@pytest.mark.parametrize("name", typical(LOSSES))
def test_a_contender_computes_the_same_loss(name, who):
    one, case = contenders.contender(who), small(name)
    if one.missing() is not None:
        pytest.skip(one.missing())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice on reductions
        prepared = one.prepare(case)
        if prepared is None:
            pytest.skip(f"{who} has no such loss")
        theirs = prepared.outcome(prepared.call())
    assert disagreement(ours.outcome(ours.call_of(case)()), theirs) is None


def test_a_loss_of_another_signature_is_passed_over():
    def describe(input, head, *, cutoffs, reduction="mean"):
        """Take what no recipe makes."""

    from dataclasses import replace

    assert case_of(replace(LOSSES["mse_loss"], name="other_loss", family="other", describe=describe), "small") is None
    assert case_of(replace(LOSSES["cross_entropy"], name="other_loss", describe=describe), "small") is None


def test_sizes_grow():
    assert list(EXTENTS) == ["small", "medium", "large", "huge"]
    assert sorted(EXTENTS.values()) == list(EXTENTS.values())


@pytest.mark.parametrize("count", [1, 7, 1000, 300_001])
def test_the_copy_copies(count):
    source = np.random.default_rng(0).standard_normal(count)
    labels = np.arange(count)
    sink = np.zeros_like(source)
    written = np.ones(count)
    copying.run([source, labels, None], [sink, None, written])
    np.testing.assert_array_equal(sink, source)
    assert not written.any()
    np.testing.assert_array_equal(labels, np.arange(count))


def test_the_copy_refuses_more_arrays_than_it_has_slots():
    with pytest.raises(ValueError, match="at most 4"):
        copying.run([np.zeros(8)] * 5, [None] * 5)


# -- agreement --------------------------------------------------------------------------------------------------------


def test_agreement_is_that_of_float32():
    gradient = np.linspace(-1, 1, 40_000, dtype=np.float32)
    mine = np.float32(0.5), [gradient]
    assert disagreement(mine, (np.float32(0.5) * (1 + 1e-4), [gradient * np.float32(1 + 1e-5)])) is None
    flipped = gradient.copy()
    flipped[7] = 5  # a hinge that rounding put on its other side
    assert disagreement(mine, (np.float32(0.5), [flipped])) is None
    flipped[:100] = 5
    assert "gradient 0 5, not" in disagreement(mine, (np.float32(0.5), [flipped]))
    assert "value 1, not 0.5" in disagreement(mine, (np.float32(1), [gradient]))
    assert "gradient" in disagreement(mine, (np.float32(0.5), [2 * gradient]))
    assert "gradient" in disagreement(mine, (np.float32(0.5), [gradient * np.nan]))
    assert "shape" in disagreement(mine, (np.float32(0.5), [gradient[1:]]))
    assert "shape" in disagreement(mine, (np.zeros(3), [gradient]))
    assert "2 gradients" in disagreement(mine, (np.float32(0.5), [gradient, gradient]))


def bench(*args):
    return cli.main(["bench", "--seconds", "0.001", "--quick", "--sizes", "small", *map(str, args)])


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_who_computes_something_else_is_not_timed(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(plain.FORMULAS, "mse_loss", lambda x, t: (np.float32(2.0), x - t))
    assert bench("mse_loss", "--contenders", "fresh,numpy", "--out", tmp_path, "--name", "here") == 1
    assert "mse_loss: numpy computes something else" in capsys.readouterr().err
    assert {row["contender"] for row in rows_of(tmp_path / "here.csv") if row["mode"] == "sizes"} == {"fresh"}


def test_a_folder_that_cannot_be_is_found_out_first(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(session.Session, "run", lambda *_: pytest.fail("something was measured"))
    (tmp_path / "file").touch()
    assert bench("mse_loss", "--contenders", "fresh", "--out", tmp_path / "file") == 2
    assert "File exists" in capsys.readouterr().err


def test_who_raises_is_left_out(monkeypatch, tmp_path, capsys):
    def broken(x, t):
        raise RuntimeError("no compiler")

    monkeypatch.setitem(plain.FORMULAS, "mse_loss", broken)
    assert bench("mse_loss", "--contenders", "fresh,numpy", "--out", tmp_path) == 0
    assert "mse_loss: numpy left out: RuntimeError: no compiler" in capsys.readouterr().err


def test_what_is_not_installed_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(scikit.util, "find_spec", lambda name: None)
    assert bench("mse_loss", "--contenders", "fresh,sklearn", "--out", tmp_path) == 0
    assert "sklearn is left out: scikit-learn is not installed" in capsys.readouterr().err
    assert bench("mse_loss", "--contenders", "sklearn", "--out", tmp_path) == 2


def test_torch_compile_needs_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no no-such-compiler" in pytorch.CONTENDERS["compile"].missing()


@pytest.mark.parametrize(
    "args",
    [
        ["mean_loss"],
        ["--sizes", "vast"],
        ["--contenders", "fresh,tensorflow"],
        ["--renew"],
        ["--shapes", "8x8", "--growth"],
    ],
)
def test_what_is_unknown_is_refused(args, capsys):
    assert cli.main(["bench", *args]) == 2
    message = capsys.readouterr().err
    assert args[-1].split(",")[-1] in message


def test_threads_are_those_asked_for_and_put_back():
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    with threads.limited(3, ["torch"]):
        assert torch.get_num_threads() == 3
        assert thread_count() == 3
    assert torch.get_num_threads() == before


# -- how long a case goes on ------------------------------------------------------------------------------------------


class Clock:
    """Time that passes in calls alone, each of which takes what is next in a list that is repeated."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(timing, "time", self)

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        pass

    def call(self, *durations):
        following = itertools.cycle(durations)

        def run():
            self.now += next(following)

        return run


def rounds_of(calls, seconds=1.0, rounds=5, **more):
    samples = timing.interleaved(calls, seconds, rounds, places.HOST, **more)
    assert len({len(one) for one in samples.values()}) == 1  # all go on, not the noisy one alone
    return len(next(iter(samples.values())))


def test_a_steady_case_ends_with_its_time(monkeypatch):
    clock = Clock(monkeypatch)
    calls = {"a": clock.call(0.05), "b": clock.call(0.05, 0.055)}
    assert rounds_of(calls) == 5  # 2 calls of 2, each with one that wakes the threads: 0.2 s
    assert rounds_of(calls, seconds=2.0) == 10


def test_a_scattered_case_goes_on_but_not_for_ever(monkeypatch):
    clock = Clock(monkeypatch)
    steady, wild = clock.call(0.05), clock.call(*[0.02, 0.02, 0.02, 0.08, 0.08, 0.08])
    planned = rounds_of({"a": steady, "b": wild}, patience=1.0)
    assert planned + 5 < rounds_of({"a": steady, "b": wild}) <= timing.PATIENCE * planned + 1


def test_a_case_that_settles_ends(monkeypatch):
    clock = Clock(monkeypatch)
    settling = clock.call(*[0.2, 0.02] * 4, *[0.02] * 10_000)
    went_on = rounds_of({"a": clock.call(0.05), "b": settling})
    assert 5 < went_on < 20


# -- tensors on a device ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", marked([name for name in LOSSES if name in TYPICAL], "mse_loss".__eq__))
def test_tensors_of_a_half_type_are_what_everybody_gets(name):
    """On the CPU; a GPU differs by the name of the device, and by a wait for it."""
    torch = pytest.importorskip("torch")
    (place,) = places.asked_for("cpu", ["bfloat16"])
    small(name)
    case = case_of(LOSSES[name], "small", place=place)
    floating = [one for one in case.arrays() if one.is_floating_point()]
    assert {one.dtype for one in floating} == {torch.bfloat16}
    assert case.moved() < case_of(LOSSES[name], "small").moved()
    who = [contenders.contender(one) for one in ("fresh", "reused", "unchecked", "copy", "torch")]
    found = measure(case, who, 1e-4, 1, memory=True)
    assert not found.wrong
    assert {"fresh", "reused", "unchecked", "copy"} <= {timing.contender for timing in found.timings}
    assert set(found.peaks.values()) == {None}


@pytest.mark.slow
def test_a_run_on_tensors_names_device_and_dtype(tmp_path):
    pytest.importorskip("torch")
    args = ["mse_loss", "--device", "cpu", "--dtype", "float32,bfloat16", "--out", tmp_path, "--name", "here"]
    assert bench(*args) == 0
    rows = rows_of(tmp_path / "here.csv")
    assert {(row["device"], row["dtype"]) for row in rows} == {("cpu", "float32"), ("cpu", "bfloat16")}
    assert {row["contender"] for row in rows if row["mode"] == "sizes"} == {
        "fresh", "reused", "unchecked", "copy", "torch"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--dtype", "bfloat16"], "--dtype goes with --device"),
        (["--device", "cpu", "--dtype", "int8"], "unknown dtype int8"),
        (["--device", "cpu", "--contenders", "fresh,jax"], "jax cannot take part"),
        (["--device", "cpu", "--guard", "ratios.json"], "leave --device out"),
    ],
)
def test_what_does_not_go_with_a_device_is_refused(args, message, capsys):
    pytest.importorskip("torch")
    assert cli.main(["bench", *args]) == 2
    assert message in capsys.readouterr().err


def test_cuda_needs_a_device(monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", "--device", "cuda"]) == 2
    assert "--device cuda needs a CUDA device" in capsys.readouterr().err


class Pretended(places.Host):
    """Arrays of NumPy on what calls itself a device."""

    device = "pretended"

    def parts(self, call):
        call()
        return 2e-3, 3e-4


def test_times_of_device_and_host_have_columns_of_their_own():
    case = case_of(LOSSES["mse_loss"], "small", None, Pretended())
    found = Results(0.01, places.HOST)
    for each in measure(case, available(["fresh", "reused"])[0], 0.01, rounds=2).timings:
        found.add("sizes", case, each, 1)
    assert [(row["device_ms"], row["host_ms"]) for row in found.rows] == [("2", "0.3")] * 2
    row = {"median_ms": "8", "device_ms": "2"}
    assert share_of_copy({"median_ms": "4", "device_ms": "1.5"}, row) == 0.75
    assert share_of_copy({"median_ms": "4", "device_ms": ""}, row) == 0.5


def test_what_scatters_on_a_device_is_not_written_down(monkeypatch, capsys):
    samples = {"fresh": [1e-3, 1.1e-3, 1e-3], "copy": [1e-3, 2e-3, 4e-3]}
    timings = [timing.Timing(name, list(taken), 0.1) for name, taken in samples.items()]
    monkeypatch.setattr(session, "measure", lambda *args: timing.Measured(timings, {}, {}, {}))
    for place, kept in ((Pretended(), ["fresh"]), (places.HOST, ["fresh", "copy"])):
        found = Results(0.01, places.HOST)
        step = session.Step("sizes", "mse_loss", "small", available(["fresh", "copy"])[0], 1, place=place)
        session.Session(found, rounds=2).run([step])
        assert [row["contender"] for row in found.rows] == kept
    assert "copy not kept, 1.4 to 3.2 ms" in capsys.readouterr().err


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    args = ["--contenders", "fresh,reused,copy", "--threads", 1, "--out", folder, "--name", "here"]
    assert bench("mse_loss", "cross_entropy", *args) == 0
    return folder / "here.csv"


def test_one_row_for_each_contender(results):
    rows = rows_of(results)
    assert tuple(rows[0]) == COLUMNS
    assert [(row["loss"], row["contender"]) for row in rows if row["mode"] == "sizes"] == [
        (loss, contender) for loss in ("mse_loss", "cross_entropy") for contender in ("fresh", "reused", "copy")
    ]
    for row in rows:
        assert 0 < float(row["p20_ms"]) <= float(row["median_ms"]) <= float(row["p80_ms"])
        assert float(row["first_call_ms"]) > 0
        assert row["threads"] == "1"
        assert row["fastloss"] == fl.__version__
        # bytes, and the rate that follows from them
        rate = float(row["megabytes"]) / float(row["median_ms"])
        assert math.isclose(rate, float(row["gb_per_s"]), rel_tol=1e-3)


def test_small_calls_are_timed_in_every_form(results):
    forms = {row["contender"] for row in rows_of(results) if row["mode"] == "latency" and row["loss"] == "mse_loss"}
    assert forms == {"function", "class", "transform", "class_transform", "transform_reused"}


def test_the_bytes_are_those_read_and_those_written(results):
    megabytes = {row["loss"]: float(row["megabytes"]) for row in rows_of(results) if row["mode"] == "sizes"}
    assert megabytes["mse_loss"] == pytest.approx(3 * 4 * EXTENTS["small"].elements / 1e6, rel=1e-5)
    assert megabytes["cross_entropy"] == pytest.approx((2 * 4 * 64 * 10 + 8 * 64) / 1e6, rel=1e-5)


def test_the_json_holds_samples_and_machine(results):
    record = json.loads(results.with_suffix(".json").read_text())
    assert record["machine"]["fastloss"] == fl.__version__
    assert {sample["contender"] for sample in record["samples"]} >= {"fresh", "reused", "copy"}
    assert all(len(sample["seconds"]) >= 3 and min(sample["seconds"]) > 0 for sample in record["samples"])


def in_a_process_of_its_own(tmp_path, *args):
    """Run the command where JAX may start: its threads would forbid the tests after this one to fork."""
    args = ["--quick", "--sizes", "small", "--seconds", "0.001", "--out", tmp_path, "--name", "here", *args]
    command = [sys.executable, "-m", "fastloss", "bench", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    left_out = [line for line in done.stderr.splitlines() if "left out" in line]
    assert all("pytorch issue" in line for line in left_out), left_out
    return rows_of(tmp_path / "here.csv")


def test_jax_takes_part_with_the_threads_asked_for(tmp_path):
    pytest.importorskip("optax")
    args = ["mse_loss", "cross_entropy", "softmax", "--contenders", "fresh,jax", "--threads", 1]
    rows = in_a_process_of_its_own(tmp_path, *args)
    assert {row["loss"] for row in rows if row["contender"] == "jax"} == {"mse_loss", "cross_entropy", "softmax"}


@pytest.mark.slow
@pytest.mark.parametrize("who", ["jax", "compile"])
def test_a_compiler_takes_part_in_every_loss(tmp_path, who):
    one = contenders.contender(who)
    if one.missing() is not None:
        pytest.skip(one.missing())
    rows = in_a_process_of_its_own(tmp_path, "--contenders", f"fresh,{who}")
    assert len({row["loss"] for row in rows if row["contender"] == who}) >= 26


def test_the_package_does_not_import_its_benchmark():
    code = "import sys, fastloss; sys.exit(any(name.startswith('fastloss.bench') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0
