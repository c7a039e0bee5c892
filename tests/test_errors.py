"""Bad input: the class of the error, a message that names the argument, and nothing computed."""

import dataclasses
import inspect
import re
import sys
import types

import numpy as np
import pytest
from cases import LOSSES, PLAIN, typical

import fastloss as fl
from fastloss.call.call import Call
from fastloss.call.request import Mode, Request
from fastloss.cpu.arrays import DlpackLibrary
from fastloss.define.descriptions import Elementwise
from fastloss.define.maths import maths

NOT_POSSIBLE = {
    "a number in (0, 1)": (0.0, 1.0, float("nan")),
    "a number in (0, 1]": (0.0, 1.5, float("nan")),
    "a number > 0": (0.0, -1.0, float("nan")),
    "a number, infinity included": (float("nan"),),
    "a finite number >= 0": (-0.5, float("inf"), float("nan")),
    "a number >= 0": (-0.5, float("nan")),
    "a finite number": (float("inf"), float("nan")),
    "a number in [0, 1]": (-0.1, 1.5, float("nan")),
    "1 or 2": (0, 3, 1.5),
    "a number <= 1 (negative: off)": (1.5, float("nan")),
    "an integer of 64 bits": (2**70, 0.5, float("inf")),
    "an integer >= 0": (-1, 0.5, float("inf")),
    "an integer, the number of an axis": (0.5, float("inf")),
    "None, 'euclidean', 'squared_euclidean', 'manhattan', 'cosine' or a callable": ("chebyshev", 2),
    "None or a callable": ("cosine", 2),
    "an integer of 64 bits or None": (2**70, 0.5, float("inf")),
    "an integer >= 1 or None": (0, 0.5),
    "a finite number > 0 or None": (0.0, -1.0, float("nan"), float("inf")),
    "True or False": (2, "yes"),
    "different names out of 'lse', 'log_prob', 'entropy', 'argmax', 'z_loss'": ("q", ("lse", "lse")),
}

REDUCING = [case for case in PLAIN if "reduction" in case.record.options]
INDEXED = [c for c in PLAIN if c.record.domains.get("target") == "class" and c.record.family == "rowwise"]
FIRST = [(case, case.record.wrt[0]) for case in PLAIN]


def refuses(error, match, case, arrays, **extra):
    """Check that value and gradient are refused, and that a given array is left alone."""
    with pytest.raises(error, match=match):
        case.call(arrays, **extra)
    name = case.record.wrt[0]
    untouched = np.full(np.shape(case.make()[name]), 7.0)
    with pytest.raises(error, match=match):
        case.value_and_grad(arrays, name, grad_out=untouched, **extra)
    assert (untouched == 7).all()


@pytest.mark.parametrize("case", REDUCING, ids=str)
def test_unknown_reduction(case):
    for wrong in ("median", "elementwise_mean", None, 1):
        refuses(ValueError, f"reduction .*{wrong!r}", case, case.make(), reduction=wrong)
    if case.loss != "kl_div":
        refuses(ValueError, "batchmean", case, case.make(), reduction="batchmean")


OPTIONS = [
    (case, name, value)
    for case in PLAIN
    for name, domain in case.record.options.items()
    for value in NOT_POSSIBLE.get(domain.text, ())
]


@pytest.mark.parametrize(("case", "name", "value"), OPTIONS, ids=[f"{c.loss}-{n}={v}" for c, n, v in OPTIONS])
def test_option_out_of_range(case, name, value):
    case = case._replace(options={k: v for k, v in case.options.items() if k != name})
    refuses(ValueError, f"{name} .*{value}", case, case.make(), **{name: value})


NUMBERS = [
    (case, name)
    for case, name, value in OPTIONS
    if isinstance(value, float) and case.record.options[name].text != "1 or 2"
]


@pytest.mark.parametrize(("case", "name"), NUMBERS, ids=[f"{c.loss}-{n}-{k}" for k, (c, n) in enumerate(NUMBERS)])
def test_option_of_the_wrong_type(case, name):
    case = case._replace(options={k: v for k, v in case.options.items() if k != name})
    refuses(TypeError, f"{name} .*'wide'", case, case.make(), **{name: "wide"})


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_an_option_of_several_numbers(library):
    several = pytest.importorskip(library).ones(3)
    with pytest.raises(TypeError, match="delta must be a number > 0, got "):
        fl.huber_loss(np.ones(3), np.zeros(3), delta=several)


