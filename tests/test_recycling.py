"""The memory of dropped large results serves the next ones, and never two at once."""

import gc
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import fastloss as fl
from fastloss.runtime import memory_pool as recycling
from fastloss.runtime.settings import settings

SIZE = recycling.RECYCLED_FROM // 4  # float32 elements of the smallest recycled array


@pytest.fixture(autouse=True)
def _nothing_idle():
    """On one thread: a helper that comes late lets go of the arrays later than the caller."""
    with fl.config(recycled_bytes=0):
        assert not recycling._idle
    with fl.config(num_threads=1):
        yield


def address(array):
    return array.__array_interface__["data"][0]


def idle_bytes():
    return sum(map(len, recycling._idle.values()))


_X = np.random.default_rng(0).standard_normal((40, 6), dtype=np.float32)
_LABELS = np.arange(40) % 6
_PAIRS = (_X, -_X, np.ones(40))
_LISTS = np.where(np.arange(6) == 0, _LABELS[:, None], -1)
_CTC = (np.log(np.full((12, 3, 5), 0.2, np.float32)), np.ones((3, 4), int), np.full(3, 12), np.full(3, 4))
_LARGE = np.zeros((1500, 200), np.float32)


@pytest.mark.parametrize(
    ("loss", "arrays", "options"),
    [
        pytest.param(fl.mse_loss, (_X, -_X), {}, id="elements"),
        pytest.param(fl.mse_loss, (_X[::-1], -_X), {}, id="elements in stages"),
        pytest.param(fl.mse_loss, (_LARGE, _LARGE), {}, id="on threads"),
        pytest.param(fl.cross_entropy, (_X, _LABELS), {}, id="rows"),
        pytest.param(fl.cross_entropy, (np.zeros((2, 300_000), np.float32), [1, 2]), {}, id="pieces of rows"),
        pytest.param(fl.cross_entropy, (_X, _LABELS), {"softcap": 3.0}, id="blocks of rows"),
        pytest.param(fl.cosine_embedding_loss, _PAIRS, {}, id="pairs"),
        pytest.param(fl.cosine_embedding_loss, _PAIRS, {"sample_weight": np.ones(40)}, id="weighted pairs"),
        pytest.param(fl.multilabel_margin_loss, (_X, _LISTS), {}, id="lists of classes"),
        pytest.param(fl.ctc_loss, _CTC, {}, id="alignments"),
        pytest.param(fl.linear_cross_entropy, (_X, _X[:7], _LABELS), {}, id="behind a linear map"),
    ],
)
def test_a_call_keeps_no_memory(loss, arrays, options):
    """No work queue outlives its call, which would be a quarter of a kilobyte, or four for a large one."""
    step = fl.value_and_grad(loss)
    for _ in range(20):
        step(*arrays, **options)
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(100):
        step(*arrays, **options)
    gc.collect()
    assert sys.getallocatedblocks() - before < 50


def test_a_dropped_result_serves_the_next_of_its_size(rng):
    x, y = rng.standard_normal((2, SIZE), dtype=np.float32)
    expected = fl.grad(fl.mse_loss)(x, y).copy()
    first = fl.grad(fl.mse_loss)(x, y)
    place = address(first)
    del first
    second = fl.grad(fl.mse_loss)(x, y)
    assert address(second) == place
    np.testing.assert_array_equal(second, expected)
    assert second.flags.writeable
    assert second.flags.c_contiguous
    assert place % 64 == 0


def test_small_results_are_numpys_own():
    below = recycling.empty((SIZE - 1,), np.float32)
    assert below.flags.owndata
    assert not recycling.empty((SIZE,), np.float32).flags.owndata


@pytest.mark.parametrize("hold", [lambda a: a[5:7], lambda a: a.reshape(2, -1).T, memoryview, lambda a: a.view("u1")])
def test_memory_is_in_use_as_long_as_anything_shows_it(hold):
    array = recycling.empty((SIZE,), np.float32)
    array[:] = 1
    held = hold(array)
    before = bytes(np.asarray(held).tobytes())
    del array
    assert idle_bytes() == 0
    recycling.empty((SIZE,), np.float32)[:] = 2
    assert np.asarray(held).tobytes() == before
    del held
    assert idle_bytes() > 0


