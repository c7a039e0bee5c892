"""A plan serves the calls of its kind, and no other: what is kept gives what is planned anew."""

import gc
import sys
import tracemalloc
import types
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import PLAIN, marked, typical

import fastloss as fl
from fastloss.api import transforms as _transforms
from fastloss.call import call as _call
from fastloss.call.request import VALUE, Mode, Request

FAMILIES = ("elementwise", "rowwise", "rowmap", "pairwise", "label_sets", "projected")
CASES = [case for case in PLAIN if case.record.family in FAMILIES]
TAKEN = [
    fl.mse_loss, fl.gaussian_nll_loss, fl.cross_entropy, fl.nll_loss, fl.multilabel_soft_margin_loss, fl.softmax,
    fl.logsumexp, fl.cosine_embedding_loss, fl.triplet_margin_loss, fl.multilabel_margin_loss,
    fl.linear_cross_entropy,
]  # fmt: skip
QUICK = ("mse_loss", "cosine_embedding_loss")  # of those, what does not wait for `slow`


@pytest.fixture
def anew(monkeypatch):
    """Return a function that computes something without what is kept of the calls before."""

    def compute(function):
        kept = vars(_call.Call)["last"]
        with monkeypatch.context() as context:
            context.setattr(_call, "signature", lambda *_: None)
            context.setattr(_call.Call, "last", property(lambda self: _call._no_call, kept.__set__))
            return function()

    return compute


@pytest.fixture
def planned(monkeypatch):
    """Return a list that notes every plan that is made."""
    found = []
    plan = _call.Call._plan

    def spy(self, *args):
        found.append(self.record.name)
        return plan(self, *args)

    monkeypatch.setattr(_call.Call, "_plan", spy)
    return found


def same(one, other):
    if isinstance(one, tuple):
        assert len(one) == len(other)
        return all(same(a, b) for a, b in zip(one, other, strict=True))
    assert type(one) is type(other)
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(one, other)
    return True


@pytest.mark.parametrize("case", typical(CASES))
def test_what_is_kept_gives_the_same_bits(case, anew):
    arrays = case.make("float64", seed=3)
    for reduction in case.reductions:
        for compute in (
            lambda: case.call(arrays, **reduction),  # noqa: B023
            lambda: case.value_and_grad(arrays, **reduction),  # noqa: B023
        ):
            expected = anew(compute)
            for _ in range(4):  # the third call is the first that nothing is looked up for
                assert same(compute(), expected)


@pytest.mark.parametrize("function", TAKEN, ids=lambda function: function.__name__)
@pytest.mark.parametrize("kind", ["value", "grad", "value_and_grad"])
def test_what_runs_a_plan_takes_calls_of_its_kind_alone(function, kind):
    case = next(case for case in CASES if case.loss == function.__name__)
    request = Request(Mode() if kind == "value" else _transforms.mode_of(function.__fastloss__, kind, None))
    call = _call.Call(function.__fastloss__, request, dict(case.options))
    arrays = tuple(case.make("float64", seed=3).values())
    first, *results = [call.run(arrays, {}, request) for _ in range(4)]

    def run(args, kwargs):
        return call.last(args, kwargs, request)

    for result in (*results, run(arrays, {}), run(tuple([a.copy() for a in arrays]), {})):
        assert same(result, first)
    x, *rest = arrays
    for other in (*unlike(x), x.tolist(), 1.0, x[None]):
        assert run((other, *rest), {}) is None
    assert run((), {}) is run((x,) * 7, {}) is run(arrays, {"reduction": "sum"}) is None
    assert run(tuple(rest), {"input": x}) is None


def unlike(x):
    """Return arrays that are not plain, or not like `x`."""
    column = np.asfortranarray(x) if min(x.shape) > 1 and x.ndim > 1 else np.repeat(x, 2)[::2]
    odd = np.frombuffer(bytearray(b" " + x.tobytes()), x.dtype, offset=1).reshape(x.shape)
    locked = x.copy()
    locked.flags.writeable = False
    return [x.astype("f4"), x.astype("i8"), x[:1], np.ma.array(x), x.astype(">f8"), column, odd, locked, None]


