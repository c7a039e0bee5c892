"""Ctrl-C during a call: heard within a second, nothing is written after it, and the next call is right."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import fastloss as fl
from fastloss.cpu import in_parts
from fastloss.runtime import interrupts

pytestmark = pytest.mark.skipif(os.name == "nt", reason="os.kill ends a process there")


@pytest.fixture(autouse=True)
def _handler():
    """Set Python's own handler, which is not there in a process that was started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(call, after=0.3):
    """Return how many seconds after Ctrl-C a call has been left."""
    pressed, left = [], math.inf

    def press():
        pressed.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(after, press)
    timer.start()
    try:
        call()
        time.sleep(5)
    except KeyboardInterrupt:
        left = time.perf_counter()
    finally:
        timer.join()
    assert left - pressed[0] < 4, "the call was over before"
    return left - pressed[0]


@pytest.mark.parametrize("count", [1, 2])
def test_a_long_call_hears_it(count):
    """Four thousand million elements, of which one is in memory."""
    x = np.broadcast_to(np.float32(0.3), (40_000, 100_000))
    few = x[:300, :1000]
    with fl.config(num_threads=count):
        expected = fl.mse_loss(few, few + 1)
        assert interrupted(lambda: fl.mse_loss(x, x)) < 1
        assert fl.mse_loss(few, few + 1) == expected


def test_a_second_one_leaves_no_thread_behind(monkeypatch):
    """It comes when one half of the work queue has been emptied, for which the threads would wait for ever."""
    from fastloss.runtime import threads as _threads

    empty, presses = interrupts.empty_queue, []

    def pressed_again(queue):
        if not presses:
            presses.append(queue.view("i8"))
            presses[0][: _threads.QUEUE_HEAD : 2] = _threads.EMPTIED
            raise KeyboardInterrupt
        empty(queue)

    monkeypatch.setattr(interrupts, "empty_queue", pressed_again)
    x = np.broadcast_to(np.float32(0.3), (40_000, 100_000))
    with fl.config(num_threads=2):
        assert interrupted(lambda: fl.mse_loss(x, x)) < 1
    assert len(presses) == 1
    leaders = [thread for thread in threading.enumerate() if thread.name == "fastloss-leader"]
    for leader in leaders:  # one that has just answered may still be there
        leader.join(5)
    assert not [leader for leader in leaders if leader.is_alive()]


def test_nothing_is_written_after_it():
    x = np.ones((1 << 13, 1 << 13), np.float32)
    given = np.zeros_like(x)
    step = fl.grad(fl.sigmoid_focal_loss)
    step(x[:64], x[:64], grad_out=given[:64])
    given[:] = 0
    with fl.config(num_threads=2):
        interrupted(lambda: [step(x, x, grad_out=given) for _ in range(1000)], 0.5)
        before = given.copy()
        time.sleep(0.1)
        np.testing.assert_array_equal(given, before)
        step(x, x, grad_out=given)
        np.testing.assert_array_equal(given[0], step(x, x)[-1])


def test_a_kernel_leaves_when_its_queue_is_emptied():
    """A kernel of Python, which shares chunks as others do."""
    taken = []

    def kernel(queue, leads):
        counters = queue.view("i8")
        while counters[0] < 1000:
            counters[0] += 1
            time.sleep(0.01)
            taken.append(leads)
            counters[1] += 1
        while counters[1] < 1000:
            time.sleep(0.001)
        return 1.0

    with fl.config(num_threads=2):
        assert interrupted(lambda: interrupts.run_interruptible(kernel, (np.zeros(2004),), 1000), 0.1) < 1
    count = len(taken)
    assert 0 < count < 1000
    time.sleep(0.05)
    assert len(taken) == count


def test_results_and_errors_come_from_the_leader():
    def kernel(queue, leads):
        if leads:
            raise MemoryError("no room")

    with fl.config(num_threads=2):
        with pytest.raises(MemoryError, match="no room"):
            interrupts.run_interruptible(kernel, (np.zeros(6),), 4)
        assert interrupts.run_interruptible(lambda queue, leads: 7, (np.zeros(6),), 4) == 7