def test_integers_behind_an_array_interface_are_no_list():
    class Exported:
        numbers = np.arange(3)
        __array_interface__ = numbers.__array_interface__

    with pytest.raises(TypeError, match="input must be floating point, got dtype int64"):
        fl.mse_loss(Exported(), np.ones(3))
    assert fl.mse_loss([0, 1, 2], np.ones(3)) == fl.mse_loss(np.arange(3.0), np.ones(3))


@pytest.mark.parametrize(("case", "name"), NUMBERS, ids=[f"{c.loss}-{n}-{k}" for k, (c, n) in enumerate(NUMBERS)])
def test_option_that_float64_does_not_hold(case, name):
    case = case._replace(options={k: v for k, v in case.options.items() if k != name})
    for number in (10**400, -(10**400)):
        with pytest.raises(ValueError, match=name):
            case.call(case.make(), **{name: number})


def test_divisor_that_float64_does_not_hold():
    with pytest.raises(ValueError, match=r"divisor .*float64"):
        fl.mse_loss(np.ones(3), np.zeros(3), divisor=10**400)


@pytest.mark.parametrize("wrong", ["2", 1j, object(), np.array("2"), np.array(2j), ["2"], [[1.0], [2.0, 3.0]]])
def test_divisor_that_is_no_number(wrong):
    for _ in range(2):
        with pytest.raises(TypeError, match=r"^divisor must be a number or an array of one, got"):
            fl.mse_loss(np.ones(3), np.zeros(3), divisor=wrong)


def test_every_domain_of_an_option_is_tested():
    texts = {d.text for case in PLAIN for name, d in case.record.options.items() if name != "reduction"}
    assert texts <= set(NOT_POSSIBLE)


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_unknown_option(case):
    refuses(TypeError, "warmth", case, case.make(), warmth=2.0)


@pytest.mark.parametrize("case", [c for c in PLAIN if len(c.arrays) > 1], ids=str)
def test_missing_argument(case):
    arrays = case.make()
    last = list(arrays)[-1]
    del arrays[last]
    refuses(TypeError, last, case, arrays)


@pytest.mark.parametrize("case", [c for c in PLAIN if len(c.arrays) > 1], ids=str)
def test_shapes_that_do_not_go_together(case):
    """The message shows the shape that does not fit."""
    for name in list(case.arrays)[1:]:
        if name in ("linear_weight", "key"):
            continue  # its rows are the classes, or the keys, as many as it has
        arrays = case.make()
        array = arrays[name]
        arrays[name] = np.concatenate([array, array[:2]])
        if name == "target" and array.ndim == 1 and case.record.family != "elementwise":
            refuses(ValueError, rf"target .*\({len(array)},\).*\({len(array) + 2},\)", case, arrays)
        else:
            shape = ", ".join(map(str, arrays[name].shape))
            refuses(ValueError, rf"\({shape},?\)", case, arrays)


@pytest.mark.parametrize("loss", sorted({"mse_loss", "l1_loss", "huber_loss"} & set(LOSSES)))
def test_weight_of_another_shape_than_the_input(loss):
    x = np.ones((4, 5))
    for shape in ((5,), (4, 1), (5, 4)):
        with pytest.raises(ValueError, match=r"weight .*\(4, 5\).*"):
            getattr(fl, loss)(x, x, np.ones(shape))


@pytest.mark.parametrize("name", ["weight", "pos_weight"])
def test_weight_that_would_enlarge_the_result(name):
    with pytest.raises(ValueError, match=rf"{name} .*\(3, 4, 5\).*\(4, 5\)"):
        fl.binary_cross_entropy_with_logits(np.ones((4, 5)), np.ones((4, 5)), **{name: np.ones((3, 4, 5))})


@pytest.mark.parametrize("loss", [case.loss for case in INDEXED])
def test_class_weight_of_the_wrong_length(loss):
    if "weight" not in LOSSES[loss].function.__wrapped__.__annotations__:
        return
    for shape in ((4,), (6, 5), ()):
        with pytest.raises(ValueError, match=r"weight .*\(5,\)"):
            getattr(fl, loss)(np.ones((6, 5)), np.zeros(6, int), np.ones(shape))


