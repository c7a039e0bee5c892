"""The short way for plain NumPy arrays gives what the long way gives, and takes itself out where it must."""

import gc
import pickle
import sys
import types
import weakref

import numpy as np
import pytest
from cases import PLAIN

import fastloss as fl
from fastloss.api import transforms as _transforms
from fastloss.call import call as _call, prepared as _prepared
from fastloss.runtime import compile as _jit
from fastloss.call.outputs import VALUE, Mode, Request
from fastloss.cpu.loops import rowwise_split as split

FAMILIES = ("elementwise", "rowwise", "rowmap", "pairwise", "label_sets", "projected")
CASES = [case for case in PLAIN if case.record.family in FAMILIES]
TAKEN = [
    fl.mse_loss, fl.gaussian_nll_loss, fl.cross_entropy, fl.nll_loss, fl.multilabel_soft_margin_loss, fl.softmax,
    fl.logsumexp, fl.cosine_embedding_loss, fl.triplet_margin_loss, fl.multilabel_margin_loss,
    fl.linear_cross_entropy,
]  # fmt: skip


@pytest.fixture
def long_way(monkeypatch):
    """Return a function that computes something without the short way."""

    def compute(function):
        with monkeypatch.context() as context:
            context.setattr(_call.Call, "run", _call.Call.long)
            context.setattr(_call, "signature", lambda *_: None)  # of the parts of a loss
            return function()

    return compute


def same(one, other):
    if isinstance(one, tuple):
        assert len(one) == len(other)
        return all(same(a, b) for a, b in zip(one, other, strict=True))
    assert type(one) is type(other)
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(one, other)
    return True


@pytest.mark.parametrize("case", CASES, ids=str)
def test_both_ways_give_the_same_bits(case, long_way):
    arrays = case.make("float64", seed=3)
    for reduction in case.reductions:
        for compute in (
            lambda: case.call(arrays, **reduction),  # noqa: B023
            lambda: case.value_and_grad(arrays, **reduction),  # noqa: B023
        ):
            expected = long_way(compute)
            for _ in range(4):  # from the third on by straight code
                assert same(compute(), expected)


@pytest.mark.parametrize("function", TAKEN, ids=lambda function: function.__name__)
@pytest.mark.parametrize("kind", ["value", "grad", "value_and_grad"])
def test_straight_code_is_for_one_kind_of_call(function, kind):
    """It computes what it was made for, whoever asks, and nothing else."""
    case = next(case for case in CASES if case.loss == function.__name__)
    mode = Mode() if kind == "value" else _transforms.mode_of(function.__fastloss__, kind, None)
    request = Request(mode)
    call = _call.Call(function.__fastloss__, request, dict(case.options))
    arrays = tuple(case.make("float64", seed=3).values())
    results = [call.run(arrays, {}, request) for _ in range(4)]
    assert call.latest is not _call._none

    def code(args, kwargs):
        return call.latest(args, kwargs, None, None)

    expected = call.long(arrays, {}, request)
    for result in (*results, code(arrays, {}), code(tuple([a.copy() for a in arrays]), {})):
        assert same(result, expected)

    x, *rest = arrays
    for other in (*unlike(x), x.tolist(), 1.0, x[None]):
        assert code((other, *rest), {}) is None
    assert code((), {}) is code((x,) * 7, {}) is code(arrays, {"reduction": "sum"}) is None
    assert code(tuple(rest), {"input": x}) is None


def unlike(x):
    """Return arrays that are not plain, or not like `x`."""
    column = np.asfortranarray(x) if min(x.shape) > 1 and x.ndim > 1 else np.repeat(x, 2)[::2]
    odd = np.frombuffer(bytearray(b" " + x.tobytes()), x.dtype, offset=1).reshape(x.shape)
    locked = x.copy()
    locked.flags.writeable = False
    return [x.astype("f4"), x.astype("i8"), x[:1], np.ma.array(x), x.astype(">f8"), column, odd, locked, None]