def test_a_handler_that_does_not_raise_changes_nothing():
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    x = np.broadcast_to(np.float32(0.3), (40_000, 20_000))
    try:
        timer = threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        value = fl.mse_loss(x, x)
        timer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert value == 0
    assert heard == [1]


def test_rows_that_list_many_classes_hear_it():
    x = np.broadcast_to(np.arange(20_000, dtype=np.float32), (400, 20_000))
    y = np.full(x.shape, -1)
    y[:, :10_000] = np.arange(10_000)
    fl.multilabel_margin_loss(x[:2, :9], y[:2, :9] % 9)
    assert interrupted(lambda: [fl.multilabel_margin_loss(x, y) for _ in range(9)]) < 1


def test_a_compilation_goes_on_when_it_is_interrupted():
    """Numba's tables would be left half filled."""
    ended = []

    def compilation():
        time.sleep(0.6)
        ended.append(True)
        return 7

    assert interrupted(lambda: interrupts.run_to_the_end(compilation), 0.1) < 0.4
    assert not ended
    time.sleep(1)
    assert ended
    assert interrupts.run_to_the_end(compilation) == 7
    with pytest.raises(ZeroDivisionError):
        interrupts.run_to_the_end(lambda: 1 // 0)


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.05, 0.3])
def test_the_first_call_hears_it_and_the_second_is_right(after):
    code = f"""
import os, signal, threading
import numpy as np, fastloss as fl
x = np.linspace(-1, 1, 8)
threading.Timer({after}, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    fl.sigmoid_focal_loss(x, x)
    raise SystemExit("it was too fast")
except KeyboardInterrupt:
    pass
assert np.isfinite(fl.grad(fl.sigmoid_focal_loss)(x, x)).all()
"""
    named = {"PYTHONPATH": str(Path(fl.__file__).parents[1]), "FASTLOSS_CACHE": "0"}
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **named},
        check=True,
        timeout=120,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # it is ignored in the background
    )


@pytest.mark.slow
def test_matrix_products_hear_it():
    rng = np.random.default_rng(0)
    hidden, head = (rng.standard_normal((n, 2048), dtype=np.float32) for n in (4096, 60_000))
    labels = np.zeros(4096, int)
    step = fl.value_and_grad(fl.linear_cross_entropy)
    step(hidden[:8], head[:9], labels[:8])
    assert interrupted(lambda: step(hidden, head, labels), 1.0) < 1


@pytest.mark.parametrize("shapes", [((50, 30), (30, 70)), ((70, 30), (30, 50)), ((1, 5), (5, 1)), ((3, 0), (0, 4))])
def test_matrix_products_in_parts(monkeypatch, rng, shapes):
    monkeypatch.setattr(in_parts, "MULTIPLIED_AT_ONCE", 7000)
    a, b = (rng.standard_normal(shape) for shape in shapes)
    out = np.full((len(a), b.shape[1]), np.nan)
    in_parts.matmul(a, b, out)
    np.testing.assert_allclose(out, a @ b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (0, 3), (1000,), (7, 1, 143), (2, 3, 4, 5, 6)])
def test_copies_in_parts(monkeypatch, rng, shape):
    monkeypatch.setattr(in_parts, "COPIED_AT_ONCE", 16)
    array = rng.standard_normal(shape).astype(">f4").T
    np.testing.assert_array_equal(in_parts.copied(array, np.float32), array)
    np.testing.assert_array_equal(in_parts.flat(array), array.ravel())
    assert in_parts.copied(array).flags.c_contiguous
    sizes = [array[part].size for part in in_parts._parts([(0, n) for n in array.shape])]
    assert sum(sizes) == array.size
    assert max(sizes) <= 16


def test_strided_operands_of_a_long_call_are_copied_in_parts(monkeypatch, rng):
    monkeypatch.setattr("fastloss.call.reads.COPIED_AT_ONCE", 8)
    monkeypatch.setattr(in_parts, "COPIED_AT_ONCE", 8)
    x, y = rng.standard_normal((33, 5)), rng.integers(5, size=66)[::2]
    assert fl.cross_entropy(x, y) == fl.cross_entropy(x, y.copy())
    swapped = x.astype(x.dtype.newbyteorder())
    assert fl.cross_entropy(swapped, y) == fl.cross_entropy(x, y)