def test_torch_tensors_hold_their_memory(rng):
    torch = pytest.importorskip("torch")
    x, y = torch.from_numpy(rng.standard_normal((2, SIZE), dtype=np.float32))
    gradient = fl.grad(fl.mse_loss)(x, y)
    part = gradient[10:20]
    expected = part.clone()
    del gradient
    for _ in range(3):
        fl.grad(fl.mse_loss)(y, x)
    assert torch.equal(part, expected)


def test_results_that_live_together_share_nothing(rng):
    """Results of random sizes, held and dropped at random: each keeps what was written to it."""
    held = {}
    for step in range(400):
        if held and rng.random() < 0.9:  # some 40 are held in the end, of 300 MB
            mark, array = held.popitem() if rng.random() < 0.5 else (next(iter(held)), held.pop(next(iter(held))))
            assert (array == mark).all()
            del array
        array = recycling.empty((int(SIZE * rng.uniform(1, 3)),), np.float32)
        array.fill(step)
        held[step] = array
    for mark, array in held.items():
        assert (array == mark).all()


def test_threads_do_not_get_the_same_memory(rng):
    x, y = rng.standard_normal((2, SIZE), dtype=np.float32)
    step, wrong = fl.grad(fl.mse_loss), []

    def work(factor):
        a = x * np.float32(factor)
        expected = step(a, y).copy()
        wrong.extend(factor for _ in range(40) if not np.array_equal(step(a, y), expected))

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=work, args=(factor,)) for factor in range(1, 7)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(switch)
    assert not wrong


def test_what_is_kept_stays_within_the_limit():
    with fl.config(recycled_bytes=5 * recycling.RECYCLED_FROM):
        arrays = [recycling.empty((n * SIZE,), np.float32) for n in (1, 2, 3, 4)]
        last = address(arrays[-1])
        while arrays:
            arrays.pop(0)
            assert idle_bytes() <= settings.recycled_bytes
        assert idle_bytes() == 4 * recycling.RECYCLED_FROM  # the oldest went first
        assert address(recycling.empty((4 * SIZE,), np.float32)) == last
        assert recycling.empty((6 * SIZE,), np.float32).flags.owndata  # more than may be kept
    with fl.config(recycled_bytes=0):
        assert idle_bytes() == 0
        assert recycling.empty((SIZE,), np.float32).flags.owndata


def test_without_room_for_a_mapping_the_array_is_numpys(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(recycling.mmap, "mmap", refuse)
    assert recycling.empty((SIZE,), np.float32).flags.owndata


def test_idle_memory_is_released_where_an_array_finds_no_room(monkeypatch):
    recycling.empty((SIZE,), np.float32)
    assert idle_bytes()
    numpys = np.empty

    def limited(*args, **kwargs):
        if recycling._idle:
            raise MemoryError
        return numpys(*args, **kwargs)

    monkeypatch.setattr(np, "empty", limited)
    array = recycling.empty((4 * SIZE,), np.float32)
    assert array.size == 4 * SIZE
    assert not idle_bytes()


def test_memory_serves_only_what_nearly_fills_it():
    place = address(recycling.empty((2 * SIZE,), np.float32))
    assert address(recycling.empty((SIZE,), np.float32)) != place
    assert address(recycling.empty((2 * SIZE - 100,), np.float32)) == place


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's account of this process")
def test_what_is_kept_is_the_systems_to_take():
    def lazily_free():
        gc.collect()
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("LazyFree")))

    array = recycling.empty((16 * SIZE,), np.float32)
    array.fill(1)
    before = lazily_free()
    size = array.nbytes
    del array
    assert lazily_free() - before >= 0.9 * size


def test_half_types_and_several_gradients_are_recycled_too(rng):
    x, y, z = rng.standard_normal((3, 8192, 256)).astype(np.float16)
    step = fl.grad(fl.triplet_margin_loss)
    expected = [gradient.copy() for gradient in step(x, y, z)]
    places = {address(gradient) for gradient in step(x, y, z)}
    again = step(x, y, z)
    assert {address(gradient) for gradient in again} == places
    for gradient, right in zip(again, expected, strict=True):
        np.testing.assert_array_equal(gradient, right)
