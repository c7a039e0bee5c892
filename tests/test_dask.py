"""Dask arrays in every loss: lazy results, sums that combine whatever the blocks are, memory of a few blocks."""

import pickle
import threading

import numpy as np
import pytest
from cases import PLAIN, quickly

import fastloss as fl
from fastloss.runtime.settings import settings

dask = pytest.importorskip("dask", reason="Dask is not installed")
da = pytest.importorskip("dask.array")

REPRESENTATIVE = ("cross_entropy", "mse_loss", "kl_div", "triplet_margin_loss", "ctc_loss", "linear_cross_entropy")
# What compares all rows with each other, and what is no loss of blocks.
WHOLE = ("info_nce_loss", "linear_log_prob")


def cut(array, seed=0):
    """Return an array in blocks of unequal lengths along each axis, other ones for another seed."""
    rng = np.random.default_rng(seed + array.ndim)
    chunks = []
    for size in array.shape:
        first = int(rng.integers(1, size)) if size > 1 else size
        chunks.append((first, size - first) if size > first else (size,))
    return da.from_array(array, chunks=tuple(chunks))


def compute(*lazy, scheduler="threads"):
    return dask.compute(*lazy, scheduler=scheduler)


def check(case, **more):
    arrays = case.make()
    wrt = case.wrt(arrays)
    if "weight" in wrt and "weight" in more:
        wrt = tuple([name for name in wrt if name != "weight"])
    lazy = {name: cut(a, k) if a.ndim else a for k, (name, a) in enumerate(arrays.items())}
    for reduction in case.reductions:
        exact, expected = case.value_and_grad(arrays, wrt, **reduction)
        value = case.call(lazy, **reduction)
        both = case.value_and_grad(lazy, wrt, **reduction)
        assert isinstance(value, da.Array)
        assert (value.shape, value.dtype) == (exact.shape, exact.dtype)
        for name, gradient in zip(wrt, both[1], strict=True):
            assert isinstance(gradient, da.Array)
            assert (gradient.shape, gradient.dtype) == (arrays[name].shape, arrays[name].dtype)
        alone, (again, gradients) = compute(value, both)
        np.testing.assert_allclose(alone, exact, rtol=1e-13)
        np.testing.assert_allclose(again, exact, rtol=1e-13)
        for gradient, one in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(gradient, one, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("case", [case for case in PLAIN if case.loss in REPRESENTATIVE], ids=str)
def test_a_loss_of_each_kind(case):
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in PLAIN if case.loss not in WHOLE], ids=str)
def test_every_loss(case):
    check(case)


def rows(count=40, classes=5, dtype=np.float32):
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(count, classes)).astype(dtype), rng.integers(classes, size=count)
    y[::3] = -100
    return x, y


@pytest.mark.parametrize("chunks", [(40,), (1, 3, 30, 6), (20, 20)], ids=str)
@pytest.mark.parametrize("weighted", quickly(True, then=[False]))
def test_means_of_unequal_blocks_weights_and_ignored_rows(chunks, weighted):
    x, y = rows()
    y[:4] = -100  # blocks of which nothing counts
    options = {}
    if weighted:
        samples = np.linspace(0, 2, 40)
        options = {"weight": np.linspace(0.5, 2, 5, dtype=np.float32), "sample_weight": samples}
    lazy = {name: da.from_array(a, chunks=13) if name == "sample_weight" else a for name, a in options.items()}
    # Labels are cut elsewhere, and classes are cut too.
    arrays = da.from_array(x, chunks=(chunks, (2, 3))), da.from_array(y, chunks=17)
    exact, expected = fl.value_and_grad(fl.cross_entropy)(x, y, **options)
    value, gradient = compute(*fl.value_and_grad(fl.cross_entropy)(*arrays, **lazy))
    np.testing.assert_allclose(value, exact, rtol=2e-7)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-9)
    assert compute(fl.cross_entropy(*arrays, **lazy))[0] == exact
    assert value.dtype == np.float32


def test_no_block_is_put_together_with_another():
    x, y = rows()
    arrays = da.from_array(x, chunks=((4, 16, 20), (2, 3))), da.from_array(y, chunks=((4, 16, 20),))
    _, gradient = fl.value_and_grad(fl.cross_entropy)(*arrays)
    assert gradient.chunks == ((4, 16, 20), (5,))
    values = fl.cross_entropy(*arrays, reduction="none")
    assert values.chunks == ((4, 16, 20),)


def test_value_and_gradient_are_computed_together(monkeypatch):
    from fastloss.dask import blocks

    calls, derivatives = [], blocks.derivatives

    def counted(*args):
        calls.append(threading.get_ident())
        return derivatives(*args)

    monkeypatch.setattr(blocks, "derivatives", counted)
    x, y = rows()
    value, gradient = fl.value_and_grad(fl.cross_entropy)(da.from_array(x, chunks=(10, 5)), da.from_array(y, chunks=10))
    compute(value, gradient.sum())
    assert len(calls) == 4


