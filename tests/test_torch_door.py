"""The door to torch: the same values and gradients, torch's order of arguments, modules, transforms, the compiler."""

import copy
import inspect
import pickle
import warnings

import numpy as np
import pytest
from cases import ACTIVE, PLAIN, TYPICAL, marked, quickly, typical

import fastloss as fl

torch = pytest.importorskip("torch", reason="torch is not installed: there is no door to it")
F = pytest.importorskip("fastloss.torch")
T = torch.nn.functional


def tensors_of(case, dtype=torch.float64, seed=0):
    """Return the arrays of a case as tensors; those that it differentiates require grad."""
    arrays = case.make(seed=seed)
    made = {}
    for name, array in arrays.items():
        made[name] = torch.from_numpy(np.array(array))
        if made[name].is_floating_point():
            made[name] = made[name].to(dtype)
    for name in case.wrt(arrays):
        made[name].requires_grad_()
    return made


def differentiated(function, tensors, grad_output=None):
    """Return a value, and the gradients of the tensors that require one."""
    value = function(**tensors)
    upstream = torch.ones_like(value) if grad_output is None else grad_output(value)
    return value, torch.autograd.grad(value, [a for a in tensors.values() if a.requires_grad], upstream)


def weights_like(value):
    return torch.linspace(-1, 2, value.numel(), dtype=value.dtype).reshape(value.shape)


