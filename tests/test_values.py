"""Values against the reference formulas, and the conventions about reductions."""

import json
from pathlib import Path

import numpy as np
import pytest
import reference
from cases import (
    ACTIVE,
    DTYPES,
    ELSEWHERE,
    KINDS,
    LOSSES,
    PLAIN,
    TYPICAL,
    assert_close,
    marked,
    natural,
    positional,
    quickly,
    typical,
)

import fastloss as fl
from fastloss.bench import cases as bench_cases
from fastloss.define import record as _record

PRINTED = json.loads((Path(__file__).parent / "printed_examples.json").read_text())

WITH_REDUCTION = [case for case in PLAIN if "reduction" in case.record.options]


def test_every_loss_has_cases_and_a_reference():
    covered = {case.loss for case in ACTIVE} | ELSEWHERE
    ours = set(LOSSES) & set(fl.__all__)
    assert ours - covered == set()
    assert [name for name in ours - ELSEWHERE if not hasattr(reference, name)] == []


def test_every_kind_of_values_has_generators():
    assert set(_record.KINDS) <= set(KINDS)
    assert set(_record.KINDS) <= {*bench_cases.GENERATORS, "class", "class_list"}


@pytest.mark.parametrize(
    "name", quickly("mse_loss", "nll_loss", then=["huber_loss", "log_softmax", "margin_ranking_loss"])
)
def test_a_loss_without_cases_gets_some(name):
    """So that all tests run for a loss that somebody adds; here with losses that have cases of their own."""
    cases = natural(LOSSES[name])
    assert len(cases) > 1
    for case in cases:
        arrays = case.make()
        assert_close(case.call(arrays), case.expected(arrays))


@pytest.mark.parametrize("case", marked(ACTIVE, PLAIN.__contains__))
def test_value(case):
    arrays = case.make()
    for reduction in case.reductions:
        value = case.call(arrays, **reduction)
        assert_close(value, case.expected(arrays, **reduction))
        assert value.dtype == np.float64


@pytest.mark.slow
@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_value_in_float32(case):
    """The other cases run in float32 with their gradients, in test_gradients.py."""
    arrays = case.make("float32")
    for reduction in case.reductions:
        value = case.call(arrays, **reduction)
        assert_close(value, case.expected(arrays, **reduction), "float32")
        assert value.dtype == np.float32


# Rounded log-probabilities are not normalised, as the reference of ctc_loss has them.
@pytest.mark.parametrize("dtype", quickly("bfloat16", then=["float16"]))
@pytest.mark.parametrize(
    "case",
    marked([c for c in PLAIN if c.loss in TYPICAL and c.loss != "ctc_loss"], lambda c: c.loss == "cross_entropy"),
)
def test_value_of_half_types(case, dtype):
    """Of one loss a family; test_gradients.py looks at the values of the others with their gradients."""
    arrays = case.make(dtype)
    for reduction in case.reductions:
        value = case.call(arrays, **reduction)
        reduced = reduction.get("reduction", "none") != "none"
        # The reference sees the rounded inputs, so a sum in float32 is as exact as that of float32 input.
        assert_close(value, case.expected(arrays, **reduction), "float32" if reduced else dtype)
        assert value.dtype == ("float32" if reduced else DTYPES[dtype])


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_arguments_by_position(case):
    arguments = {**case.make(), **case.options}
    names = [name for name in positional(case) if name in arguments]
    assert names == positional(case)[: len(names)]
    named = {k: v for k, v in arguments.items() if k not in names}
    np.testing.assert_array_equal(case.function(*[arguments[n] for n in names], **named), case.function(**arguments))


@pytest.mark.parametrize("case", WITH_REDUCTION, ids=str)
def test_reduction_defaults_to_mean(case):
    arrays = case.make()
    assert case.call(arrays) == case.call(arrays, reduction="mean")


@pytest.mark.parametrize(
    ("size_average", "reduce", "reduction"),
    [
        (True, None, "mean"),
        (False, None, "sum"),
        (None, True, "mean"),
        (None, False, "none"),
        (True, True, "mean"),
        (False, True, "sum"),
        (True, False, "none"),
        (False, False, "none"),
    ],
)
@pytest.mark.parametrize("case", [case for case in WITH_REDUCTION if case.record.legacy], ids=str)
def test_deprecated_pair_maps_to_reduction(case, size_average, reduce, reduction):
    arrays = case.make()
    with pytest.warns(DeprecationWarning, match=f"reduction='{reduction}'") as caught:
        value = case.call(arrays, size_average=size_average, reduce=reduce)
    assert caught[0].filename == __file__.replace("test_values", "cases")
    np.testing.assert_array_equal(value, case.call(arrays, reduction=reduction))