@pytest.mark.parametrize(("case", "name"), FIRST, ids=[c.loss for c, _ in FIRST])
@pytest.mark.parametrize("dtype", ["complex128", "object", "int64", "bool", "longdouble", "datetime64[s]", "U3"])
def test_input_that_is_not_floating_point(case, name, dtype):
    arrays = case.make()
    arrays[name] = np.zeros(arrays[name].shape).astype(dtype)
    refuses(TypeError, name, case, arrays)


@pytest.mark.parametrize("case", typical(INDEXED))
@pytest.mark.parametrize("dtype", ["float64", "complex128", "bool", "object"])
def test_class_indices_that_are_no_integers(case, dtype):
    arrays = case.make()
    arrays["target"] = arrays["target"].astype(dtype)
    if dtype == "bool":
        # Read as 0 and 1, or refused: both are safe. A NumPy bool array is read as uint8.
        assert np.isfinite(case.call(arrays))
        return
    refuses(TypeError, "target", case, arrays)


@pytest.mark.parametrize("nothing", [None, "abc", object(), {"a": 1}, 1j, [[1.0], [1.0, 2.0]]])
@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_what_is_no_array(case, nothing):
    """Any argument: None, too, but where it stands for an array that is left out."""
    for name in case.arrays:
        optional = inspect.signature(case.function).parameters[name].default is None
        if nothing is not None or not optional:
            with pytest.raises(TypeError, match=rf"\b{name}\b"):
                case.call({**case.make(), name: nothing})


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_array_for_an_option(case):
    for name, domain in case.record.options.items():
        if name not in ("weight", "dim"):
            options = {**case.options, name: np.ones(2)}
            with pytest.raises((TypeError, ValueError), match=rf"{name} must be {re.escape(domain.text[:10])}"):
                case._replace(options=options).call(case.make())


def test_scores_that_are_integers():
    x = np.ones(3)
    with pytest.raises(TypeError, match=r"input2 .*int64"):
        fl.margin_ranking_loss(x, x.astype(int), x)


def test_what_is_no_size():
    for option, wrong in (("in_features", "a"), ("n_classes", 2.5), ("head_bias", 3), ("cutoffs", "a")):
        sizes = {"in_features": 4, "n_classes": 6, "cutoffs": [2], option: wrong}
        with pytest.raises((TypeError, ValueError), match=option):
            fl.AdaptiveLogSoftmaxWithLoss(**sizes)
    for option, wrong in (("in_features", "a"), ("num_classes", -1), ("bias", 3), ("options", 3)):
        with pytest.raises((TypeError, ValueError), match=option):
            fl.LinearCrossEntropyLoss(**{"in_features": 4, "num_classes": 6, option: wrong})
    adaptive = fl.AdaptiveLogSoftmaxWithLoss(4, 6, [2])
    for arrays, name in (((None, np.zeros(2, int)), "input"), ((np.ones((2, 4), np.float32), None), "target")):
        with pytest.raises(TypeError, match=name):
            adaptive(*arrays)


# -- class indices ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [5, -1, 2**40, -(2**40), -(2**63)])
@pytest.mark.parametrize("case", typical(INDEXED))
def test_class_index_out_of_range(case, wrong):
    arrays = case.make()
    arrays["target"][4] = wrong
    arrays["target"][5] = 99
    refuses(IndexError, rf"{wrong} .*\(4,\).* 5 classes", case, arrays)


@pytest.mark.parametrize(
    ("real", "label"), [(np.float64, np.int64), pytest.param(np.float32, np.int32, marks=pytest.mark.slow)]
)
def test_class_index_out_of_range_names_its_place_among_many(real, label):
    x, y = np.zeros((50, 3, 20, 10)), np.zeros((50, 20, 10), label)
    y[33, 7, 2] = 3
    y[40] = 8
    with pytest.raises(IndexError, match=r"3 .*\(33, 7, 2\)"):
        fl.cross_entropy(x, y)
    x, y = np.zeros((300_000, 3), real), np.zeros(300_000, np.uint8)
    y[[290_001, 290_000]] = 200, 7
    with pytest.raises(IndexError, match=r"7 .*\(290000,\)"):
        fl.cross_entropy(x, y)