@pytest.mark.parametrize("function", TAKEN, ids=lambda function: function.__name__)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_straight_code_writes_only_into_arrays_of_its_kind(function, reduction):
    case = next(case for case in CASES if case.loss == function.__name__)
    if reduction == "none" and "reduction" not in case.record.options:
        pytest.skip("has no reduction")
    named = {"reduction": reduction} if "reduction" in case.record.options else {}
    request = Request(_transforms.mode_of(case.record, "value_and_grad", None))
    call = _call.Call(case.record, request, {**case.options, **named})
    arrays = tuple([np.array(a) for a in case.make("float64", seed=3).values()])  # that own their memory
    value, gradient = expected = call.long(arrays, {}, request)
    out = np.empty_like(value) if np.ndim(value) else None
    single = isinstance(gradient, np.ndarray)
    grads = (np.empty_like(gradient),) if single else tuple([np.empty_like(g) for g in gradient])

    def code(grads, out=out, arrays=arrays):
        return call.latest_into(arrays, {}, grads[0] if single else grads, out)

    for _ in range(4):
        for target in (*grads, *(() if out is None else (out,))):
            target.fill(7)
        result = call.run(arrays, {}, Request(request.mode, None, grads[0] if single else grads, out))
        assert same(result, expected)
        assert out is None or result[0] is out
        assert all(a is b for a, b in zip((result[1],) if single else result[1], grads, strict=True))
    assert same(code(grads), expected)
    before = [g.copy() for g in grads]
    x, rest = arrays[0], arrays[1:]
    for wrong in (*unlike(grads[0]), grads[0].view(), x, x[:]):
        assert code((wrong, *grads[1:])) is None
    assert code(grads, arrays=(x[:], *rest)) is None  # whose memory that is would have to be asked
    assert code(grads, np.empty(3) if out is None else None) is None
    assert len(grads) == 1 or code((grads[0],) * len(grads)) is code(list(grads)) is code(grads[:1]) is None
    assert all(np.array_equal(a, b) for a, b in zip(before, grads, strict=True))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_ways_give_the_same_tensors(case, dtype, long_way):
    torch = pytest.importorskip("torch")

    def tensor(array):
        made = torch.from_numpy(np.array(array))
        return made.requires_grad_() if made.is_floating_point() else made

    arrays = {name: tensor(array) for name, array in case.make(dtype, seed=3).items()}
    for compute in (lambda: case.call(arrays), lambda: case.value_and_grad(arrays)):
        short, long = compute(), long_way(compute)
        short, long = ([one] if isinstance(one, torch.Tensor) else _flat(one) for one in (short, long))
        for a, b in zip(short, long, strict=True):
            assert (a.dtype, a.shape, a.requires_grad) == (b.dtype, b.shape, False)
            assert torch.equal(a, b)


def _flat(results):
    return [one for part in results for one in (_flat(part) if isinstance(part, tuple) else [part])]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_both_ways_write_the_same_into_arrays_of_the_callers(case, long_way):
    arrays = case.make("float64", seed=3)
    step = case.value_and_grad(arrays)[1]

    def compute():
        given = tuple([np.full_like(g, 7) for g in step]) if isinstance(step, tuple) else np.full_like(step, 7)
        value, gradient = case.value_and_grad(arrays, grad_out=given)
        pairs = zip(gradient, given, strict=True) if isinstance(given, tuple) else [(gradient, given)]
        assert all(one is other for one, other in pairs)
        return value, gradient

    assert same(compute(), long_way(compute))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (lambda x: x, None),  # in place
        (lambda x: np.empty((3, 2)).T, None),
        (lambda x: np.empty((2, 3), np.float32), TypeError),
        (lambda x: np.empty((3, 2)), ValueError),
        (lambda x: np.broadcast_to(0.0, (2, 3)), ValueError),
        (lambda x: [[0.0] * 3] * 2, TypeError),
    ],
)
def test_what_is_not_plain_goes_the_long_way(given, expected):
    x = np.arange(6.0).reshape(2, 3)
    y = np.array([0, 2])
    right = fl.grad(fl.cross_entropy)(x, y)
    target = given(x)
    if expected is None:
        assert fl.grad(fl.cross_entropy)(x, y, grad_out=target) is target
        np.testing.assert_array_equal(target, right)
    else:
        with pytest.raises(expected, match="grad_out"):
            fl.grad(fl.cross_entropy)(x, y, grad_out=target)


def test_nothing_is_written_where_the_loss_is_not_defined():
    given = np.full(3, 7.0)
    with pytest.raises(ValueError, match="must lie in"):
        fl.grad(fl.binary_cross_entropy)(np.array([0.5, 2.0, 0.5]), np.ones(3), grad_out=given)
    with pytest.raises(IndexError):
        fl.grad(fl.cross_entropy)(np.ones((1, 3)), np.array([3]), grad_out=given.reshape(1, 3))
    assert (given == 7).all()


