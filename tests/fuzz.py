"""Random calls of every loss, and what must hold of each: a right result, or an exception of the contract.

``calls()`` draws what a call is made of as plain data: the loss, its options, and shape, layout, dtype and kind of
numbers of each array, so that a failure prints as something that can be called again. ``check`` makes the call. The
tests draw a thousand, ``python tests/fuzz.py --cases 100000`` many; with ``NUMBA_BOUNDSCHECK=1`` kernels also check
their indices, and are then compiled anew.
"""

import argparse
import collections
import faulthandler
import inspect
import math
import os
import sys
import tempfile
import time
import warnings
import zlib
from typing import Any, NamedTuple

if os.environ.get("NUMBA_BOUNDSCHECK", "0") != "0":
    os.environ["FASTLOSS_CACHE"] = "0"  # a kernel that was cached without checks would be found again

import hypothesis
import numpy as np
import reference
from cases import ACTIVE, DTYPES, KINDS, LOSSES, Case, assert_close
from hypothesis import strategies as st
from layouts import apart, backwards, filler, misaligned, read_only, swapped
from numpy.lib.stride_tricks import as_strided

import fastloss as fl

CONTRACT = (ValueError, TypeError, IndexError)
HANGS_AFTER = 300  # seconds: kernels take up to 20 to compile on an idle machine


class Array(NamedTuple):
    """What an array is made of: a layout of LAYOUTS, and what takes the place of its numbers, shape or dtype."""

    layout: str = "plain"
    wild: tuple[Any, ...] = ()
    dtype: Any = None
    shape: str = "right"
    lie: str | None = None


class Drawn(NamedTuple):
    """What a call is made of."""

    case: Case
    seed: int
    dtype: str = "float64"
    mode: str = "value"
    arrays: dict[str, Array] = {}  # noqa: RUF012 (a field of a tuple, never written)
    options: dict[str, Any] = {}  # noqa: RUF012
    sample_weight: tuple[int, Array] | None = None
    grad_output: Any = None
    out: str | None = None
    grad_out: str | None = None


# -- layouts ---------------------------------------------------------------------------------------------------------


def _mapped(a):
    if a.dtype.kind not in "fiu" or not a.size:
        return a
    with tempfile.TemporaryFile() as file:
        file.write(np.ascontiguousarray(a).tobytes())
        file.flush()
        return np.memmap(file, a.dtype, "r", shape=a.shape)


def _repeated(a):
    return np.broadcast_to(a[:1].copy(), a.shape) if a.ndim and len(a) else a


def _windows(a):
    if not a.size:
        return a
    flat = np.array(a).ravel()[: 1 + sum(n - 1 for n in a.shape)]
    return as_strided(flat, a.shape, (a.itemsize,) * a.ndim)


LAYOUTS = {
    "plain": np.array,
    "fortran": lambda a: np.array(a, order="F"),
    "transposed": lambda a: np.array(a.T, order="C").T,
    "apart": apart,
    "backwards": backwards,
    "read-only": read_only,
    "misaligned": misaligned,
    "swapped": swapped,
    "mapped": _mapped,
    "repeated": _repeated,
    "windows": _windows,
}
RESULTS = ("plain", "fortran", "apart", "backwards", "read-only", "misaligned", "swapped", "repeated", "windows")
ODD_RESULTS = ("longer", "integers", "list", "input", "shifted", "other")


class Liar:
    """An object that tells something untrue of its memory."""

    def __init__(self, array, lie):
        self.array = array
        truth = {**array.__array_interface__, "strides": None}
        self.__array_interface__ = {**truth, **LIES[lie]}


# NumPy never looks at the version: all else being true, such an array is read.
HARMLESS = "version"


# What NumPy finds out. That a shape reaches past the memory nobody can see, as the size of that is told nowhere.
LIES = {
    "null": {"data": (0, False)},
    "negative": {"shape": (-3,)},
    "endless": {"shape": (2**62, 2**62)},
    "no shape": {"shape": "four"},
    "strides": {"shape": (2, 2), "strides": (8,)},
    "type": {"typestr": "<q9"},
    "name": {"typestr": 7},
    "version": {"version": 99},
}

# -- drawing ---------------------------------------------------------------------------------------------------------