@pytest.mark.parametrize("case", marked(ACTIVE, lambda case: case in PLAIN and case.loss in TYPICAL))
def test_value_and_gradients_are_those_of_the_transform(case):
    tensors = tensors_of(case)
    arrays = {name: a.detach().numpy() for name, a in tensors.items()}
    names = tuple(name for name, a in tensors.items() if a.requires_grad)
    for reduction in case.reductions:
        value, gradients = differentiated(
            lambda r=reduction, **given: getattr(F, case.loss)(**given, **case.options, **r), tensors, weights_like
        )
        upstream = weights_like(value).numpy()
        exact, expected = case.value_and_grad(
            arrays, names, grad_output=upstream if upstream.ndim else float(upstream), **reduction
        )
        np.testing.assert_allclose(value.detach().numpy(), exact, rtol=1e-14)
        assert not any(gradient.requires_grad for gradient in gradients)
        for gradient, one in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(gradient.numpy(), one, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_gradcheck(case):
    if case.loss in ("ctc_loss",):  # torch's gradient of it is that behind a log_softmax
        pytest.skip("not the derivative, as in torch")
    tensors = tensors_of(case, seed=3)
    differentiable = [name for name, a in tensors.items() if a.requires_grad]

    def function(*given):
        return getattr(F, case.loss)(**{**tensors, **dict(zip(differentiable, given, strict=True))}, **case.options)

    assert torch.autograd.gradcheck(function, tuple(tensors[name] for name in differentiable))


def test_gradcheck_of_ctc_through_log_softmax():
    targets, lengths = torch.randint(1, 5, (3, 3)), torch.tensor([3, 2, 1])
    x = torch.randn(7, 3, 5, dtype=torch.float64, requires_grad=True)
    for reduction in ("mean", "none"):
        assert torch.autograd.gradcheck(
            lambda x, r=reduction: F.ctc_loss(F.log_softmax(x, -1), targets, (7, 5, 6), lengths, reduction=r), (x,)
        )


# Positional calls of torch, every place filled: the same arguments go to both.
LEGACY = (None, None)
POSITIONAL = {
    "l1_loss": ("xx", *LEGACY, "sum"),
    "mse_loss": ("xx", *LEGACY, "sum", "w"),
    "smooth_l1_loss": ("xx", *LEGACY, "none", 0.7),
    "huber_loss": ("xx", "sum", 0.7, "w"),
    "poisson_nll_loss": ("xp", False, True, None, 1e-3, None, "sum"),
    "gaussian_nll_loss": ("xxp", True, 1e-3, "sum"),
    "kl_div": ("xx", *LEGACY, "batchmean", True),
    "binary_cross_entropy": ("uu", "w", *LEGACY, "sum"),
    "binary_cross_entropy_with_logits": ("xu", "w", *LEGACY, "sum", "w"),
    "hinge_embedding_loss": ("xs", 0.4, *LEGACY, "sum"),
    "soft_margin_loss": ("xs", *LEGACY, "sum"),
    "nll_loss": ("xi", "c", None, 2, None, "sum"),
    "cross_entropy": ("xi", "c", None, 2, None, "sum", 0.3),
    "multi_margin_loss": ("xi", 2, 0.6, "c", *LEGACY, "sum"),
    "multilabel_soft_margin_loss": ("xu", "c", *LEGACY, "sum"),
    "margin_ranking_loss": ("xxs", 0.3, *LEGACY, "sum"),
    "cosine_embedding_loss": ("xxr", 0.3, *LEGACY, "sum"),
    "triplet_margin_loss": ("xxx", 0.6, 3.0, 1e-3, True, *LEGACY, "sum"),
    "cosine_similarity": ("xx", 0, 1e-3),
    "pairwise_distance": ("xx", 3.0, 1e-3, True),
    "softmax": ("x", 0, 3, torch.float64),
    "log_softmax": ("x", 0, 3, torch.float64),
}


def positional(name):
    torch.manual_seed(5)
    kinds, *rest = POSITIONAL[name]
    make = {
        "x": lambda: torch.randn(6, 4),
        "p": lambda: torch.rand(6, 4) + 1.5,
        "u": lambda: torch.rand(6, 4) * 0.8 + 0.1,
        "s": lambda: torch.randint(2, (6, 4)) * 2.0 - 1,
        "r": lambda: torch.randint(2, (6,)) * 2.0 - 1,
        "i": lambda: torch.randint(4, (6,)),
        "w": lambda: torch.rand(6, 4),
        "c": lambda: torch.rand(4),
    }
    if name == "poisson_nll_loss":
        kinds = "pp"
    return [*[make[kind]() for kind in kinds], *[make[one]() if one in make else one for one in rest]]


@pytest.mark.parametrize("name", typical(POSITIONAL))
def test_positional_arguments_are_those_of_torch(name):
    args = positional(name)
    expected, actual = getattr(T, name)(*args), getattr(F, name)(*args)
    torch.testing.assert_close(actual, expected, rtol=3e-6, atol=3e-6)


def test_too_many_and_doubled_arguments_are_errors():
    x = torch.randn(3)
    with pytest.raises(TypeError, match="takes 6 positional arguments but 7"):
        F.smooth_l1_loss(x, x, None, None, "mean", 1.0, 2)
    with pytest.raises(TypeError, match="multiple values for argument 'target'"):
        F.mse_loss(x, x, target=x)
    with pytest.raises(TypeError, match="input must be a tensor, got list"):
        F.mse_loss([1.0], x)
    with pytest.raises(TypeError):
        F.mse_loss(x, x, delta=1)


def test_size_average_and_reduce():
    x, y = torch.randn(2, 5)
    for average, reduce in ((True, True), (False, True), (None, False), (False, None), (True, None)):
        with pytest.warns(DeprecationWarning, match="size_average and reduce are deprecated"):
            actual = F.mse_loss(x, y, average, reduce)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.testing.assert_close(actual, T.mse_loss(x, y, average, reduce))


# Autograd


def test_accumulated_scaled_and_shared_gradients():
    x, y = torch.randn(8, 5, requires_grad=True), torch.randint(5, (8,))

    def gradient(module):
        x.grad = None
        total = module.cross_entropy(x, y) / 4
        total = total + 3 * module.multi_margin_loss(x, y) + module.cross_entropy(x, y, reduction="none").square().sum()
        total.backward()
        F.mse_loss(x, torch.zeros_like(x)).backward()
        return x.grad

    torch.testing.assert_close(gradient(F), gradient(T).clone())


@pytest.mark.parametrize("reduction", quickly("mean", then=["none"]))
def test_a_number_that_is_learned(reduction):
    results = []
    x, y = torch.randn(2, 5)
    for module in (F, T):
        mean, var = torch.tensor([0.3, 0.7], requires_grad=True).unbind()
        loss = module.gaussian_nll_loss(x, y, var, reduction=reduction)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a number is another shape
            loss = (loss + module.mse_loss(mean, y, reduction=reduction)).sum()
            results.append([loss, *torch.autograd.grad(loss, (mean, var))])
    torch.testing.assert_close(*results)


def test_value_may_be_changed_in_place():
    x, y = torch.randn(8, 5, requires_grad=True), torch.randint(5, (8,))
    loss = F.cross_entropy(x, y)
    loss /= 4
    loss.backward()
    (expected,) = torch.autograd.grad(T.cross_entropy(x, y) / 4, x)
    torch.testing.assert_close(x.grad, expected)
    assert not x.grad.requires_grad


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_second_backward(reduction):
    x, y = torch.randn(8, 5, requires_grad=True), torch.randint(5, (8,))
    loss = F.cross_entropy(x, y, reduction=reduction).sum()
    (loss * 3).backward(retain_graph=True)
    first = x.grad.clone()
    loss.backward(retain_graph=True)
    loss.backward()
    torch.testing.assert_close(x.grad, first * 5 / 3)
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        loss.backward()


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(
    "penalty", [lambda loss, g: g.square().sum(), lambda loss, g: g.sum(), lambda loss, g: (loss * g).sum()]
)
def test_second_derivative_is_an_error_that_names_torch(reduction, penalty):
    x, y = torch.randn(8, 5, requires_grad=True), torch.randint(5, (8,))
    loss = F.cross_entropy(x, y, reduction=reduction).square().mean()
    (g,) = torch.autograd.grad(loss, x, create_graph=True)
    torch.testing.assert_close(g, torch.autograd.grad(T.cross_entropy(x, y, reduction=reduction).square().mean(), x)[0])
    with pytest.raises(
        RuntimeError, match=r"cross_entropy has no second derivatives: use torch\.nn\.functional\.cross"
    ):
        penalty(loss, g).backward()
    (g,) = torch.autograd.grad(F.cross_entropy(x, y, reduction=reduction).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(g.sum(), x)


def test_create_graph_that_nobody_differentiates():
    x, y = torch.randn(8, 5, requires_grad=True), torch.randint(5, (8,))
    scale = torch.ones((), requires_grad=True)
    (g,) = torch.autograd.grad(F.cross_entropy(x, y) * scale, x, create_graph=True)
    (slope,) = torch.autograd.grad(g.sum(), scale)  # linear in the upstream gradient: no second derivative of the loss
    torch.testing.assert_close(slope, g.sum().detach())


def test_no_graph_where_none_is_wanted():
    x, y = torch.randn(8, 5, requires_grad=True), torch.randint(5, (8,))
    with torch.no_grad():
        assert not F.cross_entropy(x, y).requires_grad
    assert not F.cross_entropy(x.detach(), y).requires_grad
    with torch.inference_mode():
        assert F.cross_entropy(x, y, reduction="none").shape == (8,)


def test_what_is_not_differentiable_says_so():
    x, y = torch.randn(8, 5, requires_grad=True), torch.randint(5, (8,))
    with pytest.raises(ValueError, match="not differentiable with respect to 'target'"):
        F.soft_margin_loss(x, torch.ones(8, 5, requires_grad=True))
    with pytest.raises(IndexError):
        F.cross_entropy(x, y + 5)


def test_input_overwritten_before_backward_is_found_out():
    x = torch.randn(8, 5, requires_grad=True)
    hidden = x * 1
    loss = F.cross_entropy(hidden, torch.randint(5, (8,)), reduction="none").sum()
    hidden.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.slow
def test_deterministic_algorithms_raise_nothing():
    x, y = torch.randn(3, 5, 4, requires_grad=True), torch.randint(5, (3, 4))
    torch.use_deterministic_algorithms(True)
    try:
        F.nll_loss(F.log_softmax(x, 1), y).backward()
        F.cross_entropy(x, y, reduction="none").sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


# Transforms of torch.func


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_functional_transforms(reduction):
    x, y = torch.randn(4, 6, 5, dtype=torch.float64), torch.randint(5, (6,))

    def ours(x):
        return F.cross_entropy(x, y, reduction=reduction).sin().sum()

    def theirs(x):
        return T.cross_entropy(x, y, reduction=reduction).sin().sum()

    for transform in (
        torch.func.grad,
        torch.vmap,
        torch.func.jacrev,
        lambda f: torch.vmap(torch.func.grad(f)),
        lambda f: torch.func.grad(lambda x: torch.vmap(f)(x).square().sum()),
    ):
        first = x if transform in (torch.vmap,) or transform.__name__ == "<lambda>" else x[0]
        torch.testing.assert_close(transform(ours)(first), transform(theirs)(first))
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.func.jacrev(torch.func.jacrev(ours))(x[0])


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_vmap_over_no_entries(reduction):
    x, y = torch.randn(0, 6, 5), torch.randint(5, (6,))

    def loss(x):
        return F.cross_entropy(x, y, reduction=reduction)

    shape = T.cross_entropy(torch.randn(6, 5), y, reduction=reduction).shape
    assert torch.vmap(loss)(x).shape == (0, *shape)
    assert torch.vmap(torch.func.grad(lambda x: loss(x).sum()))(x).shape == x.shape


def test_gradients_per_sample_of_a_model():
    model = torch.nn.Linear(4, 3)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    x, y = torch.randn(7, 4), torch.randint(3, (7,))

    def per_sample(module):
        def loss(weights, x, y):
            return module.cross_entropy(torch.func.functional_call(model, weights, (x[None],)), y[None])

        return torch.vmap(torch.func.grad(loss), (None, 0, 0))(weights, x, y)

    for actual, expected in zip(per_sample(F).values(), per_sample(T).values(), strict=True):
        torch.testing.assert_close(actual, expected)


def test_forward_mode_is_an_error_that_names_torch():
    x, y = torch.randn(8, 5), torch.randint(5, (8,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its own
        for reduction in ("mean", "none"):
            with pytest.raises(RuntimeError, match="no forward-mode derivatives: use"):
                torch.func.jvp(lambda x, r=reduction: F.cross_entropy(x, y, reduction=r), (x,), (x,))
        with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match="no forward-mode derivatives"):
            F.cross_entropy(torch.autograd.forward_ad.make_dual(x, x), y)


# dtypes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_has_the_dtypes_of_torch(dtype):
    x, y = torch.randn(8, 5).to(dtype).requires_grad_(), torch.randint(5, (8,))
    for reduction in ("mean", "none"):
        actual, expected = (m.cross_entropy(x, y, reduction=reduction) for m in (F, T))
        assert actual.dtype == expected.dtype == dtype
        tolerance = {"rtol": 1e-2, "atol": 1e-3}  # torch rounds more often
        torch.testing.assert_close(actual, expected, **tolerance)
        gradients = [torch.autograd.grad(v.sum(), x)[0] for v in (actual, expected)]
        torch.testing.assert_close(*gradients, **tolerance)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual, expected = (m.cross_entropy(x, y, reduction=reduction) for m in (F, T))
        assert actual.dtype == expected.dtype == torch.float32
        torch.testing.assert_close(actual, expected)
        (gradient,) = torch.autograd.grad(actual.sum(), x)
        assert gradient.dtype == dtype


@pytest.mark.slow
def test_what_torch_computes_by_single_operations_stays_half_under_autocast():
    x = torch.randn(8, 5).bfloat16()
    weight = torch.rand(8, 5).bfloat16()

    def distance(a, b):
        return 1 - T.cosine_similarity(a, b)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        for name, args, options in (
            ("mse_loss", (x, x + 1), {"weight": weight}),
            ("huber_loss", (x, x + 1), {"weight": weight}),
            ("triplet_margin_with_distance_loss", (x, x + 1, -x), {"distance_function": distance}),
        ):
            actual, expected = (getattr(module, name)(*args, **options) for module in (F, T))
            assert actual.dtype == expected.dtype
            torch.testing.assert_close(actual, expected, rtol=2e-2, atol=1e-2)


def test_scaled_float16_gradients_keep_what_the_scale_is_for():
    x = torch.zeros(4096, 512, dtype=torch.float16, requires_grad=True)
    (F.cross_entropy(x, torch.zeros(4096, dtype=torch.int64)) * 2.0**15).backward()
    assert x.grad[0, 1] == torch.tensor(2.0**15 / 4096 / 512, dtype=torch.float16)


@pytest.mark.parametrize(
    "name",
    quickly("mse_loss", "cross_entropy", then=["huber_loss", "kl_div", "soft_margin_loss", "margin_ranking_loss"]),
)
def test_mixed_dtypes_come_to_that_of_torch(name):
    for dtypes in ((torch.float32, torch.float64), (torch.float64, torch.float32), (torch.bfloat16, torch.float32)):
        args = [torch.rand(6, 4).to(dtypes[0]), torch.rand(6, 4).to(dtypes[1])]
        if name == "margin_ranking_loss":
            args = [*args, torch.ones(6, 4)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # kl_div announces a change with every call
            assert getattr(F, name)(*args).dtype == getattr(T, name)(*args).dtype


def test_wider_targets_that_do_not_widen_the_value():
    x, signs = torch.rand(6, 4), torch.ones(6)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        wide = torch.float64 if dtype == torch.float32 else torch.float32
        narrow = x.to(dtype)
        for name, args, options in (
            ("cosine_embedding_loss", (narrow, 1 - narrow, signs.to(wide)), {}),
            ("huber_loss", (narrow, 1 - x.to(wide)), {"weight": narrow}),
        ):
            assert getattr(F, name)(*args, **options).dtype == getattr(T, name)(*args, **options).dtype == dtype


@pytest.mark.parametrize("name", quickly("mse_loss", then=["l1_loss", "huber_loss"]))
def test_wider_weights_of_elements_widen_the_value(name):
    x, weight = torch.randn(6, 4).bfloat16(), torch.rand(6, 4)
    for reduction in ("mean", "none"):
        expected = getattr(T, name)(x, x + 1, weight=weight, reduction=reduction)
        assert expected.dtype == torch.float32
        actual = getattr(F, name)(x, x + 1, weight=weight, reduction=reduction)
        torch.testing.assert_close(actual, expected, rtol=1e-2, atol=1e-2)


# Modules

# Where there is a choice, with options whose kernels other tests of these functions take too.
MODULES = {
    "L1Loss": "xx",
    "MSELoss": "xx",
    "SmoothL1Loss": ("xx", {"beta": 0.4, "reduction": "none"}),
    "HuberLoss": ("xx", {"delta": 0.4}),
    "PoissonNLLLoss": ("pp", {"log_input": False, "full": True}),
    "GaussianNLLLoss": "xxp",
    "KLDivLoss": ("xx", {"reduction": "batchmean", "log_target": True}),
    "BCELoss": ("uu", {"weight": "w"}),
    "BCEWithLogitsLoss": ("xu", {"weight": "w", "pos_weight": "w"}),
    "HingeEmbeddingLoss": ("xs", {"margin": 0.4}),
    "SoftMarginLoss": "xs",
    "NLLLoss": ("xi", {"weight": "c", "ignore_index": 1}),
    "CrossEntropyLoss": ("xi", {"weight": "c", "label_smoothing": 0.2}),
    "MultiMarginLoss": ("xi", {"p": 2, "weight": "c"}),
    "MultiLabelMarginLoss": "xl",
    "MultiLabelSoftMarginLoss": ("xu", {"weight": "c"}),
    "MarginRankingLoss": ("xxs", {"margin": 0.4}),
    "CosineEmbeddingLoss": ("xxr", {"margin": 0.4}),
    "TripletMarginLoss": ("xxx", {"p": 3.0, "swap": True}),
    "TripletMarginWithDistanceLoss": ("xxx", {"margin": 0.7}),
    "CosineSimilarity": ("xx", {"eps": 1e-3}),
    "PairwiseDistance": ("xx", {"p": 3.0, "keepdim": True}),
    "Softmax": ("x", {"dim": 1}),
    "LogSoftmax": ("x", {"dim": 1}),
    "LogSigmoid": "x",
    "Sigmoid": "x",
}
MAKE = {
    "x": lambda: torch.randn(6, 4),
    "p": lambda: torch.rand(6, 4) + 1.5,
    "u": lambda: torch.rand(6, 4) * 0.8 + 0.1,
    "s": lambda: torch.randint(2, (6, 4)) * 2.0 - 1,
    "r": lambda: torch.randint(2, (6,)) * 2.0 - 1,
    "i": lambda: torch.randint(4, (6,)),
    "l": lambda: torch.tensor([[2, 0, -1, 3]]).repeat(6, 1),
    "w": lambda: torch.rand(6, 4),
    "c": lambda: torch.rand(4),
}


def module_case(name):
    torch.manual_seed(7)
    kinds, options = MODULES[name] if isinstance(MODULES[name], tuple) else (MODULES[name], {})
    made = {key: MAKE[value]() if value in ("w", "c") else value for key, value in options.items()}
    return [MAKE[kind]() for kind in kinds], made


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_those_of_torch(name):
    args, options = module_case(name)
    ours, theirs = getattr(F, name)(**options), getattr(torch.nn, name)(**options)
    assert isinstance(ours, getattr(torch.nn, name))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert repr(ours) == repr(theirs)
    for one in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        torch.testing.assert_close(one(*args), theirs(*args), rtol=3e-6, atol=3e-6)
    assert all(weight.dtype == torch.float64 for weight in ours.double().buffers())


def test_weights_of_a_module_move_with_it():
    (x, y), options = module_case("NLLLoss")
    ours, theirs = (library.NLLLoss(**options).double() for library in (F, torch.nn))
    torch.testing.assert_close(ours(x.double(), y), theirs(x.double(), y))


def test_every_loss_class_has_a_module():
    classes = {name for name, one in vars(fl).items() if isinstance(one, type) and name.endswith(("Loss", "Penalty"))}
    assert classes <= {name for name, one in vars(F).items() if isinstance(one, type)}
    assert {name for name in dir(torch.nn) if name.endswith("Loss")} - {"NLLLoss2d"} <= set(dir(F))


def test_every_loss_function_is_there():
    functions = {name for name, one in vars(fl).items() if hasattr(one, "__fastloss__")}
    assert functions <= set(dir(F))
    for name in functions:
        if hasattr(T, name) and name not in ("logsigmoid", "cosine_similarity", "pairwise_distance"):
            theirs = list(inspect.signature(getattr(T, name)).parameters)
            assert list(inspect.signature(getattr(F, name)).parameters)[: len(theirs)] == theirs


@pytest.mark.parametrize("name", ["FocalLoss", "SigmoidFocalLoss", "SCELoss"])
def test_modules_of_losses_that_torch_lacks(name):
    x = torch.rand(6, 4, requires_grad=True)
    y = torch.randint(4, (6,)) if name == "SCELoss" else torch.randint(2, (6, 4)).float()
    module = getattr(F, name)(reduction="sum")
    loss = pickle.loads(pickle.dumps(module))(x, y)
    loss.backward()
    value, gradient = getattr(fl, name)(reduction="sum").value_and_grad(x.detach(), y)
    torch.testing.assert_close(loss.detach(), value)
    torch.testing.assert_close(x.grad, gradient)
    assert "reduction='sum'" in repr(module)


def test_penalties_of_parameters():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    (F.l2_penalty(model.parameters(), 0.3) + F.L1Penalty(0.2)(list(model.parameters()))).backward()
    for p in model.parameters():
        torch.testing.assert_close(p.grad, 0.3 * p.detach() + 0.2 * p.detach().sign())
    x = torch.randn(3, requires_grad=True)
    (gradient,) = torch.autograd.grad(F.l2_penalty(x, 0.5), x)
    torch.testing.assert_close(gradient, 0.5 * x.detach())


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("out_features", [(), (3,)])
def test_linear_cross_entropy_module(reduction, out_features):
    torch.manual_seed(1)
    options = {"out_features": out_features, "bias": True, "reduction": reduction, "weight": torch.rand(5)}
    theirs, ours = torch.nn.LinearCrossEntropyLoss(6, 5, **options), F.LinearCrossEntropyLoss(6, 5, **options)
    ours.load_state_dict(theirs.state_dict())
    x, y = torch.randn(9, 6, requires_grad=True), torch.randint(5, (9, *out_features))
    results = []
    for module in (ours, theirs):
        loss = module(x, y)
        results.append([loss, *torch.autograd.grad((loss * weights_like(loss)).sum(), [x, *module.parameters()])])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_adaptive_module():
    torch.manual_seed(1)
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(8, 20, [4, 11], div_value=2.0, head_bias=True)
    ours = F.AdaptiveLogSoftmaxWithLoss(8, 20, [4, 11], div_value=2.0, head_bias=True)
    ours.load_state_dict(theirs.state_dict())
    x, y = torch.randn(15, 8, requires_grad=True), torch.randint(20, (15,))
    results = []
    for module in (ours, theirs):
        output, loss = module(x, y)
        results.append([output, loss, *torch.autograd.grad(3 * loss, [x, *module.parameters()], retain_graph=True)])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.predict(x), theirs.predict(x))
    with pytest.raises(RuntimeError, match="differentiates its loss, not its output"):
        ours(x, y).output.sum().backward()


def test_triplets_with_a_distance():
    results = []
    a, p, n = torch.randn(3, 6, 4, dtype=torch.float64).unbind()
    a.requires_grad_()
    for distance in (None, lambda u, v: 1 - F.cosine_similarity(u, v), lambda u, v: (u - v).abs().sum(-1)):
        options = {"distance_function": distance, "margin": 0.8, "swap": True}
        for module in (F, T):
            loss = module.triplet_margin_with_distance_loss(a, p, n, **options)
            grads = torch.autograd.grad(loss, a)
            results.append([loss, *grads])
        torch.testing.assert_close(*results[-2:])
        torch.testing.assert_close(F.TripletMarginWithDistanceLoss(**options)(a, p, n), loss)
    with pytest.raises(ValueError, match="margin must be positive"):
        F.triplet_margin_with_distance_loss(a, p, n, distance_function=torch.dist, margin=0.0)
    with pytest.raises(TypeError, match="must be a function of two tensors, or None, got 'cosine'"):
        F.triplet_margin_with_distance_loss(a, p, n, distance_function="cosine")


def test_training_follows_the_same_curve():
    torch.manual_seed(0)
    x = torch.randn(200, 10)
    y = (x @ torch.randn(10, 4)).argmax(1)
    start = torch.nn.Sequential(torch.nn.Linear(10, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))

    def curve(module):
        model = copy.deepcopy(start)
        loss_of = module.CrossEntropyLoss(label_smoothing=0.05)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        losses = []
        for _ in range(60):
            optimiser.zero_grad()
            loss = loss_of(model(x), y)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        return losses

    ours, theirs = curve(F), curve(torch.nn)
    assert theirs[-1] < theirs[0] / 2
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


# Operators


def operator_call(case, reduction, requires_grad=False):
    """Return the operator of a loss, and its arguments."""
    arrays = {name: a.requires_grad_(requires_grad and a.requires_grad) for name, a in tensors_of(case).items()}
    operator = F.functional.DOORS[case.loss].operator
    return operator.forward, operator.arguments({**arrays, **case.options, **reduction}, case.wrt(case.make()))


@pytest.mark.parametrize("case", marked(ACTIVE, lambda case: case in PLAIN and case.loss in TYPICAL))
def test_operator_is_what_torch_expects(case):
    for reduction in case.reductions:
        torch.library.opcheck(*operator_call(case, reduction), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("loss", ["cross_entropy", "nll_loss", "softmax", "logsumexp", "soft_dice_loss", "mse_loss"])
def test_results_of_an_operator_lie_as_torch_is_told(loss):
    x = torch.rand(2, 5, 3, 4).to(memory_format=torch.channels_last)
    labels = torch.randint(5, (2, 3, 4))
    own = {"softmax": {"dim": 1}, "logsumexp": {"dim": 1}, "soft_dice_loss": {"target": x}, "mse_loss": {"target": x}}
    operator = F.functional.DOORS[loss].operator
    args = operator.arguments({"input": x, **own.get(loss, {"target": labels})}, ("input",))
    for function, given in ((operator.forward, args), (operator.backward, (operator.forward(*args)[0], *args))):
        torch.library.opcheck(function, given, test_utils="test_faketensor")


@pytest.mark.slow
@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_operator_with_all_of_torchs_checks(case):
    for reduction in case.reductions:
        torch.library.opcheck(*operator_call(case, reduction))
        # The others differentiate every output, the gradients too, which is an error.
        torch.library.opcheck(*operator_call(case, reduction, True), test_utils="test_autograd_registration")


def compiled(function, **options):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, **options)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, of its own
@pytest.mark.parametrize("reduction", quickly("mean", then=["none"]))
def test_a_compiled_backward_pass_of_a_loss_that_is_not_compiled(reduction):
    uncompiled = torch.compiler.disable(F.cross_entropy)
    x, y = torch.randn(8, 5, requires_grad=True), torch.randint(5, (8,))

    def step(x):
        uncompiled(x, y, reduction=reduction).sum().backward()

    torch._dynamo.reset()
    with torch._dynamo.config.patch(compiled_autograd=True):
        torch.compile(step, backend="aot_eager")(x)
    compiled_gradient, x.grad = x.grad, None
    step(x)
    torch.testing.assert_close(compiled_gradient, x.grad)


def test_compiles_to_one_graph():
    module = F.CrossEntropyLoss(label_smoothing=0.1)

    def step(x, y):
        return module(x * 2, y) * 3 + F.mse_loss(x, x.detach() + 1, reduction="none").square().sum()

    fast = compiled(step, backend="aot_eager")
    for size in (8, 11, 12):  # the second compiles for all sizes
        x, y = torch.randn(size, 5, requires_grad=True), torch.randint(5, (size,))
        for actual, expected in zip(*[(f(x, y), *torch.autograd.grad(f(x, y), x)) for f in (fast, step)], strict=True):
            torch.testing.assert_close(actual, expected)


@pytest.mark.slow
@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_every_loss_compiles_to_one_graph(case):
    tensors = tensors_of(case)
    for reduction in case.reductions:

        def function(r=reduction, **given):
            return getattr(F, case.loss)(**given, **case.options, **r)

        for actual, expected in zip(
            *[differentiated(f, tensors, weights_like) for f in (compiled(function, backend="aot_eager"), function)],
            strict=True,
        ):
            torch.testing.assert_close(actual, expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of its own
def test_compiles_with_the_default_backend():
    torch.manual_seed(3)
    adaptive = F.AdaptiveLogSoftmaxWithLoss(8, 20, [4, 11], div_value=2.0)
    parameters = list(adaptive.parameters())
    x, y = torch.randn(15, 8, requires_grad=True), torch.randint(20, (15,))

    def step(x, y):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = x @ x.T
            loss = F.cross_entropy(logits, y % 15) + F.cross_entropy(logits, y % 15, reduction="none").sum()
        return loss + adaptive(x, y).loss + F.l2_penalty(parameters, 0.1) + F.sigmoid_focal_loss(x, x.detach() > 0)

    both = [(f(x, y), *torch.autograd.grad(f(x, y), [x, *parameters])) for f in (compiled(step), step)]
    for actual, expected in zip(*both, strict=True):
        torch.testing.assert_close(actual, expected, rtol=5e-2, atol=5e-2)  # bfloat16 is rounded elsewhere


def test_operator_refuses_what_it_has_no_place_for():
    x = torch.ones(3, device="meta")
    with pytest.raises(TypeError, match="unexpected keyword argument 'delta'"):
        F.mse_loss(x, x, delta=1)


@pytest.mark.parametrize("loss", [F.mse_loss, lambda x, y: F.mse_loss(y, x), fl.mse_loss])
def test_symbolic_tracing_names_what_to_use_instead(loss):
    with pytest.raises(TypeError, match=r"^(input|target): .*symbolic_trace.*use torch.export.export, or make_fx"):
        torch.fx.symbolic_trace(lambda x: loss(x, torch.zeros(3)))


def test_exports():
    module = F.CrossEntropyLoss(weight=torch.rand(5))
    x, y = torch.randn(8, 5), torch.randint(5, (8,))
    program = torch.export.export(module, (x, y))
    assert "fastloss.cross_entropy" in str(program.graph)
    torch.testing.assert_close(program.module()(x, y), module(x, y))


def test_tensors_without_numbers():
    x, y = torch.randn(8, 5, device="meta", requires_grad=True), torch.zeros(8, dtype=torch.int64, device="meta")
    F.cross_entropy(x, y).backward()
    assert x.grad.is_meta
    assert F.cross_entropy(x, y, reduction="none").shape == (8,)
    with pytest.raises(TypeError, match="target is on cpu, but input on meta"):
        F.mse_loss(x, torch.zeros(8, 5))
    with pytest.raises(TypeError, match="meta"):
        F.mse_loss(torch.zeros(8, 5), x.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_of_tensors_without_numbers(dtype):
    x, y = torch.randn(8, 5, device="meta", dtype=dtype), torch.zeros(8, dtype=torch.int64, device="meta")
    with torch.autocast("cpu", dtype=torch.bfloat16):  # which is of another device
        for name, args, options in (
            ("cross_entropy", (x, y), {}),
            ("softmax", (x, 1), {}),
            ("triplet_margin_with_distance_loss", (x, x, x), {"distance_function": lambda a, b: (a - b).abs().sum(-1)}),
        ):
            actual, expected = (getattr(module, name)(*args, **options) for module in (F, T))
            assert (actual.dtype, actual.shape, actual.is_meta) == (expected.dtype, expected.shape, True)


def test_traced_by_a_mode_of_torch():
    from torch.fx.experimental.proxy_tensor import make_fx

    x, y = torch.randn(8, 5), torch.randint(5, (8,))
    graph = make_fx(lambda x: F.cross_entropy(x, y))(x)
    torch.testing.assert_close(graph(2 * x), F.cross_entropy(2 * x, y))


@pytest.mark.slow
def test_saved_tensors_may_go_elsewhere():
    x, y = torch.randn(8, 5, requires_grad=True), torch.randint(5, (8,))

    def gradient(module):
        return torch.autograd.grad(module.cross_entropy(x, y) + module.nll_loss(x, y, reduction="none").sum(), x)

    expected = gradient(T)
    with torch.autograd.graph.save_on_cpu():
        torch.testing.assert_close(gradient(F), expected)
    for reentrant in (True, False):
        value = torch.utils.checkpoint.checkpoint(lambda x: F.cross_entropy(x, y), x, use_reentrant=reentrant)
        value.backward()
    torch.testing.assert_close(x.grad, 2 * torch.autograd.grad(T.cross_entropy(x, y), x)[0])


def test_checkpoints_that_keep_the_results_of_some_operators():
    from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

    x, t = torch.randn(6, 5, requires_grad=True), torch.randn(6, 5)
    for reduction in ("mean", "none"):

        def loss_of(x, reduction=reduction):
            return F.mse_loss(2 * x, t, reduction=reduction).sum()

        def contexts():
            return create_selective_checkpoint_contexts([torch.ops.aten.mul.Tensor])

        value = checkpoint(loss_of, x, use_reentrant=False, context_fn=contexts)
        (slope,), (expected,) = torch.autograd.grad(value, x), torch.autograd.grad(loss_of(x), x)
        torch.testing.assert_close(slope, expected)


def test_warning_points_at_the_caller():
    x = torch.ones(3)
    with pytest.warns(DeprecationWarning, match="size_average") as caught:
        F.mse_loss(x, x, reduce=False)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_what_is_returned_beside_a_loss_is_detached(reduction):
    x, y = torch.randn(8, 5, requires_grad=True), torch.randint(5, (8,))
    found = F.cross_entropy(x, y, returns=("lse", "argmax"), reduction=reduction)
    assert not found.lse.requires_grad
    torch.testing.assert_close(found.lse, torch.logsumexp(x.detach(), 1))
    expected = torch.autograd.grad(T.cross_entropy(x, y, reduction="sum"), x)[0]
    expected = expected / 8 if reduction == "mean" else expected
    torch.testing.assert_close(torch.autograd.grad(found.loss.sum(), x)[0], expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_a_softmax_in_another_dtype(name):
    x = torch.randn(4, 5, requires_grad=True)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        ours, theirs = (getattr(module, name)(x, 1, dtype=dtype) for module in (F, T))
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs)
        found, expected = (torch.autograd.grad((one * one.detach()).sum(), x)[0] for one in (ours, theirs))
        torch.testing.assert_close(found, expected, atol=0.1 if dtype is torch.bfloat16 else 1e-6, rtol=1e-2)
    function = torch.compile(lambda x: getattr(F, name)(x, 1, dtype=torch.float32), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(function(x), getattr(T, name)(x, 1))


def test_calls_that_stand_between_two_graphs():
    x, y = torch.randn(8, 5, requires_grad=True), torch.randint(5, (8,))
    function = torch.compile(lambda x: 2 * F.cross_entropy(x, y, returns=("lse",)).loss, backend="aot_eager")
    found, expected = function(x), 2 * T.cross_entropy(x, y)
    torch.testing.assert_close(found, expected)
    for one, other in zip(*(torch.autograd.grad(value, x) for value in (found, expected)), strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(TypeError, match="warmth"):
        torch.compile(lambda x: F.cross_entropy(x, y, warmth=1), backend="aot_eager")(x)


@pytest.mark.parametrize("name", ["MSELoss", "SigmoidFocalLoss"])
def test_a_module_that_is_made_in_compiled_code(name):
    x = torch.rand(6, 5)

    def step(x):
        return getattr(F, name)(reduction="sum")(x, x / 2)

    torch.testing.assert_close(compiled(step, backend="aot_eager")(x), step(x))


def test_modules_in_compiled_code():
    x, y = torch.randn(8, 8, requires_grad=True), torch.randint(20, (8,))
    module = F.AdaptiveLogSoftmaxWithLoss(8, 20, [4, 11], div_value=2.0)
    found, expected = torch.compile(module, fullgraph=True, backend="aot_eager")(x, y), module(x, y)
    torch.testing.assert_close(found.loss, expected.loss)
    assert not found.output.requires_grad
    for one, other in zip(*(torch.autograd.grad(value.loss, x) for value in (found, expected)), strict=True):
        torch.testing.assert_close(one, other)
    deprecated = torch.compile(lambda x: F.mse_loss(x, x + 1, size_average=False), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(deprecated(x.detach()), torch.tensor(64.0))


def test_weights_of_our_modules_are_buffers():
    module = F.GeneralizedCrossEntropyLoss(weight=torch.rand(5))
    assert list(module.state_dict()) == ["weight"]
    assert module.double().weight.dtype == torch.float64
    assert "q=0.7" in repr(module)


def test_weights_of_samples_that_require_grad_are_refused():
    x = torch.randn(8, 5, requires_grad=True)
    with pytest.raises(TypeError, match=r"sample_weight.detach\(\)"):
        F.cross_entropy(x, torch.randint(5, (8,)), sample_weight=torch.rand(8, requires_grad=True))


def test_batches_of_gradients():
    x, y = torch.randn(6, 5, dtype=torch.float64, requires_grad=True), torch.arange(6) % 5
    (single,) = torch.autograd.grad(F.cross_entropy(x, y), x)
    several = torch.autograd.grad(F.cross_entropy(x, y), x, torch.tensor([1.0, 2.0]), is_grads_batched=True)[0]
    torch.testing.assert_close(several, torch.stack([single, 2 * single]))
    with pytest.raises(RuntimeError, match=r"use torch\.func\.jacrev"):
        torch.autograd.functional.jacobian(lambda x: F.mse_loss(x, x.detach(), reduction="none"), x, vectorize=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_traced_call_is_an_operation_and_no_constant():
    x, y = torch.randn(6, 5), torch.arange(6) % 5
    traced = torch.jit.trace(lambda x, y: F.cross_entropy(x, y), (x, y))
    torch.testing.assert_close(traced(2 * x, y), F.cross_entropy(2 * x, y))
    torch.testing.assert_close(torch.jit.trace(lambda x: F.softmax(x, -1), x)(2 * x[:3]), F.softmax(2 * x[:3], -1))


def test_transforms_inside_a_mode():
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.utils.flop_counter import FlopCounterMode

    x, y = torch.randn(6, 5), torch.arange(6) % 5
    gradient = torch.func.grad(lambda x: F.cross_entropy(x, y))
    with FlopCounterMode(display=False):
        torch.testing.assert_close(gradient(x), torch.func.grad(lambda x: torch.nn.functional.cross_entropy(x, y))(x))
    with pytest.raises(RuntimeError, match="no graph of make_fx inside a transform"):
        make_fx(gradient)(x)