@pytest.fixture
def taken(monkeypatch):
    """Return a list that notes of every prepared call whether it gave a result; none is written out as code."""
    for name in ("latest", "latest_into"):
        slot = vars(_call.Call)[name]
        monkeypatch.setattr(_call.Call, name, property(lambda self: _call._none, slot.__set__))
    found = []
    prepared = _prepared.Prepared.compute

    def spy(self, arrays, request):
        result = prepared(self, arrays, request)
        found.append(result is not None)
        return result

    monkeypatch.setattr(_prepared.Prepared, "compute", spy)
    return found


def test_the_short_way_is_taken(taken):
    """Or this file compares the long way with itself."""
    plain = {case.loss: case for case in CASES}
    for function in TAKEN:
        case = plain[function.__name__]
        case.call(case.make())
        gradient = case.value_and_grad(case.make())[1]
        case.value_and_grad(case.make(), grad_out=gradient)
    assert taken == [True] * (3 * len(TAKEN))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"reduction": "none"}, {"reduction": "sum", "zero_infinity": 1, "blank": 2}])
def test_sequences_whose_lengths_are_arrays(options, dtype, long_way, taken):
    """Lengths are looked at in each call: those of another call of the kind are others, and may be wrong."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    labels = rng.choice([0, 1, 3, 4] if options.get("blank") else [1, 2, 3, 4], (3, 6))
    step = fl.value_and_grad(fl.ctc_loss)
    for frames, counts in (([9, 7, 8], [3, 2, 6]), ([2, 9, 1], [6, 0, 1]), ([9, 9, 9], [1, 1, 1])):
        scores = np.log(rng.dirichlet(np.ones(5), (9, 3))).astype(dtype)
        arrays = (scores, labels, np.array(frames), np.array(counts))
        result = step(*arrays, **options)
        assert same(result, long_way(lambda: step(*arrays, **options)))  # noqa: B023
        given = np.full_like(scores, 7)
        assert same(step(*arrays, **options, grad_out=given)[1], result[1])
        assert same(fl.ctc_loss(*arrays, **options), result[0])
        tensors = step(*map(torch.from_numpy, arrays), **options)
        for one, other in zip(tensors, result, strict=True):
            np.testing.assert_array_equal(one.numpy(), other)
    assert taken == [True] * 12
    given = np.full_like(scores, 7)
    mistakes = ((2, [9, 10, 9], ValueError), (3, [1, -1, 1], ValueError), (1, labels + 3, IndexError))
    for position, wrong, error in mistakes:
        arrays = [scores, labels, np.full(3, 9), np.full(3, 6)]
        arrays[position] = np.array(wrong)
        with pytest.raises(error):
            step(*arrays, **options, grad_out=given)
    assert (given == 7).all()


def test_the_short_way_is_taken_for_tensors(taken):
    torch = pytest.importorskip("torch")
    plain = {case.loss: case for case in CASES}
    for function in TAKEN:
        case = plain[function.__name__]
        case.value_and_grad({name: torch.from_numpy(np.array(a)) for name, a in case.make().items()})
    assert taken == [True] * len(TAKEN)
    fl.mse_loss(*torch.ones((2, 3), dtype=torch.bfloat16))
    fl.mse_loss(torch.ones(3), torch.ones(3), weight=torch.ones(3))
    assert len(taken) == len(TAKEN)


def test_parts_of_a_loss_take_the_short_way(taken):
    torch = pytest.importorskip("torch")
    arrays = [np.arange(3.0), np.ones((2, 2))]
    values = [fl.l2_penalty(arrays, 0.5), fl.l2_penalty([torch.from_numpy(a) for a in arrays], 0.5)]
    assert taken == [True] * 4
    assert [float(value) for value in values] == [2.25, 2.25]
    fl.value_and_grad(fl.l2_penalty)(arrays, 0.5)
    assert taken == [True] * 6


def test_straight_code_tells_named_arguments_apart():
    call = _call.Call(fl.cross_entropy.__fastloss__, VALUE, {})
    x, y = np.arange(6.0).reshape(2, 3), np.array([0, 2])
    named = {"target": y, "weight": None, "label_smoothing": 0.5}
    expected = call.long((x,), dict(named), VALUE)
    assert [call.run((x,), named, VALUE) for _ in range(4)] == [expected] * 4

    def code(args, kwargs):
        return call.latest(args, kwargs, None, None)

    assert code((x,), named) == code((x,), dict(reversed(named.items()))) == expected
    smoothing, weight = {"label_smoothing": 0.25}, {"weight": np.ones(3)}
    for other in (named | smoothing, named | weight, named | {"ignore_index": 0}, {"target": y}, {}):
        assert code((x,), other) is None
    assert code((x, y), named) is None
    del named["weight"]  # what is missing is not what is None
    assert code((x,), named | {"ignore_index": 0}) is None


def test_straight_code_leaves_to_the_long_way_what_is_wrong():
    x, y = np.ones((2, 3)), np.array([0, 2])
    steps = fl.value_and_grad(fl.cross_entropy), fl.value_and_grad(fl.binary_cross_entropy)
    for _ in range(4):
        assert float(steps[0](x, y)[0]) == pytest.approx(np.log(3))
        assert steps[1](x, x)[0] == 0
    with pytest.raises(IndexError, match="target 3"):
        steps[0](x, y + 1)
    with pytest.raises(ValueError, match="must lie in"):
        steps[1](x + 1, x)
    with fl.config(check_indices=False):
        assert np.isnan(steps[0](x, y + 1)[0])
    assert np.isnan(steps[1](x * np.nan, x)[0])
    given = np.full_like(x, 7)
    for _ in range(4):
        assert steps[1](x, x, grad_out=np.empty_like(x))[0] == 0
    with pytest.raises(ValueError, match="must lie in"):
        steps[1](x + 1, x, grad_out=given)
    assert (given == 7).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_straight_code_serves_tensors(dtype):
    torch = pytest.importorskip("torch")
    step = fl.value_and_grad(fl.triplet_margin_loss, ("anchor", "positive"))
    arrays = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(dtype)
    expected = step(*arrays)
    for _ in range(4):
        value, gradients = step(*map(torch.from_numpy, arrays))
        assert value.numpy() == expected[0]
        assert [np.array_equal(a.numpy(), b) for a, b in zip(gradients, expected[1], strict=True)] == [True, True]


def test_kinds_of_calls_are_told_apart():
    """What is kept for one must not answer for another that looks alike."""
    x, y = np.arange(6.0).reshape(2, 3), np.array([0, 2])
    rows = np.log(np.exp(x).sum(axis=1)) - x[[0, 1], y]
    for _ in range(4):
        assert fl.cross_entropy(x, y) == pytest.approx(rows.mean())
        assert fl.cross_entropy(x, y, reduction="sum") == pytest.approx(rows.sum())
        assert fl.cross_entropy(x, target=y, ignore_index=0) == pytest.approx(rows[1])
        assert fl.cross_entropy(target=y, input=x) == pytest.approx(rows.mean())
        assert fl.cross_entropy(x[:1], y[:1]) == pytest.approx(rows[0])
        assert fl.cross_entropy(x[::2], y[::2]) == pytest.approx(rows[0])
        assert fl.cross_entropy(x.astype(np.float32), y).dtype == np.float32
        assert fl.cross_entropy(x, y.astype(np.int32)) == pytest.approx(rows.mean())
        assert fl.softmax(x, 0).sum(axis=0) == pytest.approx(1)
        assert fl.softmax(x, 1).sum(axis=1) == pytest.approx(1)
        with pytest.raises(TypeError, match="dim must be an integer"):
            fl.softmax(x, True + 0.0)
        with pytest.raises(TypeError, match="floating point"):
            fl.cross_entropy(y.reshape(1, 2), y[:1])


def test_one_array_may_stand_for_several_arguments():
    """The next call of the kind has an array for each."""
    x = np.arange(6.0).reshape(2, 3)
    assert fl.mse_loss(x, x) == 0
    assert fl.mse_loss(x, x + 1) == 1
    assert fl.mse_loss(x, target=x) == 0
    assert fl.mse_loss(x, target=x + 2) == 4
    value = fl.triplet_margin_loss(x, x, x, margin=0.5)
    assert fl.triplet_margin_loss(x, x + 1, x, margin=0.5) > value + 1
    np.testing.assert_array_equal(fl.grad(fl.mse_loss)(x, x), 0 * x)
    np.testing.assert_array_equal(fl.grad(fl.mse_loss)(x, x - 3, reduction="sum"), 0 * x + 6)


def test_options_in_arrays_count_by_value():
    x = np.array([0.5, 3.0])
    for coefficient in (1.0, 3.0):
        for given in (np.array(coefficient), np.float64(coefficient), coefficient):
            assert fl.l2_penalty(x, given) == pytest.approx(coefficient * 9.25 / 2)
    for beta, expected in ((0.0, 1.75), (1.0, 1.3125)):
        assert fl.smooth_l1_loss(x, 0 * x, beta=np.array(beta)) == pytest.approx(expected)
    delta = np.array(1.0)
    bound = fl.HuberLoss(delta=delta), fl.L2Penalty(delta)
    before = [bound[0](x, 0 * x), bound[1](x)]
    delta[...] = 2.0
    assert [bound[0](x, 0 * x), bound[1](x)] == [fl.huber_loss(x, 0 * x, delta=2.0), 2 * before[1]]


def test_options_in_tensors_count_by_value():
    torch = pytest.importorskip("torch")
    x = torch.tensor([0.5, 3.0])
    for coefficient in (1.0, 3.0):
        assert float(fl.l2_penalty(x, torch.tensor(coefficient))) == pytest.approx(coefficient * 9.25 / 2)


def test_the_first_of_mixed_arrays_decides_what_comes_back(rng):
    torch = pytest.importorskip("torch")
    x, y = rng.normal(size=(4, 3)), np.array([0, 2, 1, 1])
    for _ in range(2):
        assert isinstance(fl.cross_entropy(x, torch.from_numpy(y)), np.float64)
        assert isinstance(fl.cross_entropy(torch.from_numpy(x), y), torch.Tensor)


def test_arrays_that_were_pickled_are_as_good(taken):
    x = np.arange(3.0)
    copy = pickle.loads(pickle.dumps(x))
    call = _call.Call(fl.mse_loss.__fastloss__, VALUE, {})
    assert call.run((copy, copy), {}, VALUE) == call.run((x, x), {}, VALUE) == 0
    assert taken == [True, True]


def test_the_second_call_finds_the_machine_code_of_the_first(monkeypatch):
    call = _call.Call(fl.mse_loss.__fastloss__, VALUE, {})
    made, make = [], _jit.Direct
    monkeypatch.setattr(_jit, "Direct", lambda kernel: made.append(make(kernel)) or made[-1])
    x = np.arange(3.0)
    assert [call.run((x, x + 1), {}, VALUE) for _ in range(3)] == [1, 1, 1]
    assert any(one.entry is not None for one in made)


def test_options_that_torch_alone_can_read():
    torch = pytest.importorskip("torch")
    x = torch.tensor([0.5, 3.0])
    assert float(fl.huber_loss(x, 0 * x, delta=torch.tensor([1.0]))) == pytest.approx(1.3125)
    with pytest.raises(ValueError, match="got tensor"):
        fl.huber_loss(x, x, delta=torch.tensor(-1.0))


def test_labels_that_are_no_class_do_not_count(rng):
    x, w, y = rng.normal(size=(4, 2)), rng.normal(size=(3, 2)), np.array([0, 2, 5, 1])
    with fl.config(check_indices=False):
        step = fl.grad(fl.linear_cross_entropy, wrt="input")(x, w, y)
        direct = fl.grad(fl.cross_entropy)(x @ w.T, y)
    np.testing.assert_allclose(step[[0, 1, 3]], (direct @ w)[[0, 1, 3]])


def test_rows_that_are_cut_into_pieces_go_the_long_way(taken, monkeypatch):
    monkeypatch.setattr(split, "SPLIT_FROM", 1 << 16)
    call = _call.Call(fl.logsumexp.__fastloss__, VALUE, {})
    assert call.run((np.zeros((1, 1 << 16)), 1), {}, VALUE) == pytest.approx([np.log(1 << 16)])
    assert taken == []


def test_one_argument_named_twice(rng):
    x, y = rng.normal(size=(2, 3))
    given = np.zeros(3), np.zeros(3)
    fl.grad(fl.mse_loss, wrt=("input", "input"))(x, y, grad_out=given)
    np.testing.assert_array_equal(*given)
    assert given[0].any()


def test_errors_have_no_other_error_before_them():
    with pytest.raises(ValueError, match="reduction must be") as raised:
        fl.mse_loss(np.ones(3), np.ones(3), reduction="median")
    assert raised.value.__context__ is None


def test_zeros_have_a_sign():
    x, y = np.array([-0.0]), np.array([1.0])
    slopes = [
        fl.grad(fl.poisson_nll_loss)(x, y, log_input=False, eps=eps, reduction="sum")[0] for eps in (0.0, -0.0, 0.0)
    ]
    assert slopes == [-np.inf, np.inf, -np.inf]


def test_a_module_that_only_bears_the_name_of_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    assert fl.mse_loss([0.0, 1.0], [1.0, 1.0]) == 0.5


def test_an_instance_takes_no_options_when_called():
    x = np.ones(3)
    for name, value in (("reduction", "sum"), ("size_average", False)):
        with pytest.raises(TypeError, match=f"{name} is an option"):
            fl.MSELoss()(x, x, **{name: value})


def test_class_indices_have_64_bits():
    with pytest.raises(ValueError, match="64 bits"):
        fl.cross_entropy(np.ones((1, 2)), np.array([0]), ignore_index=2**70)


def test_a_warning_comes_every_time():
    x = np.ones((2, 3))
    for _ in range(3):
        with pytest.warns(DeprecationWarning, match="reduction='sum'"):
            assert fl.mse_loss(x, x, size_average=False) == 0
        with pytest.warns(UserWarning, match="broadcast|size"):
            fl.mse_loss(x, x[:1])
        with pytest.raises(ValueError, match="reduction must be"):
            fl.mse_loss(x, x, reduction="median")


def test_settings_hold_for_calls_of_a_known_kind():
    x, y = np.ones((2, 3)), np.array([0, 3])
    for check in (True, False, True):
        with fl.config(check_indices=check):
            if check:
                with pytest.raises(IndexError):
                    fl.cross_entropy(x, y)
            else:
                assert np.isnan(fl.cross_entropy(x, y))


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(_call, "MOST_KINDS", 8)
    call = _call.Call(fl.huber_loss.__fastloss__, VALUE, {})
    for size in range(1, 30):
        assert call.run((np.ones(size), np.zeros(size)), {}, VALUE) == 0.5
        assert len(call.known) <= 8


@pytest.mark.parametrize("function", TAKEN, ids=lambda function: function.__name__)
def test_arrays_are_not_kept(function):
    case = next(case for case in CASES if case.loss == function.__name__)
    arrays = case.make()
    case.value_and_grad(arrays)
    kept = [weakref.ref(array) for array in arrays.values()]
    del arrays
    gc.collect()
    assert [reference() for reference in kept] == [None] * len(kept)


def test_arrays_that_may_not_be_written_are_read():
    x, y = np.arange(6.0).reshape(2, 3), np.array([0, 2])
    expected = fl.value_and_grad(fl.cross_entropy)(x, y)
    x.flags.writeable = y.flags.writeable = False
    assert same(fl.value_and_grad(fl.cross_entropy)(x, y), expected)
    assert same(fl.value_and_grad(fl.cross_entropy)(np.array(x), np.array(y)), expected)


def test_errors_come_from_the_long_way():
    x = np.ones((2, 3))
    with pytest.raises(IndexError, match=r"target 3 at position \(1,\)"):
        fl.grad(fl.cross_entropy)(x, np.array([0, 3]))
    with pytest.raises(IndexError, match=r"target 3 at position \(1, 0\)"):
        fl.grad(fl.multilabel_margin_loss)(x, np.array([[0, 1, -1], [3, -1, -1]]))
    with pytest.raises(ValueError, match="must lie in"):
        fl.grad(fl.binary_cross_entropy)(2 * x, x)
    with pytest.raises(ValueError, match="var must not be negative"):
        fl.grad(fl.gaussian_nll_loss)(x, x, -x)
    with pytest.raises(ValueError, match="out is for an unreduced value"):
        fl.value_and_grad(fl.mse_loss)(x, x, out=x)
    for call in (fl.nll_loss, fl.cross_entropy, fl.multilabel_soft_margin_loss):
        with pytest.raises(TypeError, match="target"):
            call(x, None)
    with pytest.raises(TypeError, match="target"):
        fl.cosine_embedding_loss(x, x, None)
    with pytest.raises(TypeError, match="dim must be an integer"):
        fl.softmax(x, 1.0)
    with pytest.warns(UserWarning, match="dim"):
        fl.softmax(x)
    assert np.isnan(fl.binary_cross_entropy(np.full(3, 0.5), np.full(3, np.nan)))


def test_labels_out_of_range_without_the_check():
    with fl.config(check_indices=False):
        value, gradient = fl.value_and_grad(fl.cross_entropy)(np.ones((2, 3)), np.array([0, 3]), reduction="none")
    np.testing.assert_array_equal(np.isnan(value), [False, True])
    np.testing.assert_array_equal(np.isnan(gradient).all(axis=1), [False, True])