def test_largest_unsigned_index_is_out_of_range():
    """2**64 - 1 is not -1, and is not taken for an ignore_index of -1."""
    y = np.array([2**64 - 1, 0], np.uint64)
    with pytest.raises(IndexError):
        fl.nll_loss(np.zeros((2, 3)), y)
    with pytest.raises(IndexError):
        fl.nll_loss(np.zeros((2, 3)), y, ignore_index=-1)


def test_ignore_index_inside_and_outside_the_classes():
    x = np.random.default_rng(0).normal(size=(3, 4))
    for ignored in (0, 3, 4, -1, 10**12, -(2**62)):
        y = np.array([1, ignored, 2])
        value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y, ignore_index=ignored)
        np.testing.assert_allclose(value, fl.cross_entropy(x[[0, 2]], y[[0, 2]]))
        assert (gradient[1] == 0).all()


@pytest.mark.parametrize("case", typical(INDEXED))
def test_unchecked_index_gives_nan_in_its_row(case):
    arrays = case.make()
    good = case.value_and_grad(arrays, reduction="none")
    arrays["target"][[1, 4]] = [5, -(2**50)]
    with fl.config(check_indices=False):
        value, gradient = case.value_and_grad(arrays, reduction="none")
        assert np.isnan(case.call(arrays, reduction="sum"))
    bad = np.array([False, True, False, False, True, False])
    assert np.isnan(value[bad]).all()
    # A gradient that is zero but for the target's entry has nowhere else to show it.
    shown = gradient[bad] if case.loss != "nll_loss" else gradient[bad][:, :0]
    assert np.isnan(shown).all()
    np.testing.assert_array_equal(value[~bad], good[0][~bad])
    np.testing.assert_array_equal(gradient[~bad], good[1][~bad])


# -- outputs and upstream --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "name"), FIRST, ids=[c.loss for c, _ in FIRST])
def test_grad_out_that_does_not_fit(case, name):
    arrays = case.make()
    shape = arrays[name].shape
    gradient = fl.grad(case.function, name)
    read_only = np.zeros(shape)
    read_only.flags.writeable = False
    for target, error in (
        (np.zeros((*shape, 1)), ValueError),
        (np.zeros(shape, np.float32), TypeError),
        (read_only, ValueError),
        (np.zeros(shape).tolist(), TypeError),
    ):
        with pytest.raises(error, match="grad_out"):
            gradient(**arrays, **case.options, grad_out=target)


@pytest.mark.parametrize("name", ["grad_out", "out"])
def test_output_that_could_only_be_written_as_a_copy(name):
    """Swapped bytes, elements off their boundary: a copy would be written, and the array left as it was."""
    x = np.ones(3, np.float32)
    swapped, packed = np.zeros(3, ">f4"), np.zeros(3, dtype=[("b", "i1"), ("g", "<f4")])["g"]
    for wrong in (swapped, packed):
        with pytest.raises(ValueError, match=rf"{name} must be aligned and in the machine's byte order"):
            fl.value_and_grad(fl.mse_loss)(x, 2 * x, reduction="none", **{name: wrong})
    torch = pytest.importorskip("torch")
    negated = torch._neg_view(torch.ones(3))
    with pytest.raises(ValueError, match=f"{name} is a negated view"):
        fl.value_and_grad(fl.mse_loss)(torch.ones(3), torch.zeros(3), reduction="none", **{name: negated})


@pytest.mark.parametrize("name", ["input", "target"])
def test_masked_arrays(name):
    """Masked elements would count."""
    arrays = {"input": np.ones(3), "target": np.zeros(3)}
    arrays[name] = np.ma.array(arrays[name], mask=[0, 0, 1])
    with pytest.raises(TypeError, match=f"{name} is a masked array"):
        fl.mse_loss(**arrays)


def test_tensors_that_numpy_cannot_read():
    torch = pytest.importorskip("torch")
    dense = torch.ones(3)
    with pytest.raises(TypeError, match=r"input: .* layout torch.sparse_coo .*to_dense"):
        fl.mse_loss(dense.to_sparse(), dense)
    assert fl.mse_loss(torch._neg_view(dense), dense) == 4
    with pytest.raises(TypeError, match="dtype must be one of torch's"):
        fl.softmax(dense, 0, dtype=np.float64)