def test_what_a_transform_is_given_is_a_part_of_the_kind(rng):
    """Calls with a factor, into arrays, in place, and plain ones follow each other."""
    x, y = rng.normal(size=(8, 5)), np.arange(8) % 5
    step = fl.value_and_grad(fl.cross_entropy)
    value, gradient = step(x, y)
    for k in range(4):
        for factor in (2.0, -1.5 - k):
            np.testing.assert_allclose(step(x, y, grad_output=factor)[1], factor * gradient)
        target = np.full_like(x, 7)
        assert step(x, y, grad_out=target)[1] is target
        own = x.copy()
        assert step(own, y, grad_out=own)[1] is own
        rows = rng.normal(size=8)
        out = np.empty(8)
        each, scaled = step(x, y, reduction="none", grad_output=rows, out=out)
        assert each is out
        np.testing.assert_allclose(scaled, 8 * gradient * rows[:, None])
        np.testing.assert_array_equal(target, gradient)
        np.testing.assert_allclose(own, gradient)
        assert same(step(x, y), (value, gradient))
    with pytest.raises(ValueError, match="overlaps"):
        step(x[:4], y[:4], grad_out=x[2:6])


@pytest.mark.parametrize("case", typical(CASES))
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::fastloss.AutogradWarning")
def test_what_is_kept_gives_the_same_tensors(case, dtype, anew):
    torch = pytest.importorskip("torch")

    def tensor(array):
        made = torch.from_numpy(np.array(array))
        return made.requires_grad_() if made.is_floating_point() else made

    arrays = {name: tensor(array) for name, array in case.make(dtype, seed=3).items()}
    for compute in (lambda: case.call(arrays), lambda: case.value_and_grad(arrays)):
        short, long = [compute() for _ in range(3)][-1], anew(compute)
        short, long = ([one] if isinstance(one, torch.Tensor) else _flat(one) for one in (short, long))
        for a, b in zip(short, long, strict=True):
            assert (a.dtype, a.shape, a.requires_grad) == (b.dtype, b.shape, False)
            assert torch.equal(a, b)


def _flat(results):
    return [one for part in results for one in (_flat(part) if isinstance(part, tuple) else [part])]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_kept_writes_the_same_into_arrays_of_the_callers(case, anew):
    arrays = case.make("float64", seed=3)
    names = case.wrt(arrays)

    def compute():
        given = tuple([np.full_like(arrays[name], 7) for name in names])
        value, gradients = case.value_and_grad(arrays, names, grad_out=given)
        assert all(one is other for one, other in zip(gradients, given, strict=True))
        return value, gradients

    assert same(compute(), anew(compute))


def test_a_gradient_of_class_weights_is_summed_into_the_array_of_the_callers():
    """The kernel writes one number for each logit, more than the array holds."""
    rng = np.random.default_rng(0)
    x, target, weight = rng.normal(size=(2, 3)), rng.dirichlet(np.ones(3), 2), rng.uniform(0.5, 2, 3)
    loss = fl.value_and_grad(fl.cross_entropy, wrt=("input", "weight"))
    value, gradients = loss(x, target, weight=weight)
    for _ in range(3):
        given = np.full_like(x, 7), np.full_like(weight, 7)
        assert loss(x, target, weight=weight, grad_out=given)[0] == value
        for one, right in zip(given, gradients, strict=True):
            np.testing.assert_array_equal(one, right)


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
def test_what_is_not_plain_is_computed_by_its_plan(given, expected):
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


@pytest.mark.parametrize("function", TAKEN, ids=lambda function: function.__name__)
def test_a_kind_of_call_is_planned_once(function, planned):
    case = next(case for case in CASES if case.loss == function.__name__)
    for _ in range(3):
        case.call(case.make(seed=11))
        gradient = case.value_and_grad(case.make(seed=12))[1]
        case.value_and_grad(case.make(seed=13), grad_out=gradient)
    assert len(planned) <= 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"reduction": "none"}, {"reduction": "sum", "zero_infinity": 1, "blank": 2}])