def test_transforms_and_upstream_gradients():
    x, y = rows(dtype=np.float64)
    lazy = da.from_array(x, chunks=(9, 5)), da.from_array(y, chunks=9)
    for more in ({"grad_output": 3.0}, {"grad_output": np.linspace(0, 1, 40), "reduction": "none"}, {"divisor": 7.0}):
        expected = fl.grad(fl.cross_entropy)(x, y, **more)
        (gradient,) = compute(fl.grad(fl.cross_entropy)(*lazy, **more))
        np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-16)
    for reduction in ("mean", "none"):
        expected = fl.grad_and_hess(fl.cross_entropy)(x, y, reduction=reduction)
        both = compute(*fl.grad_and_hess(fl.cross_entropy)(*lazy, reduction=reduction))
        for mine, theirs in zip(both, expected, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-16)


def test_classes_and_partial_sums():
    x, y = rows()
    lazy = da.from_array(x, chunks=(9, 5)), da.from_array(y, chunks=9)
    loss = fl.CrossEntropyLoss(weight=np.linspace(0.5, 2, 5, dtype=np.float32), label_smoothing=0.1)
    np.testing.assert_allclose(compute(loss(*lazy))[0], loss(x, y), rtol=1e-7)
    value, gradient = compute(*loss.value_and_grad(*lazy))
    exact, expected = loss.value_and_grad(x, y)
    np.testing.assert_allclose(value, exact, rtol=2e-7)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-9)
    whole, part = fl.partial_sum(fl.cross_entropy)(x, y), fl.partial_sum(fl.cross_entropy)(*lazy)
    assert (part.weight, part.count) == (whole.weight, whole.count)
    np.testing.assert_allclose(part.total, whole.total, rtol=1e-12)


def test_a_mean_over_nothing():
    x, y = rows(8)
    value, gradient = compute(*fl.value_and_grad(fl.cross_entropy)(da.from_array(x, chunks=(3, 5)), y * 0 - 100))
    assert np.isnan(value)
    assert not gradient.any()


def test_penalties_and_broadcast_operands():
    x = np.linspace(-1, 2, 24).reshape(6, 4)
    lazy = da.from_array(x, chunks=(4, 3))
    value, gradient = compute(*fl.value_and_grad(fl.l2_penalty)(lazy, 0.5))
    np.testing.assert_allclose(value, 0.25 * (x**2).sum())
    np.testing.assert_allclose(gradient, 0.5 * x)
    several, dtype = [lazy, da.from_array(x[0], chunks=3)], type(fl.l2_penalty(lazy, 0.5))
    total, gradients = fl.value_and_grad(fl.l2_penalty)(several, 0.5)
    assert {type(total), type(fl.l2_penalty(several, 0.5)), *map(type, gradients)} == {dtype}  # all are lazy
    value, first, second = compute(total, *gradients)
    np.testing.assert_allclose(value, fl.l2_penalty([x, x[0]], 0.5))
    np.testing.assert_allclose(first, 0.5 * x)
    np.testing.assert_allclose(second, 0.5 * x[0])
    _, (curvature, _) = fl.grad_and_hess(fl.l2_penalty)(several, 0.5)
    np.testing.assert_array_equal(*compute(curvature, np.full((6, 4), 0.5)))
    (value,) = compute(fl.gaussian_nll_loss(lazy, x * 0, da.from_array(np.full(6, 2.0), chunks=5)))
    np.testing.assert_allclose(value, fl.gaussian_nll_loss(x, x * 0, np.full(6, 2.0)))


def test_errors():
    x, y = rows()
    lazy = da.from_array(x, chunks=(10, 5))
    for call, error, message in (
        (lambda: fl.cross_entropy(lazy, y[:5]), ValueError, "target must have shape"),
        (lambda: fl.mse_loss(lazy, x[:5]), ValueError, "shapes do not go together"),
        (lambda: fl.cross_entropy(lazy, y, reduction="most"), ValueError, "reduction must be"),
        (lambda: fl.grad(fl.cross_entropy)(lazy, y, grad_out=x), TypeError, "grad_out"),
        (lambda: fl.info_nce_loss(lazy, lazy), TypeError, "not computed block by block"),
        (lambda: fl.cross_entropy(lazy[lazy[:, 0] > 0], y), ValueError, "compute_chunk_sizes"),
        (lambda: fl.cross_entropy(lazy, y, divisor=2.0, reduction="sum"), ValueError, "divisor"),
        (lambda: fl.cross_entropy(lazy, y, divisor=[2.0, 3.0]), ValueError, "divisor must be a number or an array"),
        (lambda: fl.mse_loss(lazy, x, sample_weight=y[:5]), ValueError, "sample_weight of shape"),
        (lambda: fl.cross_entropy(lazy, y, sample_weight=y[:, None]), ValueError, "sample_weight of shape"),
    ):
        with pytest.raises(error, match=message):
            call()
    with pytest.raises(IndexError, match="target 9 at position"):
        compute(fl.cross_entropy(lazy, np.where(y == 1, 9, y)))
    for loss in (fl.cross_entropy, fl.grad(fl.cross_entropy)):
        with pytest.raises(ValueError, match="divisor must be a number >= 0, got -1"):
            compute(loss(lazy, y, divisor=-1.0))


