"""A few very long rows, of which threads share pieces: the numbers of whole rows, the same bits on any thread count."""

import numpy as np
import pytest
from cases import quickly

import fastloss as fl
from fastloss.call import call as _call
from fastloss.cpu.loops import rowwise_split as split

COLUMNS = 1 << 16


@pytest.fixture(autouse=True)
def _shorter_rows(monkeypatch):
    """Rows are cut from two million classes on; the tests make do with fewer, and change their mind."""
    assert split.SPLIT_FROM >= 16 * COLUMNS
    monkeypatch.setattr(split, "SPLIT_FROM", COLUMNS)
    monkeypatch.setattr(_call, "signature", lambda *_: None)  # nothing is kept of the call before


@pytest.fixture
def whole_rows(monkeypatch):
    """Return a function that computes something without cutting rows."""

    def whole(function):
        with monkeypatch.context() as patch:
            patch.setattr(split, "suits", lambda *args: False)
            return function()

    return whole


@pytest.fixture
def cut(monkeypatch):
    """Return the list of how each attempt to cut rows ended: True where it did not have to be given up."""
    attempts = []
    run = split.run

    def counted(*args):
        result = run(*args)
        attempts.append(result is not None)
        return result

    monkeypatch.setattr(split, "run", counted)
    return attempts


def compare(found, expected, dtype):
    if isinstance(expected, tuple):
        for one, other in zip(found, expected, strict=True):
            compare(one, other, dtype)
        return
    scale = float(np.abs(expected.astype(np.float64)).max())
    tolerance = {"float64": 1e-13, "float32": 2e-6, "float16": 2e-3}[dtype]
    np.testing.assert_allclose(found.astype(np.float64), expected.astype(np.float64), tolerance, tolerance * scale)


@pytest.mark.parametrize("dtype", quickly("float32", then=["float64", "float16"]))
@pytest.mark.parametrize("count", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"label_smoothing": 0.1}, marks=pytest.mark.slow),
        pytest.param({"reduction": "sum"}, marks=pytest.mark.slow),
        {"reduction": "none"},
        pytest.param({"weight": True}, marks=pytest.mark.slow),
        pytest.param({"weight": True, "label_smoothing": 0.1}, marks=pytest.mark.slow),
    ],
)
def test_cross_entropy(rng, whole_rows, cut, count, dtype, options):
    x = (4 * rng.standard_normal((count, COLUMNS + 77))).astype(dtype)
    y = rng.integers(0, COLUMNS, count)
    y[0] = COLUMNS + 76  # the last piece
    options = dict(options)
    if "weight" in options:
        options["weight"] = rng.uniform(0.5, 2.0, COLUMNS + 77).astype(dtype)

    def call():
        return fl.value_and_grad(fl.cross_entropy)(x, y, **options)

    expected = whole_rows(call)
    compare(call(), expected, dtype)
    half_weight = dtype == "float16" and "weight" in options
    assert cut == [not half_weight]
    out = x.copy()
    value, gradient = fl.value_and_grad(fl.cross_entropy)(out, y, grad_out=out, **options)
    assert gradient is out
    compare((value, gradient), expected, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp", "symmetric_cross_entropy"])
def test_other_functions(rng, whole_rows, cut, name):
    function = getattr(fl, name)
    x = rng.standard_normal((2, COLUMNS), dtype=np.float32)
    y = rng.integers(0, COLUMNS, 2)
    args = (x, y) if name == "symmetric_cross_entropy" else (x, 1)
    # Without weights of their own the gradient of softmax is 0 but for rounding, which no two loops share.
    upstream = {"grad_output": rng.random(x.shape, np.float32)} if name == "softmax" else {}
    for call in (lambda: function(*args), lambda: fl.value_and_grad(function)(*args, **upstream)):
        compare(call(), whole_rows(call), "float32")
    assert cut
    assert all(cut)


@pytest.mark.slow
def test_class_probabilities_and_second_derivatives(rng, whole_rows, cut):
    x = rng.standard_normal((2, COLUMNS))
    t = rng.dirichlet(np.ones(COLUMNS), 2)
    y = rng.integers(0, COLUMNS, 2)
    for call in (
        lambda: fl.value_and_grad(fl.cross_entropy)(x, t),
        lambda: fl.grad_and_hess(fl.cross_entropy)(x, y),
        lambda: fl.value_and_grad(fl.cross_entropy, ("input", "target"))(x, t, reduction="sum"),
    ):
        compare(call(), whole_rows(call), "float64")
    assert cut == [True] * 3


def test_same_bits_on_any_number_of_threads(rng, threads):
    x, y = rng.standard_normal((3, 3 * COLUMNS), dtype=np.float32), rng.integers(0, COLUMNS, 3)

    def call():
        value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y, label_smoothing=0.2)
        return value.tobytes() + gradient.tobytes()

    assert len({threads(count, call) for count in (1, 2, 5)}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("strange", [np.inf, -np.inf, np.nan])
def test_extreme_entries(rng, whole_rows, strange):
    x = rng.standard_normal((2, COLUMNS), dtype=np.float32)
    x[0, 5] = x[1, : 3 * split.PIECE] = strange  # whole pieces of it too
    y = np.array([7, COLUMNS - 1])

    def call():
        return fl.value_and_grad(fl.cross_entropy)(x, y, reduction="none", grad_output=np.ones(2, np.float32))

    compare(call(), whole_rows(call), "float32")
    x[:] = strange
    value, gradient = call()
    assert np.isnan(value).all()
    assert np.isnan(gradient).all()


def test_nan_among_impossible_classes(rng):
    """A piece that holds nothing else, but for the NaN, which is that of the row."""
    x = rng.standard_normal((1, COLUMNS), dtype=np.float32)
    x[0, : split.PIECE] = -np.inf
    x[0, 100] = np.nan
    value, gradient = fl.value_and_grad(fl.cross_entropy)(x, np.array([COLUMNS - 1]))
    assert np.isnan(value)
    assert np.isnan(gradient).all()


def test_numpys_error_settings_do_not_matter(whole_rows, cut):
    x = np.zeros((1, COLUMNS))
    x[0, : split.PIECE] = -800
    huge = np.full((1, COLUMNS), 1.7e308)
    huge[0, 3] = -1.7e308

    def call():
        with np.errstate(all="raise"):
            return [fl.value_and_grad(fl.cross_entropy)(rows, np.array([3])) for rows in (x, huge)]

    for found, expected in zip(call(), whole_rows(call), strict=True):
        compare(found, expected, "float64")
    assert cut == [True, True]


def test_rows_out_of_the_ordinary_are_not_cut(rng, whole_rows, cut):
    x = rng.standard_normal((2, COLUMNS), dtype=np.float32)
    ignored = np.array([-100, 3])
    compare(
        fl.value_and_grad(fl.cross_entropy)(x, ignored),
        whole_rows(lambda: fl.value_and_grad(fl.cross_entropy)(x, ignored)),
        "float32",
    )
    with pytest.raises(IndexError, match=f"target {COLUMNS} at position"):
        fl.cross_entropy(x, np.array([3, COLUMNS]))
    with fl.config(check_indices=False):
        value = fl.cross_entropy(x, np.array([3, COLUMNS]), reduction="none")
    assert np.isnan(value).tolist() == [False, True]
    assert not any(cut)