def test_number_of_arrays_in_grad_out():
    x = np.ones(3)
    with pytest.raises(ValueError, match=r"grad_out .*2 .*3"):
        fl.grad(fl.mse_loss, ("input", "target"))(x, x, grad_out=(x.copy(), x.copy(), x.copy()))
    for several in ((x.copy(), x.copy()), (x.copy(),), [x.copy()]):
        with pytest.raises(TypeError, match="grad_out must be an array"):
            fl.grad_and_hess(fl.mse_loss)(x, x, grad_out=several)


def test_grad_out_that_overlaps_an_argument():
    memory = np.arange(12.0)
    with pytest.raises(ValueError, match="overlaps"):
        fl.grad(fl.mse_loss)(memory[:8], np.zeros(8), grad_out=memory[1:9])
    with pytest.raises(ValueError, match="overlaps"):
        fl.grad(fl.mse_loss)(memory[:8], np.zeros(8), grad_out=memory[:8][::-1])
    np.testing.assert_array_equal(memory, np.arange(12.0))


def squared(a, b):
    return ((a - b) ** 2).sum(-1)


def squared_vjp(a, b, upstream):
    d = 2 * (a - b) * upstream[:, None]
    return d, -d


TRIPLET = fl.triplet_margin_with_distance_loss
OWN = {"distance_function": squared, "distance_vjp": squared_vjp}


@pytest.mark.filterwarnings("ignore:shapes differ")
@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize(
    "make",
    [
        lambda f: f(fl.grad(fl.mse_loss), "x", "x[:1]", grad_out="x"),
        lambda f: f(fl.grad(fl.gaussian_nll_loss, "input"), "x", "z", "x[:, :1]", grad_out="x"),
        lambda f: f(fl.grad(fl.binary_cross_entropy_with_logits), "x", "z", pos_weight="x[:1]", grad_out="x"),
        lambda f: f(fl.grad(fl.mse_loss), "x", "z", weight="g[1:]", grad_out="g[:-1]"),
        lambda f: f(fl.grad(fl.cross_entropy), "x", "y", weight="x[0]", grad_out="x"),
        lambda f: f(fl.grad(fl.cross_entropy), "x", "y", grad_out="over_y"),
        lambda f: f(fl.value_and_grad(fl.cross_entropy), "x", "y", reduction="none", grad_output="h", out="h"),
        lambda f: f(fl.grad(fl.mse_loss), "x", "z", reduction="none", grad_output="g[1:]", grad_out="g[:-1]"),
        lambda f: f(fl.grad(fl.softmax), "x", 1, grad_output="g[1:]", grad_out="g[:-1]"),
        lambda f: f(fl.grad(fl.mse_loss), "same", "z", grad_out="same"),
        lambda f: f(fl.value_and_grad(fl.mse_loss), "x", "z", reduction="none", out="same"),
        lambda f: f(fl.grad(fl.l2_penalty), ["x", "z"], 0.3, grad_out=["z", "x"]),
        lambda f: f(fl.grad(fl.l1_penalty), ["x", "z"], 0.3, grad_out=["g[1:]", "g[1:]"]),
        lambda f: f(fl.grad(TRIPLET), "x", "z", "g[1:]", grad_out=("o", "o", "o"), **OWN),
        lambda f: f(fl.value_and_grad(TRIPLET), "x", "z", "g[1:]", reduction="none", out="x[:, 0]", **OWN),
    ],
)
def test_outputs_over_what_is_read(make, library):
    """Written first and read later: refused, and nothing is written."""
    base = {"x": np.linspace(0.1, 2, 5000).reshape(1000, 5), "z": np.ones((1000, 5)), "h": np.linspace(0, 1, 1000)}
    base |= {"g": np.linspace(-1, 1, 5005).reshape(1001, 5), "o": np.zeros((1000, 5))}
    y = np.arange(6000) % 5
    base |= {"y": y[:1000], "over_y": y[:5000].view(np.float64).reshape(1000, 5)}
    if library == "torch":
        torch = pytest.importorskip("torch")
        base = {name: torch.from_numpy(array) for name, array in base.items()}
        base["same"] = torch.ones(5, dtype=torch.float64).expand(1000, 5)
    else:
        base["same"] = np.lib.stride_tricks.as_strided(np.ones(5), (1000, 5), (0, 8))
    before = {name: np.from_dlpack(array).copy() for name, array in base.items()}

    def spelled(spec):
        if isinstance(spec, list | tuple):
            return type(spec)(map(spelled, spec))
        return eval(spec, {}, base) if isinstance(spec, str) and spec not in ("none",) else spec

    def call(function, *args, **options):
        function(*map(spelled, args), **{name: spelled(spec) for name, spec in options.items()})

    with pytest.raises(ValueError, match=r"overlaps|share memory"):
        make(call)
    for name, array in base.items():
        np.testing.assert_array_equal(np.from_dlpack(array), before[name], err_msg=name)