LENGTHS = (0, 1, 2, 3, 4, 5, 7, 8, 16, 17, 33, 64, 110)
WILD = (
    math.nan,
    math.inf,
    -math.inf,
    0.0,
    -0.0,
    1.0,
    -1.0,
    "tiny",
    "-tiny",
    "least",
    "max",
    "-max",
    "eps",
    100.0,
    -745.0,
)
WILD_LABELS = (-1, -2, -100, "classes", "last", "least", "most", 0, 1)
LABEL_DTYPES = ("int8", "uint8", "int16", "int32", "uint32", "int64", "uint64")
WRONG_DTYPES = ("int64", "bool", "complex128", "object", "U3", "longdouble", "M8[s]", "V8")
ODD_OPTIONS = (
    *(
        None,
        "a",
        b"x",
        "",
        math.nan,
        math.inf,
        -math.inf,
        -1,
        0,
        1,
        2,
        0.5,
        1.5,
        True,
        10**30,
        10**400,
        2**63,
        -(2**63),
    ),
    *(1e-320, 1e308, 1j, (), [], (1,), {}, np.float32(0.5), np.int8(1)),
    *(np.array(1.0), np.array([1.0, 2.0]), np.array("a"), np.array([], int), np.nan, np.str_("sum"), Ellipsis, len),
)


def rarely(strategy, otherwise, of=6):
    """Return a strategy that is another one once in `of` times."""
    return st.integers(0, of - 1).flatmap(lambda n: otherwise if n else strategy)


@st.composite
def arrays_of(draw, labels):
    layout = draw(st.sampled_from(tuple(LAYOUTS)))
    wild = draw(
        rarely(st.lists(st.sampled_from(WILD_LABELS if labels else WILD), min_size=1, max_size=4), st.just([]), 3)
    )
    kinds = rarely(st.sampled_from(WRONG_DTYPES), st.sampled_from(LABEL_DTYPES) if labels else st.none(), 40)
    shape = draw(rarely(st.sampled_from(("longer", "shorter", "more", "fewer")), st.just("right"), 40))
    lie = draw(rarely(st.sampled_from(tuple(LIES)), st.none(), 60))
    return Array(layout, tuple(wild), draw(kinds), shape, lie)


@st.composite
def calls(draw, losses=None, dtypes=("float64", "float32", "float16"), lengths=LENGTHS):
    """Draw a call: see the module."""
    case = draw(st.sampled_from([case for case in ACTIVE if losses is None or case.loss in losses]))
    record = case.record
    if case.loss != "ctc_loss":
        found = sorted({n for spec in case.arrays.values() for n in _shape(spec)})
        others = {n: draw(st.sampled_from(lengths)) for n in found} if draw(st.booleans()) else {}
        case = case._replace(arrays={name: _resized(spec, others) for name, spec in case.arrays.items()})
    modes = ["value", "value_and_grad", "grad"] + ["grad_and_hess"] * (record.hessian is not None)
    arrays = {name: draw(arrays_of(_kind(case, name) in ("class", "class_list", "index"))) for name in case.arrays}
    options = dict(case.options)
    for name, domain in record.options.items():
        if name == "reduction":
            options[name] = draw(st.sampled_from(domain.examples))
    names = inspect.signature(case.function).parameters
    if record.options:
        odd = st.tuples(st.sampled_from(sorted(record.options)), st.sampled_from(ODD_OPTIONS))
        options.update(draw(rarely(odd.map(lambda pair: [pair]), st.just([]), 10)))
    if "axis" in names:
        options.update(
            draw(rarely(st.sampled_from((0, 1, -1, 2, -9, "x", 1.0)).map(lambda v: {"axis": v}), st.just({}), 8))
        )
    if "divisor" in names:
        numbers = st.sampled_from(
            (1, 3.0, 0, -2, math.nan, math.inf, "n", np.float32(2), np.array(4.0), np.array([1.0]), 10**400)
        )
        options.update(draw(rarely(numbers.map(lambda v: {"reduction": "mean", "divisor": v}), st.just({}), 8)))
    weight = st.tuples(st.integers(-1, 3), arrays_of(False)) if "sample_weight" in names else st.none()
    grad_outputs = st.sampled_from(
        (2.0, 0.0, math.nan, "array", "longer", "x", 1j, np.float32(3), np.array([1.0, 2.0]))
    )
    results = rarely(st.sampled_from(RESULTS + ODD_RESULTS), st.none(), 4)
    return Drawn(
        case,
        draw(st.integers(0, 2**20)),
        draw(st.sampled_from(dtypes)),
        draw(st.sampled_from(modes)),
        arrays,
        options,
        draw(rarely(weight, st.none(), 4)),
        draw(rarely(grad_outputs, st.none(), 6)),
        draw(results),
        draw(results),
    )