@pytest.mark.parametrize("case", WITH_REDUCTION, ids=str)
def test_deprecated_pair_only_where_torch_has_it(case):
    if case.record.legacy:
        assert case.call(case.make(), size_average=None, reduce=None) == case.call(case.make())
    else:
        with pytest.raises(TypeError, match="size_average"):
            case.call(case.make(), size_average=True)


@pytest.mark.parametrize("case", [case for case in WITH_REDUCTION if case.loss != "ctc_loss"], ids=str)
def test_nothing_has_mean_nan_and_sum_zero(case):
    arrays = {name: array if name == "linear_weight" else array[:0] for name, array in case.make().items()}
    assert np.isnan(case.call(arrays, reduction="mean"))
    assert case.call(arrays, reduction="sum") == 0
    assert case.call(arrays, reduction="none").shape == case.expected(arrays, reduction="none").shape
    for gradient, name in zip(case.value_and_grad(arrays, case.wrt(arrays))[1], case.wrt(arrays), strict=True):
        assert gradient.shape == arrays[name].shape


@pytest.mark.parametrize("loss", sorted({"nll_loss", "cross_entropy", "symmetric_cross_entropy"} & set(LOSSES)))
def test_only_ignored_rows_have_mean_nan_and_gradient_zero(loss):
    x, y = np.random.default_rng(0).normal(size=(3, 4)), np.full(3, -100)
    value, gradient = fl.value_and_grad(getattr(fl, loss))(x, y)
    assert np.isnan(value)
    np.testing.assert_array_equal(gradient, np.zeros((3, 4)))
    assert getattr(fl, loss)(x, y, reduction="sum") == 0


def test_weights_that_sum_to_zero_have_mean_nan():
    x, y = np.ones((2, 3)), np.array([0, 1])
    value, gradient = fl.value_and_grad(fl.nll_loss)(x, y, np.array([0.0, 0.0, 1.0]))
    assert np.isnan(value)
    assert np.isnan(gradient[0, 0])
    assert np.isnan(fl.mse_loss(np.ones(2), np.zeros(2), np.zeros(2)))
    value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y, np.array([0.0, 0.0, 1.0]), label_smoothing=0.1)
    assert np.isnan(value)
    assert np.isnan(gradient).all()


def test_divisors_by_hand():
    """The four divisors of `mean` that differ: elements, weights, weights of the classes that count, rows."""
    x, t, w = np.array([1.0, 2.0]), np.zeros(2), np.array([1.0, 3.0])
    assert fl.mse_loss(x, t, w) == (1 + 3 * 4) / 4
    assert fl.huber_loss(x, t, w) == (0.5 + 3 * 1.5) / 2
    rows, weight = np.array([[-1.0, -2.0], [-3.0, -4.0], [0.0, 0.0]]), np.array([1.0, 3.0])
    assert fl.nll_loss(rows, np.array([0, 1, -100]), weight) == (1 * 1 + 3 * 4) / 4
    assert fl.kl_div(np.zeros((2, 3)), np.ones((2, 3)), reduction="batchmean") == 0
    # cross-entropy of even odds is log 2 in each row; probabilities divide by the rows, whatever the weights.
    even, hot = np.zeros((2, 2)), np.eye(2)
    np.testing.assert_allclose(fl.cross_entropy(even, hot, weight), (1 + 3) * np.log(2) / 2, rtol=1e-15)
    np.testing.assert_allclose(fl.cross_entropy(even, np.array([0, 1]), weight), np.log(2), rtol=1e-15)