def test_outputs_that_overlap():
    x, once = np.ones(3), np.full(3, 7.0)
    with pytest.raises(ValueError, match="grad_out overlaps"):
        fl.grad(fl.mse_loss, ("input", "target"))(x, x, grad_out=(once, once))
    with pytest.raises(ValueError, match="out overlaps"):
        fl.value_and_grad(fl.mse_loss)(x, x, reduction="none", grad_out=once, out=once)
    for wrong in (once, 3):
        with pytest.raises(TypeError, match="grad_out must be a tuple"):
            fl.grad(fl.mse_loss, ("input", "target"))(x, x, grad_out=wrong)
    assert (once == 7).all()


def test_out_with_a_reduction():
    with pytest.raises(ValueError, match="out"):
        fl.value_and_grad(fl.mse_loss)(np.ones(3), np.ones(3), out=np.ones(3))
    with pytest.raises(ValueError, match=r"out .*\(3,\).*\(4,\)"):
        fl.value_and_grad(fl.mse_loss)(np.ones(3), np.ones(3), reduction="none", out=np.ones(4))


def test_upstream_that_does_not_fit():
    x = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"grad_output .*\(2, 3\)"):
        fl.grad(fl.mse_loss)(x, x, grad_output=np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"grad_output .*\(2, 3\).*\(3,\)"):
        fl.grad(fl.mse_loss)(x, x, reduction="none", grad_output=np.ones(3))
    with pytest.raises(TypeError, match="grad_output"):
        fl.grad(fl.mse_loss)(x, x, reduction="none", grad_output=np.ones((2, 3), complex))


# -- transforms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", [fl.grad, fl.value_and_grad, fl.grad_and_hess], ids=lambda t: t.__name__)
@pytest.mark.parametrize("wrong", [np.sin, "mse_loss", None, 3, object(), fl.config, len])
def test_transform_of_what_is_no_loss(transform, wrong):
    with pytest.raises(TypeError, match="loss"):
        transform(wrong)


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_unknown_wrt(case):
    for wrt in ("speed", ("input", "speed")):
        said = f"'speed' is no argument of {case.loss}|{case.loss} .*'input'|'input' is no .*{case.loss}"
        with pytest.raises(ValueError, match=said):
            fl.grad(case.function, wrt)


@pytest.mark.parametrize("wrt", [0, {"input"}, [["input"]], ("input", 1)])
def test_wrt_that_is_no_name(wrt):
    x = np.ones(3)
    layer = fl.LinearCrossEntropyLoss(3, 4)
    for call in (
        lambda: fl.grad(fl.mse_loss, wrt),
        lambda: fl.grad(fl.MSELoss(), wrt),
        lambda: fl.MSELoss().grad(x, x, wrt=wrt),
        lambda: layer.grad(x, np.array(1), wrt=wrt),
    ):
        with pytest.raises(TypeError, match=rf"wrt must be the name of an argument .*, got {re.escape(repr(wrt))}"):
            call()


def test_transform_of_a_class():
    with pytest.raises(TypeError, match="got the class MSELoss: call it first"):
        fl.grad(fl.MSELoss)


def test_no_argument_to_differentiate():
    with pytest.raises(ValueError, match="wrt"):
        fl.grad(fl.mse_loss, ())


@pytest.mark.parametrize("case", INDEXED, ids=str)
def test_class_indices_have_no_gradient(case):
    with pytest.raises(ValueError, match="target"):
        fl.grad(case.function, "target")(**case.make(), **case.options)


