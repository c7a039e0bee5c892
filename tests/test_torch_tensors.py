"""torch's tensors outside of the door for torch: autograd is told of writes, users of values that leave autograd."""

from pathlib import Path

import pytest
from cases import quickly

import fastloss as fl

torch = pytest.importorskip("torch")

X = torch.linspace(-2, 2, 12).reshape(4, 3)
LABELS = torch.tensor([0, 1, 2, 1])
HALVES = torch.full((4, 3), 0.5)


@pytest.fixture(autouse=True)
def _unwarned(monkeypatch):
    """Each test may be warned."""
    monkeypatch.setattr("fastloss.call.autograd._warned", set())


def is_bumped(tensor, call):
    """Return whether a call tells autograd that it writes to a tensor."""
    before = tensor._version
    call()
    return tensor._version > before


# Kinds of loss whose results are written in ways of their own, with arguments that are differentiated.
WRITES = {
    "rowwise": (fl.cross_entropy, (X, LABELS), "input"),
    "elementwise": (fl.mse_loss, (X, HALVES), "input"),
    "pairwise": (fl.pairwise_distance, (X, HALVES), "x1"),
    "labels": (fl.multilabel_margin_loss, (X, LABELS.new_tensor([[0, -1, -1]] * 4)), "input"),
    "linear": (fl.linear_cross_entropy, (X, torch.ones(5, 3), LABELS), "input"),
    "composed": (fl.triplet_margin_with_distance_loss, (X, HALVES, -X), "anchor"),
    "chain": (fl.soft_dice_loss, (X, HALVES), "input"),
}


@pytest.mark.parametrize("kind", WRITES)
@pytest.mark.parametrize("strided", [False, True])
def test_a_gradient_that_is_written_bumps_the_version(kind, strided):
    loss, arrays, wrt = WRITES[kind]
    step = fl.grad(loss, wrt)
    target = torch.empty(3, 4).T if strided else torch.empty(4, 3)
    for _ in range(4):  # the first call, the second, and those that are repeated
        assert is_bumped(target, lambda: step(*arrays, grad_out=target))
    torch.testing.assert_close(target, step(*arrays))


def test_values_and_lists_of_gradients_bump_the_version():
    step = fl.value_and_grad(fl.mse_loss, ("input", "target"))
    out, one, two = torch.empty(4, 3), torch.empty(4, 3), torch.empty(4, 3)
    for _ in range(3):
        before = [t._version for t in (out, one, two)]
        step(X, HALVES, reduction="none", out=out, grad_out=(one, two))
        assert all(t._version > b for t, b in zip((out, one, two), before, strict=True))
    pieces = [torch.empty(4, 3), torch.empty(4)]
    assert is_bumped(pieces[1], lambda: fl.grad(fl.l2_penalty)([X, HALVES[:, 0]], 0.1, grad_out=pieces))


def test_a_call_that_is_refused_bumps_nothing():
    target = torch.empty(4, 3)
    for given in ({"input": X[:, :2]}, {"reduction": "median"}):
        arguments = {"input": X, "target": LABELS, **given}
        with pytest.raises((ValueError, IndexError)):
            fl.grad(fl.cross_entropy)(**arguments, grad_out=target)
    assert target._version == 0