def test_sequences_whose_lengths_are_arrays(options, dtype, anew):
    """Lengths are looked at in each call: those of another call of the kind are others, and may be wrong."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    labels = rng.choice([0, 1, 3, 4] if options.get("blank") else [1, 2, 3, 4], (3, 6))
    step = fl.value_and_grad(fl.ctc_loss)
    for frames, counts in (([9, 7, 8], [3, 2, 6]), ([2, 9, 1], [6, 0, 1]), ([9, 9, 9], [1, 1, 1])):
        scores = np.log(rng.dirichlet(np.ones(5), (9, 3))).astype(dtype)
        arrays = (scores, labels, np.array(frames), np.array(counts))
        result = step(*arrays, **options)
        assert same(result, anew(lambda: step(*arrays, **options)))  # noqa: B023
        given = np.full_like(scores, 7)
        assert same(step(*arrays, **options, grad_out=given)[1], result[1])
        assert same(fl.ctc_loss(*arrays, **options), result[0])
        tensors = step(*map(torch.from_numpy, arrays), **options)
        for one, other in zip(tensors, result, strict=True):
            np.testing.assert_array_equal(one.numpy(), other)
    given = np.full_like(scores, 7)
    mistakes = ((2, [9, 10, 9], ValueError), (3, [1, -1, 1], ValueError), (1, labels + 3, IndexError))
    for position, wrong, error in mistakes:
        arrays = [scores, labels, np.full(3, 9), np.full(3, 6)]
        arrays[position] = np.array(wrong)
        with pytest.raises(error):
            step(*arrays, **options, grad_out=given)
    assert (given == 7).all()


def test_what_is_wrong_is_left_to_the_plan():
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
def test_tensors_of_a_known_kind(dtype):
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
        assert fl.logsumexp(x, (0, 1)) == pytest.approx(np.log(np.exp(x).sum()))
        with pytest.raises(TypeError, match="dim must be an integer"):
            fl.logsumexp(x, (0.0, True))
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


def test_one_argument_named_twice(rng):
    x, y = rng.normal(size=(2, 3))
    given = np.zeros(3), np.zeros(3)
    fl.grad(fl.mse_loss, wrt=("input", "input"))(x, y, grad_out=given)
    np.testing.assert_array_equal(*given)
    assert given[0].any()


def test_a_converted_input_may_be_named_in_a_tuple():
    x = np.array([[1.0, 2.0], [3.0, 5.0]], np.float16)
    for dtype in (np.float32, np.float16):
        options = {"dim": 1, "dtype": dtype, "grad_output": x.astype(dtype)}
        value, gradients = fl.value_and_grad(fl.softmax, ("input",))(x, **options)
        assert value.dtype == dtype
        assert type(gradients) is tuple
        assert gradients[0].dtype == np.float16
        np.testing.assert_array_equal(gradients[0], fl.grad(fl.softmax)(x, **options))


def test_errors_have_no_other_error_before_them():
    with ThreadPoolExecutor(1) as thread:  # of its own: compiled extensions leave errors that they have caught
        error = thread.submit(fl.mse_loss, np.ones(3), np.ones(3), reduction="median").exception()
    assert "reduction must be" in str(error)
    assert error.__context__ is None


def test_zeros_have_a_sign():
    x, y = np.array([-0.0]), np.array([1.0])
    slopes = [
        fl.grad(fl.poisson_nll_loss)(x, y, log_input=False, eps=eps, reduction="sum")[0] for eps in (0.0, -0.0, 0.0)
    ]
    assert slopes == [-np.inf, np.inf, -np.inf]


def test_a_module_that_only_bears_the_name_of_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)  # what another test had imported
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
    monkeypatch.setattr(_call, "MOST_PLANS", 8)
    call = _call.Call(fl.huber_loss.__fastloss__, VALUE, {})
    for size in range(1, 30):
        assert call.run((np.ones(size), np.zeros(size)), {}, VALUE) == 0.5
        assert len(call.plans) <= 8


@pytest.mark.parametrize("name", marked([function.__name__ for function in TAKEN], QUICK.__contains__))
def test_arrays_are_not_kept(name):
    case = next(case for case in CASES if case.loss == name)
    arrays = case.make()
    for _ in range(3):
        case.value_and_grad(arrays)
    kept = [weakref.ref(array) for array in arrays.values()]
    del arrays
    gc.collect()
    assert not [one for one in kept if one() is not None]


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (fl.cross_entropy, {"divisor": 2.5}),
        pytest.param(fl.cross_entropy, {"softcap": 3.0, "z_loss": 0.01}, marks=pytest.mark.slow),
        pytest.param(fl.linear_cross_entropy, {"softcap": 3.0}, marks=pytest.mark.slow),
        *[
            pytest.param(function, {"sample_weight": ...}, marks=() if function.__name__ in QUICK else pytest.mark.slow)
            for function in TAKEN
            if "sample_weight" in function.__fastloss__.common
        ],
    ],
    ids=lambda value: value.__name__ if callable(value) else ",".join(value),
)
def test_arrays_are_not_kept_of_options_in_common(function, options):
    case = next(case for case in CASES if case.loss == function.__name__)
    arrays, given = case.make(), dict(options)
    if "sample_weight" in given:
        given["sample_weight"] = np.ones(np.shape(function(**arrays, **case.options, reduction="none")))
    partial = fl.partial_sum(function)
    for _ in range(3):
        case.value_and_grad(arrays, **given)
        if "divisor" not in given:
            partial(**arrays, **case.options, **given)
    kept = [weakref.ref(array) for array in (*arrays.values(), *given.values()) if isinstance(array, np.ndarray)]
    del arrays, given
    gc.collect()
    assert not [one for one in kept if one() is not None]


def test_arrays_are_not_kept_of_classes_that_lie_innermost_nor_of_sequences():
    x, labels, lengths = np.zeros((2, 4, 3)), np.ones((4, 2), int), np.ones(4, int)
    for _ in range(3):
        fl.value_and_grad(fl.cross_entropy)(x.swapaxes(1, 2), labels.reshape(2, 4))
        fl.value_and_grad(fl.ctc_loss)(x, labels, lengths, lengths)
    kept = [weakref.ref(array) for array in (x, labels, lengths)]
    del x, labels, lengths
    gc.collect()
    assert not [one for one in kept if one() is not None]


def test_nothing_of_the_size_of_weights_is_kept():
    def weigh(count):
        for _ in range(3):
            fl.mse_loss(np.ones(count, np.float32), np.zeros(count, np.float32), sample_weight=np.ones(count, np.int32))

    weigh(10)  # loads the kernels
    tracemalloc.start()
    weigh(20_000)
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 20_000 * 4


def test_arrays_that_may_not_be_written_are_read():
    x, y = np.arange(6.0).reshape(2, 3), np.array([0, 2])
    expected = fl.value_and_grad(fl.cross_entropy)(x, y)
    x.flags.writeable = y.flags.writeable = False
    assert same(fl.value_and_grad(fl.cross_entropy)(x, y), expected)
    assert same(fl.value_and_grad(fl.cross_entropy)(np.array(x), np.array(y)), expected)


def test_errors_come_from_the_plan():
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


_OWNED = {
    "mse_loss": ((np.ones((8, 5)), np.zeros((8, 5))), ("input", "target")),
    "cross_entropy": ((np.ones((8, 5)), np.arange(8) % 5), ("input",)),
    "cosine_embedding_loss": ((np.ones((8, 5)), np.eye(8, 5), np.ones(8)), ("input1", "input2")),
}


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("kind", ["grad", "value_and_grad", "grad_and_hess"])
@pytest.mark.parametrize("name", _OWNED)
def test_every_call_writes_into_the_callers_arrays(name, kind, reduction):
    """The first call makes a plan, the second an executor, and from the third on that runs alone."""
    arrays, wrt = _OWNED[name]
    single = kind == "grad_and_hess"
    function = fl.grad_and_hess(getattr(fl, name)) if single else getattr(fl, kind)(getattr(fl, name), wrt)

    def gradients(found):
        found = found[0] if single else found if kind == "grad" else found[1]
        return (found,) if single else found

    expected = gradients(function(*arrays, reduction=reduction))
    for _ in range(4):
        targets = tuple([np.full((8, 5), np.nan) for _ in expected])
        found = gradients(function(*arrays, reduction=reduction, grad_out=targets[0] if single else targets))
        assert all(one is target for one, target in zip(found, targets, strict=True))
        for target, like in zip(targets, expected, strict=True):
            np.testing.assert_array_equal(target, like)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", ["CrossEntropyLoss", "BCEWithLogitsLoss"])
def test_arrays_that_are_bound_count_beside_the_callers(name, reduction, rng):
    """The weight of a class stands behind the arguments, and before the array that is written."""
    x, labelled = rng.normal(size=(8, 5)), name == "CrossEntropyLoss"
    target, weight = (np.arange(8) % 5, np.ones(5)) if labelled else (np.eye(8, 5), np.ones((8, 5)))
    loss = getattr(fl, name)(weight=weight, reduction=reduction)
    expected = loss.value_and_grad(x, target)
    for _ in range(4):
        gradient = np.full_like(x, np.nan)
        found = loss.value_and_grad(x, target, grad_out=gradient)
        assert found[1] is gradient
        assert same(found, expected)