def test_argument_without_a_gradient_because_it_is_absent():
    with pytest.raises(ValueError, match="weight"):
        fl.grad(fl.mse_loss, "weight")(np.ones(2), np.ones(2))


# -- special rules ---------------------------------------------------------------------------------------------------


def test_rules_of_cross_entropy():
    x = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"target .*\(2,\).*\(2, 2\)"):
        fl.cross_entropy(x, np.zeros((2, 2), int))
    with pytest.raises(ValueError, match=r"ignore_index .*1"):
        fl.cross_entropy(x, np.full((2, 3), 1 / 3), ignore_index=1)
    with pytest.raises(TypeError, match="target"):
        fl.cross_entropy(x, np.zeros((2, 3), int))
    with pytest.raises(ValueError, match=r"\(2, 0\)"):
        fl.cross_entropy(np.zeros((2, 0)), np.zeros(2, int))
    with pytest.raises(ValueError, match=r"\(\)"):
        fl.cross_entropy(np.float64(1), np.int64(0))
    np.testing.assert_allclose(fl.cross_entropy(np.zeros(3), np.array([1])), np.log(3))


def test_the_power_of_a_hinge_may_be_an_array_without_axes():
    x, y = np.array([[0.1, 0.2, 0.4]]), np.array([1])
    assert fl.multi_margin_loss(x, y, p=np.array(2)) == fl.multi_margin_loss(x, y, p=2)


def test_rules_of_multi_margin_loss():
    with pytest.raises(ValueError, match=r"\(2, 3, 4\)"):
        fl.multi_margin_loss(np.zeros((2, 3, 4)), np.zeros((2, 4), int))


def test_rules_of_vectors():
    v = np.ones((4, 3))
    with pytest.raises(ValueError, match=r"positive \(3,\)"):
        fl.triplet_margin_loss(v, np.ones(3), v)
    with pytest.raises(ValueError, match=r"target .*\(4,\).*\(4, 1\)"):
        fl.cosine_embedding_loss(v, v, np.ones((4, 1)))


@pytest.mark.parametrize("loss", ["softmax", "log_softmax", "logsumexp"])
def test_axis_out_of_range(loss):
    for dim in (2, -3):
        with pytest.raises(ValueError, match=f"dim {dim}"):
            getattr(fl, loss)(np.ones((2, 3)), dim=dim)
    for dim in (0.5, "a", *([None] if loss == "logsumexp" else [(0, 1)])):
        with pytest.raises(TypeError, match="dim must be"):
            getattr(fl, loss)(np.ones((2, 3)), dim=dim)


def test_axes_of_logsumexp():
    x = np.arange(6.0).reshape(1, 2, 3)
    np.testing.assert_allclose(fl.logsumexp(x, ()), fl.logsumexp(x, (0, 1, 2)))
    for dim in ((0, 2), (1, 1), (1, -2)):
        with pytest.raises(ValueError, match="dim must name"):
            fl.logsumexp(x, dim)


# -- devices ---------------------------------------------------------------------------------------------------------


class DeviceArray:
    """What a CuPy array looks like from outside; touching its memory would fail."""

    def __init__(self, shape, dtype):
        self.shape, self.dtype, self.device = shape, dtype, types.SimpleNamespace(id=0)

    @property
    def __cuda_array_interface__(self):
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (0xDEAD0000, False), "version": 3}

    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, **_):
        raise AssertionError("the memory of a device must not be asked for")

    def __array__(self, *_, **__):
        raise AssertionError("the memory of a device must not be asked for")


@pytest.fixture
def cupy(monkeypatch):
    """A stand-in for CuPy, as far as arrays are recognised: by a class of a module that is loaded."""
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    module = types.ModuleType("cupy")
    module.ndarray = DeviceArray
    monkeypatch.setitem(sys.modules, "cupy", module)