def _shape(spec):
    return spec[1] if spec and isinstance(spec[0], str) else spec


def _kind(case, name):
    spec = case.arrays[name]
    return spec[0] if spec and isinstance(spec[0], str) else case.record.domains.get(name, "real")


def _resized(spec, others):
    shape = tuple(others.get(n, n) for n in _shape(spec))
    return (spec[0], shape) if spec and isinstance(spec[0], str) else shape


# -- making ----------------------------------------------------------------------------------------------------------


class Made(NamedTuple):
    """The arguments of a call, as they are drawn (`given`) and as plain copies, and the memory that is the user's."""

    given: dict[str, Any]
    plain: dict[str, Any]
    owned: list[Any]


def make(drawn):
    """Return the arrays of a call; the same whenever it is asked."""
    case, rng = drawn.case, np.random.default_rng(zlib.crc32(repr((drawn.seed, drawn.case.loss)).encode()))
    made, given, plain, owned = {}, {}, {}, []
    for name in case.arrays:
        kind, shape = _kind(case, name), _shape(case.arrays[name])
        made[name] = a = _numbers(kind, shape, made, case, rng).astype(DTYPES[drawn.dtype], copy=False)
        _lay(name, a, drawn.arrays.get(name, Array()), rng, (given, plain, owned), made)
    if drawn.sample_weight is not None:
        axes, how = drawn.sample_weight
        first = next(iter(made.values()))
        shape = first.shape[:axes] if axes >= 0 else first.shape
        _lay("sample_weight", rng.uniform(0.0, 2.0, shape), how, rng, (given, plain, owned), made)
    return Made(given, plain, owned)


def _numbers(kind, shape, made, case, rng):
    with np.errstate(all="ignore"):
        empty = not math.prod(shape) or (kind == "class" and 0 in made["input"].shape)
        a = np.zeros(shape) if empty else np.asarray(KINDS[kind](rng, shape, made, case.options))
    return _Integers(a.astype(np.int64)) if kind in ("class", "class_list", "index") else a


class _Integers(np.ndarray):
    """Labels, which do not take the dtype of the input."""

    def __new__(cls, a):
        return np.asarray(a).view(cls)

    def astype(self, dtype, **options):
        return self.view(np.ndarray)


def _lay(name, a, how, rng, into, made):
    given, plain, owned = into
    a = _of_shape(a, how.shape)
    if how.dtype is not None:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            a = (
                a.astype("M8[s]" if how.dtype == "M8[s]" else how.dtype)
                if how.dtype != "V8"
                else np.zeros(a.shape, "V8")
            )
    a = np.array(a)
    for wild in how.wild:
        if (a.size and a.dtype.kind in "fiu") or a.dtype == DTYPES["bfloat16"]:
            a.reshape(-1)[rng.integers(a.size)] = _wild(wild, a.dtype, made)
    laid = a if a.dtype.hasobject else LAYOUTS[how.layout](a)
    owned.append(_base(laid))
    plain[name] = np.array(laid.astype(laid.dtype.newbyteorder("=")), order="C", subok=False)
    if how.lie is not None and a.size and a.dtype.kind in "fiu":
        given[name] = Liar(plain[name], how.lie)
        plain[name] = plain[name] if how.lie == HARMLESS else None
    else:
        given[name] = laid


def _of_shape(a, shape):
    if shape == "longer" and a.ndim:
        return np.concatenate([a, a[-1:]])
    if shape == "shorter":
        return a[1:] if a.ndim else a
    if shape == "more":
        return a[None]
    return a.reshape(-1) if shape == "fewer" else a