@pytest.mark.parametrize("case", typical([c for c in WITH_REDUCTION if c.record.family == "elementwise"]))
def test_sum_of_half_types_is_accumulated_wider(case):
    """70000 equal values: float16 cannot hold their sum, nor count them."""
    small = case.make("float16")
    arrays = {name: np.full(70_000, array.flat[0], array.dtype) for name, array in small.items()}
    one = float(case.expected({name: a[:1] for name, a in arrays.items()}, reduction="mean"))
    np.testing.assert_allclose(case.call(arrays, reduction="mean"), one, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(case.call(arrays, reduction="sum"), 70_000 * one, rtol=1e-6, atol=1e-2)


def _options(example):
    return {**({"dim": example["dim"]} if "dim" in example else {}), **example.get("options", {})}


@pytest.mark.parametrize(
    "example",
    [e for e in PRINTED["examples"] if e.get("loss", e.get("block")) in LOSSES],
    ids=lambda e: f"{e['source']}-{e.get('loss', e.get('block'))}",
)
def test_printed_example(example):
    arrays = {}
    for name in ("input", "target"):
        if name in example:
            arrays[name] = np.array(example[name])
    if "input_after_sigmoid_of" in example:
        arrays["input"] = fl.sigmoid(np.array(example["input_after_sigmoid_of"]))
    value = getattr(fl, example.get("loss", example.get("block")))(**arrays, **_options(example))
    np.testing.assert_allclose(value, example["expect"], atol=1.01e-4)


X, Y = np.array([[10.0, 0, -10], [8, 8, 8]]), np.array([0, 2])


def test_identity_nll_of_log_softmax_is_cross_entropy():
    np.testing.assert_allclose(fl.nll_loss(fl.log_softmax(X, dim=1), Y), fl.cross_entropy(X, Y), rtol=1e-14)


def test_identity_divergence_from_one_hot_is_cross_entropy():
    divergence = fl.kl_div(fl.log_softmax(X, dim=1), np.eye(3)[Y], reduction="batchmean")
    np.testing.assert_allclose(divergence, fl.cross_entropy(X, Y), rtol=1e-14)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_identity_one_hot_probabilities_are_class_indices(reduction):
    hard, hard_gradient = fl.value_and_grad(fl.cross_entropy)(X, Y, reduction=reduction)
    soft, soft_gradient = fl.value_and_grad(fl.cross_entropy)(X, np.eye(3)[Y], reduction=reduction)
    np.testing.assert_allclose(soft, hard, rtol=1e-14, atol=1e-16)
    np.testing.assert_allclose(soft_gradient, hard_gradient, rtol=1e-14, atol=1e-16)


@pytest.mark.skipif("binary_cross_entropy" not in LOSSES, reason="binary_cross_entropy is not there")
def test_identity_bce_of_sigmoid_is_bce_with_logits():
    x, y = np.array([5.0, 3, 10, -5, -3, -10]), np.array([1.0, 1, 1, 0, 0, 0])
    np.testing.assert_allclose(
        fl.binary_cross_entropy(fl.sigmoid(x), y), fl.binary_cross_entropy_with_logits(x, y), rtol=1e-11
    )


@pytest.mark.skipif("symmetric_cross_entropy" not in LOSSES, reason="symmetric_cross_entropy is not there")
def test_identity_symmetric_cross_entropy():
    """RCE of a one-hot label: log 1e-4 for every class but the target's, weighted with the clamped softmax."""
    p = np.clip(fl.softmax(X, dim=1), 1e-4, 1)
    reverse = -np.log(1e-4) * (p.sum(1) - p[np.arange(2), Y])
    expected = 0.5 * fl.cross_entropy(X, Y) + 2 * reverse.mean()
    np.testing.assert_allclose(fl.symmetric_cross_entropy(X, Y, a=0.5, b=2.0), expected, rtol=1e-13)


@pytest.mark.skipif(not hasattr(fl, "l2_penalty"), reason="l2_penalty is not there")
def test_identity_weight_decay():
    parameters = np.array([1.0, -2.0, 3.0])
    value, gradient = fl.value_and_grad(fl.l2_penalty)(parameters, 0.1)
    np.testing.assert_allclose(value, 0.5 * 0.1 * 14)
    np.testing.assert_allclose(gradient, 0.1 * parameters)


@pytest.mark.parametrize("dtype", quickly("float32", then=["float16", "float64"]))
@pytest.mark.parametrize("name", ["binary_cross_entropy", "binary_focal_loss"])
@pytest.mark.parametrize("options", quickly({}, then=[{"gamma": 0.0}, {"gamma": 1.5, "alpha": -1.0}]), ids=str)
def test_hard_targets_take_another_way_to_the_same_result(name, dtype, options, rng):
    """A single target that is neither 0 nor 1 sends its whole tile the general way."""
    function = getattr(fl, name)
    if options and name == "binary_cross_entropy":
        pytest.skip("has no options")
    x = rng.random(300).astype(dtype)
    tiny = np.finfo(dtype).smallest_subnormal
    edges = [0, tiny, 8 * tiny, np.finfo(dtype).tiny, 1e-5, 0.5, 1 - np.finfo(dtype).epsneg, 1, np.nan]
    x[: 2 * len(edges)] = np.repeat(edges, 2)
    if dtype == "float32":
        x[30:280] = np.exp2(np.arange(-149, -24).repeat(2), dtype="float64")
    t = (np.arange(300) % 2).astype(dtype)
    softer = np.append(t, 0.5).astype(dtype)
    longer = np.append(x, 0.5).astype(dtype)
    for compute in (fl.value_and_grad(function), fl.grad_and_hess(function)):
        hard, general = (compute(*both, reduction="none", **options) for both in ((x, t), (longer, softer)))
        for one, other in zip(hard, general, strict=True):
            np.testing.assert_allclose(one, other[:300], rtol=4 * np.finfo(dtype).eps, atol=0)