@pytest.mark.usefixtures("cupy")
@pytest.mark.parametrize("case", [c for c in PLAIN if len(c.arrays) > 1], ids=str)
def test_device_array_beside_a_host_array(case):
    """Both are named, and what to call."""
    first, *others = case.arrays
    for name in others:
        arrays = case.make()
        arrays[name] = DeviceArray(arrays[name].shape, arrays[name].dtype)
        refuses(TypeError, rf"{first} is .*CPU and {name} is .*cuda:0.*{name}\.get\(\)", case, arrays)
    arrays = case.make()
    arrays[first] = DeviceArray(arrays[first].shape, arrays[first].dtype)
    refuses(TypeError, rf"{first} is .*cuda:0 and .* is .*CPU.*cupy\.asarray", case, arrays)


def test_a_gradient_that_the_maths_does_not_return():
    """It would be memory that nobody has written."""

    @maths
    def error(x, t):
        return x - t, (type(x)(1),), type(x)(0)

    def describe(input, target):
        return Elementwise(error, (input, target))

    record = dataclasses.replace(LOSSES["mse_loss"], describe=describe)

    def call(wrt):
        request = Request(Mode(True, wrt, False))
        return Call(record, request, {}).run((np.ones(3), np.zeros(3)), {}, request)

    assert call(("input",))[0] == 1
    with pytest.raises(TypeError, match="a gradient is asked for that the maths does not return: it returns 1"):
        call(("input", "target"))


def test_errors_of_config():
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="num_threads"):
            fl.config(num_threads=wrong)
    for wrong in ("2", 1.5, True):
        with pytest.raises(TypeError, match="num_threads"):
            fl.config(num_threads=wrong)
    with pytest.raises(TypeError, match="check_indices"):
        fl.config(check_indices=1)


@pytest.mark.filterwarnings("ignore::fastloss.AutogradWarning")
def test_tensors_that_dlpack_refuses_beside_a_numpy_input():
    torch = pytest.importorskip("torch")
    x, t = np.zeros(3), torch.full((3,), 2.0, requires_grad=True)
    assert fl.mse_loss(x, t) == fl.mse_loss(x, t.bfloat16()) == 4
    assert fl.mse_loss([0.0, 0.0, 0.0], t) == 4
    logits, labels = np.ones((2, 3)), np.array([0, 1])
    assert fl.cross_entropy(logits, labels, t) == fl.cross_entropy(logits, labels)
    np.testing.assert_array_equal(fl.grad(fl.mse_loss)(x, x + 3, reduction="none", grad_output=t), [-12.0] * 3)
    with pytest.raises(TypeError, match=r"target: .*\.to_dense\(\)"):
        fl.mse_loss(x, t.detach().to_sparse())


class Unreadable:
    """An array of a library whose DLPack has a dtype that NumPy's lacks, as JAX has for bfloat16."""

    dtype, shape = "bfloat16", (3,)

    def __dlpack_device__(self):
        return 1, 0

    def __dlpack__(self, **options):
        raise RuntimeError("Unsupported dtype in DLTensor")

    __array__ = __dlpack__


def test_array_that_dlpack_does_not_bring_to_numpy():
    with pytest.raises(TypeError, match="target: NumPy cannot read this Unreadable of dtype bfloat16"):
        fl.mse_loss(np.ones(3), Unreadable())


def test_bfloat16_for_a_library_that_does_not_import_it():
    import ml_dtypes

    library = DlpackLibrary(np)
    assert library.converted(np.ones(3), np.float16).dtype == np.float16
    with pytest.raises(TypeError, match="dtype bfloat16 is not supported for arrays of numpy"):
        library.converted(np.ones(3), ml_dtypes.bfloat16)


@pytest.mark.parametrize(
    "label", [np.array(2**53 + 1), np.array(-(2**63) + 1), np.array(2**64 - 1, np.uint64), np.array(200, np.uint8)]
)
def test_label_out_of_range_is_shown_exactly(label):
    labels = np.zeros(4, label.dtype)
    labels[1] = label
    with pytest.raises(IndexError, match=rf"target {label} at position \(1,\)"):
        fl.cross_entropy(np.ones((4, 3)), labels)


def test_empty_lists_are_labels_too():
    x = np.zeros((0, 3))
    assert fl.cross_entropy(x, [], reduction="sum") == 0
    assert fl.grad(fl.cross_entropy)(x, []).shape == (0, 3)
    found, expected = (fl.ctc_loss(np.zeros((3, 2, 4)), none, [3, 3], [0, 0]) for none in ([], np.zeros(0, int)))
    assert found == expected