def _wild(wild, dtype, made):
    if dtype.kind in "iu":
        info, shape = np.iinfo(dtype), next(iter(made.values())).shape
        classes = shape[0 if len(shape) == 1 else 1] if shape else 1
        named = {"classes": classes, "last": classes - 1, "least": info.min, "most": info.max}
        number = named.get(wild, wild)
        return number if isinstance(number, int) and info.min <= number <= info.max else 0
    info = np.finfo(dtype)
    named = {"tiny": info.smallest_normal, "least": info.smallest_subnormal, "max": info.max, "eps": info.eps}
    if isinstance(wild, str):
        return -named[wild[1:]] if wild[0] == "-" else named.get(wild, info.max)  # a label among real numbers
    return wild


def _base(a):
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a


def _result(kind, like, inputs, others, owned):
    """Return an array to be written that has the shape and dtype of `like`, or the place of an input."""
    a = np.full(like.shape, filler(like.dtype))
    if kind == "input":
        return next(iter(inputs.values()))
    if kind == "other":
        return others[0] if others else a
    if kind == "shifted":
        first = next(iter(inputs.values()))
        base = _base(first) if isinstance(first, np.ndarray) else a
        return base[..., ::-1] if base.ndim else base
    if kind == "list":
        return a.tolist()
    if kind == "longer":
        a = np.full((*like.shape, 2), filler(like.dtype))
    elif kind == "integers":
        a = np.zeros(like.shape, np.int64)
    elif kind == "windows" and like.size:
        a = as_strided(np.zeros(sum(like.shape) + 1, like.dtype), like.shape, (like.itemsize,) * like.ndim)
    elif kind == "repeated":
        a = as_strided(np.zeros(1, like.dtype), like.shape, (0,) * like.ndim)
    else:
        a = LAYOUTS[kind](a)
    owned.append(_base(a))
    return a


# -- calling ---------------------------------------------------------------------------------------------------------