@pytest.mark.parametrize(
    "loss",
    [fl.binary_cross_entropy, fl.binary_cross_entropy_with_logits, fl.sigmoid_focal_loss],
    ids=lambda f: f.__name__,
)
def test_blocks_of_one_row_do_not_hide_that_shapes_differ(loss):
    x, target = np.full((4, 3), 0.5), np.ones((1, 3))
    for function in (loss, fl.grad(loss)):
        with pytest.raises(ValueError, match="shapes do not match"):
            function(da.from_array(x, chunks=(1, 3)), target)


def test_memory_is_that_of_a_few_blocks(traced_peak):
    """The array is 32 blocks of 4 MiB; its labels are read before its first block is."""

    def made(block_info=None):
        place = block_info[None]["chunk-location"][0]
        return np.random.default_rng(place).normal(size=(1 << 14, 64)).astype(np.float32)

    x = da.map_blocks(made, chunks=((1 << 14,) * 32, (64,)), dtype=np.float32)
    y = da.from_array(np.arange(x.shape[0]) % 64, chunks=1 << 13)
    value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y)
    with fl.config(recycled_bytes=0):
        compute(value)
        peak, _ = traced_peak(compute, value, abs(gradient).sum())
    assert peak < x.nbytes / 2


def test_kernels_have_one_thread_in_a_task_and_the_setting_comes_back():
    from fastloss.dask import blocks

    before, seen = settings.num_threads, []

    def task():
        with blocks.own_threads():
            barrier.wait()
            seen.append(settings.num_threads)

    barrier = threading.Barrier(3)
    threads = [threading.Thread(target=task) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1, 1, 1]
    assert settings.num_threads == before
    with blocks.own_threads():  # nobody else has the cores
        assert settings.num_threads == before


def test_what_workers_are_sent_pickles():
    x, y = rows(8)
    lazy = fl.cross_entropy(da.from_array(x, chunks=(3, 5)), y)
    again = pickle.loads(pickle.dumps(lazy))
    assert compute(again)[0] == fl.cross_entropy(x, y)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the schedulers
@pytest.mark.parametrize("scheduler", ["processes", "synchronous", "distributed"])
def test_schedulers(scheduler, tmp_path):
    x, y = rows()
    lazy = da.from_array(x, chunks=(9, 5)), da.from_array(y, chunks=9)
    both = fl.value_and_grad(fl.cross_entropy)(*lazy)
    exact, expected = fl.value_and_grad(fl.cross_entropy)(x, y)
    if scheduler == "distributed":
        distributed = pytest.importorskip("distributed")
        with (
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=2, dashboard_address=None, local_directory=str(tmp_path)
            ) as cluster,
            distributed.Client(cluster),
        ):
            value, gradient = dask.compute(*both)
    else:
        value, gradient = compute(*both, scheduler=scheduler)
    np.testing.assert_allclose(value, exact, rtol=2e-7)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-9)


def test_weights_of_elements_and_of_samples_of_a_huber_loss():
    x, t = np.random.default_rng(0).normal(size=(2, 12, 3))
    given = {"weight": np.random.default_rng(1).random((12, 3)), "sample_weight": np.random.default_rng(2).random(12)}
    lazy = {name: da.from_array(array, chunks=(5, *array.shape[1:])) for name, array in given.items()}
    value, gradient = fl.value_and_grad(fl.huber_loss)(*[da.from_array(a, chunks=(5, 3)) for a in (x, t)], **lazy)
    expected, slopes = fl.value_and_grad(fl.huber_loss)(x, t, **given)
    np.testing.assert_allclose(value.compute(), expected)
    np.testing.assert_allclose(gradient.compute(), slopes)


def test_partial_sums_take_no_divisor():
    x, y = da.zeros((12, 3), chunks=(5, 3)), da.zeros(12, chunks=5, dtype=int)
    with pytest.raises(ValueError, match="takes no divisor"):
        fl.partial_sum(fl.cross_entropy)(x, y, divisor=7.0)


def test_an_upstream_gradient_of_a_number():
    x = da.ones((12, 3), chunks=(5, 3))
    expected = fl.grad(fl.mse_loss)(np.ones((12, 3)), np.zeros((12, 3)), grad_output=3.0)
    for factor in (np.array(3.0), np.array([3.0]), da.ones((1, 1)) * 3):
        gradient = fl.grad(fl.mse_loss)(x, np.zeros((12, 3)), grad_output=factor)
        np.testing.assert_allclose(gradient.compute(), expected)
    with pytest.raises(ValueError, match="grad_output must be one number"):
        fl.grad(fl.mse_loss)(x, np.zeros((12, 3)), grad_output=np.ones(2))
