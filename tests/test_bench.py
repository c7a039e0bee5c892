"""The benchmark: its cases, its files, and the scripts that read those."""

import csv
import importlib.util
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest

import fastloss as fl
from fastloss import cli
from fastloss._registry import LOSSES
from fastloss.bench import COLUMNS
from fastloss.bench.cases import ELEMENTS, case_of, torch_call
from fastloss.bench.measure import contenders
from fastloss.cpu import copying

BENCH = Path(__file__).parent.parent / "bench"


def script(name):
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", list(LOSSES))
def test_the_small_case_of_a_loss_runs_and_reused_equals_fresh(name):
    case = case_of(LOSSES[name], "small")
    if case is None:
        pytest.skip("takes more than arrays, and has no recipe in fastloss/bench/cases.py")
    function = fl.value_and_grad(case.loss.function, case.wrt)
    value, fresh = function(*case.arrays(), **case.options)
    given = tuple(case.gradients())
    _, reused = function(*case.arrays(), **case.options, grad_out=given)
    assert np.isfinite(value).all()
    for new, old, returned in zip(fresh, given, reused, strict=True):
        np.testing.assert_array_equal(new, old)
        assert returned is old


@pytest.mark.parametrize("name", list(LOSSES))
def test_contenders_are_callable(name):
    case = case_of(LOSSES[name], "small")
    if case is None:
        pytest.skip("takes more than arrays, and has no recipe in fastloss/bench/cases.py")
    found = dict(contenders(case, with_torch=False, with_compile=False))
    assert list(found) == ["fresh", "reused", "copy"]
    for call in found.values():
        call()


@pytest.mark.parametrize("name", list(LOSSES))
def test_torch_s_counterpart_is_the_same_loss(name):
    pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
    case = case_of(LOSSES[name], "small")
    found = case and torch_call(case)
    if not found:
        pytest.skip("torch has no such loss")
    ours, gradients = fl.value_and_grad(case.loss.function, case.wrt)(*case.arrays(), **case.options)
    function, tensors = found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice on reductions
        theirs = function(*tensors)
    theirs.backward(None if theirs.ndim == 0 else theirs.new_ones(()).expand_as(theirs))
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=1e-6)
    leaves = [tensor for tensor in tensors if tensor.requires_grad]
    for gradient, leaf in zip(gradients, leaves, strict=True):
        np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_sizes_grow():
    assert list(ELEMENTS) == ["small", "medium", "large"]
    assert sorted(ELEMENTS.values()) == list(ELEMENTS.values())


@pytest.mark.parametrize("count", [1, 7, 1000, 300_001])
def test_the_copy_copies(count):
    source = np.random.default_rng(0).standard_normal(count)
    labels = np.arange(count)
    sink = np.zeros_like(source)
    copying.run([source, labels], [sink, None])
    np.testing.assert_array_equal(sink, source)
    np.testing.assert_array_equal(labels, np.arange(count))


def test_the_copy_refuses_more_arrays_than_it_has_slots():
    with pytest.raises(ValueError, match="at most 4"):
        copying.run([np.zeros(8)] * 5, [None] * 5)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    args = ["bench", "mse_loss", "cross_entropy", "--sizes", "small", "--quick", "--seconds", "0.01"]
    assert cli.main([*args, "--no-torch", "--threads", "1", "--output", str(folder), "--name", "here"]) == 0
    return folder / "here.csv"


def test_quick_bench_writes_one_row_for_each_contender(results):
    with open(results, newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["loss"], row["contender"]) for row in rows] == [
        (loss, contender) for loss in ("mse_loss", "cross_entropy") for contender in ("fresh", "reused", "copy")
    ]
    for row in rows:
        assert 0 < float(row["p20_ms"]) <= float(row["median_ms"]) <= float(row["p80_ms"])
        assert row["threads"] == "1"
        assert row["fastloss"] == fl.__version__
        # bytes, and the rate that follows from them
        rate = float(row["megabytes"]) / float(row["median_ms"])
        assert math.isclose(rate, float(row["gb_per_s"]), rel_tol=1e-3)


def test_the_bytes_are_those_read_and_those_written(results):
    with open(results, newline="") as file:
        megabytes = {row["loss"]: float(row["megabytes"]) for row in csv.DictReader(file)}
    assert megabytes["mse_loss"] == pytest.approx(3 * 4 * ELEMENTS["small"] / 1e6, rel=1e-5)
    assert megabytes["cross_entropy"] == pytest.approx((2 * 4 * 64 * 10 + 8 * 64) / 1e6, rel=1e-5)


def test_the_json_holds_samples_and_machine(results):
    record = json.loads(results.with_suffix(".json").read_text())
    assert record["machine"]["fastloss"] == fl.__version__
    assert {sample["contender"] for sample in record["samples"]} == {"fresh", "reused", "copy"}
    assert all(len(sample["seconds"]) >= 5 and min(sample["seconds"]) > 0 for sample in record["samples"])


def test_an_unknown_loss_is_refused(capsys):
    assert cli.main(["bench", "mean_loss"]) == 2
    message = capsys.readouterr().err
    assert "mean_loss" in message
    assert "mse_loss" in message


def test_plot_draws_from_the_file_alone(results, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "picture.png"
    assert script("plot").main([str(results), "--output", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_table_shows_medians_of_the_file(results, tmp_path):
    text = results.read_text().replace(",small,", ",medium,")
    path = tmp_path / "here.csv"
    path.write_text(text)
    table = script("readme").results_table(path)
    with open(path, newline="") as file:
        fresh = next(row for row in csv.DictReader(file) if row["contender"] == "fresh")
    assert "[here.csv](bench/results/here.csv)" in table
    assert f"| `mse_loss` | {ELEMENTS['small']} |" in table
    assert f"{float(fresh['median_ms']):.3g}" in table