def check(drawn):
    """Make a call in the ways that must agree; return the name of the exception that it raises, or ``result``."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        # NumPy's of numbers, which come with its matrix products where these overflow.
        warnings.filterwarnings("ignore", ".* encountered in ", RuntimeWarning)
        warnings.simplefilter("ignore", UserWarning)
        return _check(drawn)


def _check(drawn):
    made = make(drawn)
    lies = any(a is None for a in made.plain.values())
    expected = None if lies else _outcome(drawn, made.plain, {})
    extra = {}
    if drawn.grad_output is not None and drawn.mode != "value":
        found = [] if expected is None else _leaves(expected)
        extra["grad_output"] = _upstream(drawn, np.shape(found[0]) if found else ())
        expected = None if lies else _outcome(drawn, make(drawn).plain, extra)
    results = [_laid(drawn, extra, expected, pattern) for pattern in (0x00, 0xC5, 0x3F)]
    first = results[0]
    for other in results[1:]:
        _same(first, other, "called again")
    if lies:
        assert isinstance(first, Exception), f"a lie was believed: {first!r}"
    if isinstance(first, Exception):
        return type(first).__name__
    if isinstance(expected, Exception):
        raise AssertionError(f"{expected!r} of plain copies, but a result of what is given: {first!r}")
    _close(first, expected, 8 if _is_reordered(drawn) else 0)
    _check_dtypes(drawn, made.plain, expected)
    _check_reference(drawn, made.plain, expected)
    return "result"


def _upstream(drawn, shape):
    kind = drawn.grad_output
    if isinstance(kind, str) and kind in ("array", "longer"):
        rng = np.random.default_rng(drawn.seed)
        return rng.normal(size=shape if kind == "array" else (*shape, 3)).astype(DTYPES[drawn.dtype])
    return kind


def _outcome(drawn, arrays, extra):
    """Return the result of a call, or the exception of the contract that it raises."""
    function = drawn.case.function
    if drawn.mode != "value":
        function = getattr(fl, drawn.mode)(function)
    try:
        return function(**arrays, **drawn.options, **extra)
    except CONTRACT as error:
        return error.with_traceback(None)


def _laid(drawn, extra, expected, pattern):
    """Return the outcome of the call as it is drawn, its arrays made anew, after a look at what it has written."""
    made = make(drawn)
    outputs, extra = {}, dict(extra)
    if drawn.mode != "value" and expected is not None and not isinstance(expected, Exception):
        parts = _leaves(expected)
        values = parts[:1] if drawn.mode == "value_and_grad" else []
        gradients = parts[len(values) :]
        if drawn.out is not None and values:
            outputs["out"] = _result(drawn.out, np.asarray(values[0]), made.given, [], made.owned)
            extra["out"] = outputs["out"]
        if drawn.grad_out is not None:
            others = [outputs["out"]] if "out" in outputs else []
            written = [_result(drawn.grad_out, np.asarray(g), made.given, others, made.owned) for g in gradients]
            outputs |= {f"grad_out{k}": a for k, a in enumerate(written)}
            single = not isinstance(expected[-1] if drawn.mode == "value_and_grad" else expected, tuple)
            extra["grad_out"] = written[0] if single else tuple(written)
    before = [a.tobytes() for a in made.owned]
    fills = {name: np.array(a) for name, a in outputs.items() if isinstance(a, np.ndarray)}
    _pollute(expected, pattern)
    outcome = _outcome(drawn, made.given, extra)
    kept = outcome if isinstance(outcome, Exception) else _copied(outcome)
    if not isinstance(outcome, Exception):
        for name, fill in reversed(fills.items()):
            outputs[name][...] = fill
    for a, old in zip(made.owned, before, strict=True):
        assert a.tobytes() == old, f"memory was written that is not the result's: {outcome!r}"
    return kept


def _copied(outcome):
    return tuple(map(_copied, outcome)) if isinstance(outcome, tuple) else np.array(outcome)


def _pollute(expected, pattern):
    """Leave a pattern in the memory that NumPy hands out next, so that what is not written differs between calls."""
    sizes = [np.asarray(a).nbytes for a in _leaves(expected)] if expected is not None else []
    held = [np.full(size, pattern, np.uint8) for size in sizes for _ in range(2)]
    del held


def _leaves(outcome):
    if isinstance(outcome, tuple):
        return [leaf for part in outcome for leaf in _leaves(part)]
    return [] if isinstance(outcome, Exception) else [outcome]


def _same(one, other, when):
    if isinstance(one, Exception) or isinstance(other, Exception):
        both = isinstance(one, Exception) and isinstance(other, Exception)  # of two mistakes either may be named
        assert both, f"{when}: {one!r}, then {other!r}"
        return
    for a, b in zip(_leaves(one), _leaves(other), strict=True):
        assert a.dtype == b.dtype, f"{when}: dtypes {a.dtype}, then {b.dtype}"
        np.testing.assert_array_equal(a, b, err_msg=when)


# Layouts in which weights are added up in another order, and in which rows may have another loop.
OF_WEIGHTS = ("fortran", "transposed", "apart", "backwards", "repeated", "windows")
OF_ROWS = ("fortran", "transposed", "windows")


def _is_reordered(drawn):
    """Return whether the layout may decide the order of a sum that results are divided by, or made of.

    Weights are added up as they lie. Rows of 64 classes and more have a loop of their own where their classes follow
    each other, though their axis is not the last one.
    """
    weights = [how for name, how in drawn.arrays.items() if name == "weight"]
    if drawn.sample_weight is not None:
        weights.append(drawn.sample_weight[1])
    first = next(iter(drawn.arrays.values()))
    rows = drawn.case.record.family in ("rowwise", "rowmap") and first.layout in OF_ROWS
    return rows or any(how.layout in OF_WEIGHTS for how in weights)


def _close(one, other, rounding):
    """Check that results have the same bits in any layout, but for a few units in the last place where those differ.

    A sum, which is added up in another order, is close.
    """
    for a, b in zip(_leaves(one), _leaves(other), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        if a.dtype != b.dtype:
            assert (a.dtype, b.dtype.itemsize) == (np.float32, 2), f"dtypes {a.dtype}, {b.dtype}"
            with np.errstate(over="ignore"):
                a = a.astype(b.dtype)
        if a.ndim:
            np.testing.assert_allclose(
                a, b, rtol=rounding * np.finfo(a.dtype).eps, atol=rounding * np.finfo(a.dtype).eps
            )
        else:
            np.testing.assert_allclose(a, b, rtol=8 * np.finfo(a.dtype).eps, atol=0)


def _check_dtypes(drawn, arrays, outcome):
    """The dtypes of the contract: a gradient has its argument's, values the input's or, reduced, at least float32."""
    first = next(iter(arrays.values())).dtype
    unreduced = drawn.options.get("reduction", "none") == "none"
    leaves = list(map(np.asarray, _leaves(outcome)))
    if drawn.mode in ("value", "value_and_grad") and not drawn.options.get("returns"):
        wanted = first if unreduced and drawn.options.get("dtype") is None else np.result_type(first, np.float32)
        assert leaves[0].dtype == wanted, f"the value has dtype {leaves[0].dtype}, not {wanted}"
        leaves = leaves[1:]
    for gradient in leaves:
        assert any(gradient.dtype == a.dtype and gradient.shape == a.shape for a in arrays.values()), (
            "no argument's gradient"
        )


def _check_reference(drawn, arrays, outcome):
    """Compare the value with the naive formula in float64, where all numbers are moderate."""
    case, options = drawn.case, dict(drawn.options)
    simple = all(not how.wild and how.shape == "right" for how in drawn.arrays.values())
    moderate = {k: case.options.get(k, v) for k, v in options.items() if k != "reduction"} == options_without(options)
    known = set(options) - {"reduction"} <= set(case.options)
    if (
        not (simple and moderate and known)
        or drawn.sample_weight is not None
        or drawn.mode not in ("value", "value_and_grad")
    ):
        return
    if not all(a.size for a in arrays.values()) or not hasattr(reference, case.loss) or case.loss in NO_REFERENCE:
        return
    wide = {name: a.astype(np.int64 if a.dtype.kind in "iub" else np.float64) for name, a in arrays.items()}
    expected = np.asarray(reference.reduced(case.loss, wide, options))
    value = np.asarray(_leaves(outcome)[0])
    assert_close(value, expected, {8: "float64", 4: "float32"}.get(value.dtype.itemsize, drawn.dtype), 10.0)


def options_without(options, name="reduction"):
    return {k: v for k, v in options.items() if k != name}


# Rounded log-probabilities are not normalised, as the reference of ctc_loss has them.
NO_REFERENCE = frozenset({"ctc_loss", "soft_dice_loss", "linear_cross_entropy", "info_nce_loss"})


# -- the long mode ---------------------------------------------------------------------------------------------------


def main(argv=None):
    """Check many calls and print what came of them; the status is 1 where a call violated the contract."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--block", type=int, default=500, help="calls that are drawn from one seed")
    parser.add_argument("--losses", nargs="*", choices=sorted(LOSSES))
    parser.add_argument("--dtypes", nargs="*", choices=sorted(DTYPES), default=("float64", "float32", "float16"))
    parser.add_argument("--show", type=int, default=20, help="failures to print, of different kinds")
    given = parser.parse_args(argv)
    faulthandler.enable()
    counts, failures, start = collections.Counter(), {}, time.monotonic()

    def one(drawn):
        faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
        try:
            counts[check(drawn)] += 1
        except Exception as error:
            counts["FAILED"] += 1
            kind = (drawn.case.loss, type(error).__name__, str(error)[:60])
            if kind not in failures and len(failures) < given.show:
                failures[kind] = drawn
                print(f"\n{drawn!r}\n  {type(error).__name__}: {str(error)[:500]}", flush=True)

    strategy = calls(given.losses, tuple(given.dtypes))
    for number in range(-(-given.cases // given.block)):
        left = given.cases - number * given.block
        settings = hypothesis.settings(
            max_examples=min(left, given.block),
            deadline=None,
            database=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        hypothesis.seed(given.seed + number)(settings(hypothesis.given(strategy)(one)))()
        took = time.monotonic() - start
        print(f"{sum(counts.values())} calls, {took:.0f} s, seed {given.seed + number}: {dict(counts)}", flush=True)
    faulthandler.cancel_dump_traceback_later()
    return 1 if counts["FAILED"] else 0


if __name__ == "__main__":
    sys.exit(main())