def test_autograd_finds_out_that_what_it_saved_was_overwritten():
    w = torch.full((3,), 0.1, requires_grad=True)
    p = torch.sigmoid(X * w)
    _, gradient = fl.value_and_grad(fl.binary_cross_entropy)(p, HALVES, grad_out=p)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        p.backward(gradient)
    # A sum does not need what it returned.
    logits = X + w
    expected = fl.grad(fl.cross_entropy)(X + w.detach(), LABELS)
    _, gradient = fl.value_and_grad(fl.cross_entropy)(logits, LABELS, grad_out=logits)
    logits.backward(gradient)
    torch.testing.assert_close(w.grad, expected.sum(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_leaf_that_requires_grad_is_no_output(dtype):
    x = X.to(dtype)
    step = fl.value_and_grad(fl.cross_entropy)
    for _ in range(3):
        step(x, LABELS, grad_out=torch.empty_like(x))  # calls of this kind are known
    leaf = torch.ones(4, 3, dtype=dtype, requires_grad=True)
    for given in (leaf, leaf.view(4, 3), torch.nn.Parameter(torch.ones(4, 3, dtype=dtype))):
        with pytest.raises(ValueError, match="grad_out is a leaf tensor that requires grad"):
            step(x, LABELS, grad_out=given)
    assert torch.equal(leaf, torch.ones_like(leaf))
    with pytest.raises(ValueError, match=r"^out is a leaf tensor"):
        fl.value_and_grad(fl.mse_loss)(x, x, reduction="none", out=leaf)
    with torch.no_grad():
        step(x, LABELS, grad_out=leaf)
    assert torch.equal(leaf, fl.grad(fl.cross_entropy)(x, LABELS))


def test_a_value_outside_of_autograd_warns_once_a_loss_at_the_line_of_the_caller():
    tracked = X.clone().requires_grad_()
    for _ in range(3):
        fl.mse_loss(X, HALVES)  # such calls are known
    with pytest.warns(fl.AutogradWarning, match=r"mse_loss .*fastloss\.torch") as caught:
        value = fl.mse_loss(tracked, HALVES)
    assert len(caught) == 1
    assert Path(caught[0].filename) == Path(__file__)
    assert not value.requires_grad
    fl.mse_loss(tracked, HALVES)
    fl.MSELoss()(tracked, HALVES)
    with pytest.warns(fl.AutogradWarning, match=r"huber_loss .*fastloss\.torch"):
        fl.HuberLoss()(tracked, HALVES)
    with pytest.warns(fl.AutogradWarning, match="l2_penalty"):
        fl.l2_penalty([tracked, tracked], 0.5)
    assert issubclass(fl.AutogradWarning, UserWarning)


def test_what_needs_no_warning_gives_none():
    tracked = X.clone().requires_grad_()
    with torch.no_grad():
        fl.l1_loss(tracked, HALVES)
    with torch.inference_mode():
        fl.l1_loss(tracked, HALVES)
    fl.value_and_grad(fl.l1_loss)(tracked, HALVES)
    fl.L1Loss().grad(tracked, HALVES)
    fl.l1_loss(tracked.detach(), HALVES)


@pytest.mark.parametrize("name", ["soft_dice_loss", "triplet_margin_with_distance_loss", "info_nce_loss"])
def test_a_loss_of_losses_warns_for_itself_alone(name):
    tracked = X.clone().requires_grad_()
    arrays = (tracked, HALVES, -X)[: 3 if name.startswith("triplet") else 2]
    with pytest.warns(fl.AutogradWarning) as caught:
        getattr(fl, name)(*arrays)
    assert [name in str(one.message) for one in caught] == [True]


# -- torch.compile -----------------------------------------------------------------------------------------------------

COMPILED = {
    "function": lambda x: fl.cross_entropy(x, LABELS),
    "options": lambda x: fl.huber_loss(x, HALVES, delta=0.5, reduction="none"),
    "map": lambda x: fl.softmax(x, dim=1),
    "transform": lambda x: fl.value_and_grad(fl.cross_entropy)(x, LABELS)[1],
    "class": lambda x: fl.CrossEntropyLoss(label_smoothing=0.1)(x, LABELS),
    "class's gradient": lambda x: fl.SmoothL1Loss(beta=2.0).grad(x, HALVES),
    "into": lambda x: fl.grad(fl.mse_loss)(x, HALVES, grad_out=torch.empty_like(x)),
    "arrays": lambda x: torch.from_numpy(fl.grad(fl.mse_loss)(x.numpy(), HALVES.numpy())),
}


@pytest.mark.parametrize("warm", quickly(False, then=[True]), ids=["cold", "warm"])
@pytest.mark.parametrize("kind", COMPILED)
@pytest.mark.filterwarnings("ignore")
def test_torch_compile_breaks_the_graph_and_gives_the_right_number(kind, warm):
    function = COMPILED[kind]
    if warm:
        for _ in range(3):
            function(X + 1)
    else:
        forget_plans()
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: function(x + 1) * 2, backend="eager")
    found = [compiled(X) for _ in range(3)]
    expected = function(X + 1) * 2
    assert all(torch.equal(one, expected) for one in found)


def forget_plans():
    """Let calls of these losses be the first ones."""
    for loss in (fl.cross_entropy, fl.huber_loss, fl.softmax, fl.mse_loss, fl.smooth_l1_loss):
        for cell in loss.__closure__:
            call = cell.cell_contents
            if hasattr(call, "plans"):
                call.plans.clear()
                call.last = lambda *_: None


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_compiled_says_what_can():
    torch._dynamo.reset()
    with pytest.raises(Exception, match=r"fastloss\.torch"):
        torch.compile(lambda x: fl.mse_loss(x, x), fullgraph=True, backend="eager")(X)


@pytest.mark.filterwarnings("ignore")
def test_tensors_without_numbers_are_refused_by_what_they_are():
    from torch._subclasses.fake_tensor import FakeTensorMode

    for _ in range(3):
        fl.mse_loss(X, HALVES)  # a call of the kind is known
    for transform in (torch.func.grad, torch.func.vmap, torch.func.functionalize):
        with pytest.raises(TypeError, match=r"input: a tensor inside of a transform of torch\.func"):
            transform(lambda x: fl.mse_loss(x, x.detach()))(X)
    with FakeTensorMode(), pytest.raises(TypeError, match=r"input: a FakeTensor does not show its numbers.*fastloss"):
        fl.mse_loss(torch.empty(4, 3), torch.empty(4, 3))
    with pytest.raises(TypeError, match="meta"):
        fl.mse_loss(X.to("meta"), X.to("meta"))
    with pytest.raises(TypeError, match="complex64 is not supported"):
        fl.mse_loss(X + 1j, X + 1j)


def test_parameters_of_a_layer_are_loaded_though_they_require_grad():
    layer = fl.AdaptiveLogSoftmaxWithLoss(3, 5, [2], dtype=torch.float32)
    weight = layer.head.weight = torch.nn.Parameter(torch.zeros_like(layer.head.weight))
    before = weight._version
    layer.load_state_dict({name: torch.ones_like(array) for name, array in layer.state_dict().items()})
    assert torch.equal(weight, torch.ones_like(weight))
    assert weight._version > before


def test_a_divisor_in_bfloat16():
    divisor = torch.tensor([4.0], dtype=torch.bfloat16)
    for given in (X, X.numpy()):
        for number in (4.0, 8.0, 8.0):
            divisor[0] = number
            assert fl.mse_loss(given, given + 1, divisor=divisor) == 12 / number
