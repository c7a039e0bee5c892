"""Same bits on any number of threads; many threads, forked children and second processes; memory; clean imports."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cases import quickly

import fastloss as fl
from fastloss.runtime.forks import guard

# Shapes above the size from which calls are shared between threads, one for each loop over a class axis.
LARGE = {
    "across": (40_000, 10),
    "along": (3_000, 110),
    "wide": (600, 1000),
    "strided": (50, 7, 1000),
}


def batch(shape, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape, dtype=np.float32)
    rows = shape[:1] + shape[2:]
    return x, rng.integers(0, shape[1], rows)


@pytest.mark.parametrize("layout", LARGE)
def test_bits_of_row_losses_do_not_depend_on_threads(layout, threads):
    x, y = batch(LARGE[layout])
    step = fl.value_and_grad(fl.cross_entropy)
    value, grad = threads(1, lambda: step(x, y))
    for count in (2, 3, 5):
        for _ in range(3):
            other, other_grad = threads(count, lambda: step(x, y))
            assert other == value
            np.testing.assert_array_equal(other_grad, grad)


@pytest.mark.parametrize("layout", ["contiguous", "strided", "broadcast"])
def test_bits_of_elementwise_losses_do_not_depend_on_threads(layout, threads):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1000, 500), dtype=np.float32)
    t = rng.standard_normal((1000, 500), dtype=np.float32)
    if layout == "strided":
        x, t = x.T, np.asfortranarray(t).T
    weight = t[:1] ** 2 if layout == "broadcast" else None
    step = fl.value_and_grad(fl.binary_cross_entropy_with_logits)
    value, grad = threads(1, lambda: step(x, t, weight))
    for count in (2, 5):
        other, other_grad = threads(count, lambda: step(x, t, weight))
        assert other == value
        np.testing.assert_array_equal(other_grad, grad)


def test_bits_of_losses_of_vectors_do_not_depend_on_threads(threads):
    rng = np.random.default_rng(2)
    a, b, c = rng.standard_normal((3, 3000, 100), dtype=np.float32)
    step = fl.value_and_grad(fl.triplet_margin_loss)
    value, grads = threads(1, lambda: step(a, b, c))
    other, other_grads = threads(4, lambda: step(a, b, c))
    assert other == value
    for one, two in zip(grads, other_grads, strict=True):
        np.testing.assert_array_equal(one, two)


def test_many_python_threads_at_once():
    batches = [batch(LARGE["wide"], seed) for seed in range(8)]
    step = fl.value_and_grad(fl.cross_entropy)
    expected = [step(x, y) for x, y in batches]
    wrong = []

    def work(k):
        for _ in range(10):
            value, grad = step(*batches[k])
            if value != expected[k][0] or not np.array_equal(grad, expected[k][1]):
                wrong.append(k)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_one_thread_computes_alone_when_helpers_never_come(monkeypatch):
    """The caller does not wait for threads that have not started."""
    from fastloss.runtime import threads as _threads

    x, y = batch(LARGE["wide"])
    step = fl.value_and_grad(fl.cross_entropy)
    expected, _ = step(x, y)
    pool = _threads._Pool()
    pool.size = 100  # says that its threads run; none does
    monkeypatch.setattr(_threads, "_pool", pool)
    with fl.config(num_threads=4):
        assert step(x, y)[0] == expected


def test_nothing_is_written_after_an_interrupt(monkeypatch):
    """Ctrl-C may come when helpers have been woken and the caller has not begun."""
    from fastloss.runtime import threads as _threads

    class Tasks(queue.SimpleQueue):
        def put(self, task):
            super().put(task)
            while not task.busy:
                time.sleep(1e-5)
            raise KeyboardInterrupt

    pool = _threads._Pool()
    pool.tasks = Tasks()
    monkeypatch.setattr(_threads, "_pool", pool)
    x = np.ones(1 << 23)
    given = np.full_like(x, 7.0)
    with fl.config(num_threads=2), pytest.raises(KeyboardInterrupt):
        fl.grad(fl.mse_loss)(x, 0.5 * x, grad_out=given)
    before = given.copy()
    time.sleep(0.1)
    np.testing.assert_array_equal(given, before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_computes_large_calls():
    x, y = batch(LARGE["wide"])
    with fl.config(num_threads=3):
        expected = fl.cross_entropy(x, y)  # the parent's helper threads run now
        child = os.fork()
        if child == 0:
            os._exit(0 if fl.cross_entropy(x, y) == expected else 1)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def run(code, **environment):
    """Run Python code in a process of its own and return what it prints."""
    root = str(Path(fl.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": root, "FASTLOSS_CACHE_DIR": "", **environment}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux only")
def test_helpers_are_kept_from_the_core_of_the_caller(threads):
    from fastloss.runtime import scheduling
    from fastloss.runtime import threads as _threads

    if scheduling.current_core is None or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core, or a C library that does not name it")
    x, y = batch((4000, 100))
    for _ in range(20):
        threads(2, lambda: fl.value_and_grad(fl.cross_entropy)(x, y))
    helpers = list(_threads._pool.placement.ids)
    if len(helpers) <= scheduling.MOST_KEPT_APART:
        masks = [os.sched_getaffinity(thread) for thread in helpers]
        assert masks
        assert all(mask < os.sched_getaffinity(0) and len(mask) >= 1 for mask in masks)


def test_importing_brings_in_no_guest_library():
    code = (
        "import sys, fastloss; "
        "print([m for m in ('numba.cuda', 'numba_cuda', 'torch', 'cupy', 'jax', 'dask', 'sklearn') "
        "if m in sys.modules])"
    )
    assert run(code) == "[]"


def test_a_layer_is_loaded_where_torch_is_not():
    code = (
        "import sys, fastloss as fl; made, other = (fl.LinearCrossEntropyLoss(3, 4) for _ in range(2)); "
        "made.load_state_dict(other.state_dict()); print(made == other, 'torch' in sys.modules)"
    )
    assert run(code) == "True False"


def test_no_helper_is_left_when_the_interpreter_shuts_down():
    """One that dropped the last reference to a tensor then made the process abort, in a few of a hundred."""
    code = (
        "import atexit, threading; atexit.register(lambda: print([one.name for one in threading.enumerate()])); "
        "import numpy as np, fastloss as fl; x = np.ones(1_000_000); fl.config(num_threads=3); fl.mse_loss(x, x); "
        "assert any('fastloss' in one.name for one in threading.enumerate())"
    )
    assert run(code) == "['MainThread']"


def test_what_is_finalised_when_the_interpreter_shuts_down_may_call():
    """No thread begins then: the process waited for one, and never ended."""
    code = """
import numpy as np, fastloss as fl
from fastloss.runtime import compile as at
def last():
    try:
        yield
    finally:
        print(fl.mse_loss(x, x), fl.mse_loss(y, y))
fl.config(num_threads=3)
x, y = np.ones(1_000_000), np.ones(1_000_001)
fl.mse_loss(x, x)
at.LONG_FROM = len(y)
fl.mse_loss(y, y)
held = last()
next(held)
"""
    assert run(code) == "0.0 0.0"


def test_a_second_process_finds_the_kernels_on_disk(tmp_path):
    code = (
        "import numpy as np, time, fastloss as fl; "
        "x = np.zeros((64, 10), 'f4'); y = np.zeros(64, int); start = time.perf_counter(); "
        "fl.value_and_grad(fl.cross_entropy)(x, y); fl.value_and_grad(fl.mse_loss)(x, x); "
        "fl.value_and_grad(fl.dice_loss)(x, x); "  # whose maths has named arguments
        "print(time.perf_counter() - start)"
    )
    cold = float(run(code, NUMBA_CACHE_DIR=str(tmp_path)))
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb*")}
    warm = float(run(code, NUMBA_CACHE_DIR=str(tmp_path)))
    assert files
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb*")} == files
    assert warm < cold / 2


@pytest.mark.usefixtures("fresh_memory")
@pytest.mark.parametrize("name", ["mse_loss", "cross_entropy", "cross_entropy_few_classes", "triplet_margin_loss"])
def test_value_and_grad_allocates_the_gradient_and_nothing_else_that_grows(name, traced_peak):
    """Measured by NumPy's own report to tracemalloc, and for what kernels allocate by the peak of resident memory."""
    rng = np.random.default_rng(3)
    if name == "mse_loss":
        step, arrays = fl.value_and_grad(fl.mse_loss), rng.standard_normal((2, 8_000_000), dtype=np.float32)
    elif name == "triplet_margin_loss":
        step, arrays = fl.value_and_grad(fl.triplet_margin_loss), rng.standard_normal((3, 8192, 256), dtype=np.float32)
    else:
        shape = (8192, 1000) if name == "cross_entropy" else (500_000, 10)
        step, arrays = fl.value_and_grad(fl.cross_entropy), batch(shape)
    step(*[array[:64] for array in arrays])  # compiled, and what is allocated once is
    gradients = sum(array.nbytes for array in arrays[: 3 if name.startswith("triplet") else 1])
    resident = peak_resident(anew=True)
    result = step(*arrays)
    if resident:
        assert peak_resident() - resident <= gradients + 16 * 2**20
    assert result[0] > 0
    peak, _ = traced_peak(step, *arrays)
    assert peak <= gradients + 300_000


def peak_resident(anew=False):
    """Return the peak of resident memory, from now on if anew, in bytes; 0 where the system does not tell."""
    try:
        if anew:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def test_config_nests_and_refuses_nonsense():
    with fl.config(num_threads=2):
        with fl.config(num_threads=3, check_indices=False):
            from fastloss.runtime.settings import settings

            assert (settings.num_threads, settings.check_indices) == (3, False)
        assert (settings.num_threads, settings.check_indices) == (2, True)
    with pytest.raises(ValueError, match="num_threads must be at least 1, got 0"):
        fl.config(num_threads=0)
    with pytest.raises(TypeError, match="num_threads must be an int"):
        fl.config(num_threads=1.5)
    with pytest.raises(TypeError, match="check_indices must be True or False"):
        fl.config(check_indices=1)
    with pytest.raises(ValueError, match="recycled_bytes must be at least 0, got -1"):
        fl.config(recycled_bytes=-1)


def test_with_blocks_of_two_threads_that_overlap_leave_nothing_behind():
    """Blocks end in the order in which threads come to their ends, not the other way round as nested ones do."""
    from fastloss.runtime.settings import settings

    before = (settings.num_threads, settings.check_indices)
    first, second = fl.config(num_threads=3, check_indices=False), fl.config(num_threads=5)
    with contextlib.ExitStack() as longer:
        with first:
            longer.enter_context(second)
        assert (settings.num_threads, settings.check_indices) == (5, before[1])
    assert (settings.num_threads, settings.check_indices) == before

    blocks = [fl.config(num_threads=count) for count in (3, 4, 5)]
    for block in reversed(blocks):  # threads may come to enter their blocks in another order than to make them
        block.__enter__()
    for place, left in ((1, 5), (2, 3), (0, before[0])):
        blocks[place].__exit__(None, None, None)
        assert settings.num_threads == left


def test_settings_may_be_used_for_several_blocks():
    from fastloss.runtime.settings import settings

    limit = fl.config(num_threads=1)
    with limit, limit:
        assert settings.num_threads == 1
    assert settings.num_threads is None
    with fl.config(num_threads=2):
        with limit:
            with limit:
                pass
            assert settings.num_threads == 1
        assert settings.num_threads == 2
    assert settings.num_threads is None


def test_threads_that_fork_at_once_release_their_own_locks(monkeypatch):
    """Another thread may be in the middle of a fork as soon as one lock is free."""
    hooks = {}
    monkeypatch.setattr(os, "register_at_fork", lambda **given: hooks.update(given), raising=False)
    released = []

    class Lock:
        def acquire(self, timeout):
            return True

        def release(self):
            released.append(self)
            if len(released) == 1:
                hooks["before"]()  # of the other thread

    holders = SimpleNamespace(_lock=Lock()), SimpleNamespace(_lock=Lock())
    guard(*holders)
    hooks["before"]()
    hooks["after_in_parent"]()
    assert released == [holders[1]._lock, holders[0]._lock]


@pytest.mark.parametrize("apart", quickly(True, then=[False]), ids=["two-files", "one-file"])
def test_a_loss_that_is_edited_is_compiled_anew(tmp_path, apart):
    """A loss in modules outside of the package: a cached kernel of an earlier text of theirs must not be used."""
    helper = (
        "from fastloss.custom import maths\n\n\ndef factor(x):\n    return type(x)(FACTOR)\n\n\nmaths(factor)\n\n\n"
    )
    text = (
        "import numpy as np\n"
        "import fastloss as fl\n"
        "from fastloss.custom import Elementwise, loss, maths\n\n\n"
        "@maths\n"
        "def scaled_error(x, t):\n"
        "    return factor(x) * (x - t), (factor(x), -factor(x)), x - x\n\n\n"
        "@loss\n"
        "def scaled_loss(input, target, *, reduction='mean'):\n"
        "    return Elementwise(scaled_error)\n\n\n"
        "print(scaled_loss(np.ones(3), np.zeros(3)))\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # texts of one length, written within a second, would look alike
    for number in ("2", "3", "2"):
        edited = helper.replace("FACTOR", number)
        (tmp_path / "helper.py").write_text(edited)
        (tmp_path / "own.py").write_text(("from helper import factor\n" if apart else edited) + text)
        done = subprocess.run(
            [sys.executable, "-c", "import own"],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip() == f"{number}.0", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_while_a_thread_compiles_can_compile():
    import numba
    from numba.core.compiler_lock import global_compiler_lock

    inside, leave = threading.Event(), threading.Event()

    def compiling():
        with global_compiler_lock:
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=compiling)
    thread.start()
    assert inside.wait(10)
    threading.Timer(0.2, leave.set).start()
    child = os.fork()
    if child == 0:
        os._exit(0 if numba.njit(lambda x: x + 1)(1) == 2 else 1)
    assert wait_for(child) == 0
    thread.join()
    with global_compiler_lock:  # the parent's is free again
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_from_a_compilation_that_does_not_end_has_locks_of_its_own(monkeypatch):
    from numba.core.compiler_lock import global_compiler_lock

    monkeypatch.setattr("fastloss.runtime.forks.PATIENCE", 0.1)
    leave = threading.Event()

    def compiling():
        with global_compiler_lock:
            leave.wait(60)

    thread = threading.Thread(target=compiling)
    thread.start()
    child = os.fork()
    if child == 0:
        with global_compiler_lock:
            os._exit(0)
    assert wait_for(child) == 0
    leave.set()
    thread.join()


def wait_for(child):
    """Return the exit code of a forked child; one that hangs is ended."""
    for _ in range(6000):
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return None


@pytest.mark.parametrize("work", ["shared", "long"])
def test_where_no_thread_can_be_started_the_caller_computes_alone(monkeypatch, work):
    from fastloss.runtime import compile as _compile
    from fastloss.runtime import threads as _threads

    def refuse(self):
        raise RuntimeError("can't start new thread")

    x, y = batch(LARGE["wide"])
    expected = fl.cross_entropy(x, y)
    monkeypatch.setattr(_threads, "_pool", _threads._Pool())
    monkeypatch.setattr(threading.Thread, "start", refuse)
    if work == "long":
        monkeypatch.setattr(_compile, "LONG_FROM", 0)
        x, y = x[:-1].copy(), y[:-1].copy()  # a kind of call that is not planned yet
        expected = None
    with fl.config(num_threads=4):
        found = [fl.cross_entropy(x, y) for _ in range(3)]
    assert len(set(found)) == 1
    assert expected in (None, found[0])
    assert _threads._pool.size == 0
    assert _threads._pool.tasks.empty()


def test_what_a_helper_raises_reaches_the_caller():
    """As maths may. The chunk that it was at is never finished: the caller is not to wait for that."""
    from fastloss.runtime import threads as _threads

    def kernel(x, queue, leads):
        counters = queue.view("i8")
        if not leads:
            counters[0] += 1
            raise ValueError("of a helper")
        until = time.monotonic() + 10
        while counters[1] < counters[0] or counters[0] == 0:  # as many finished as taken
            assert time.monotonic() < until

    with fl.config(num_threads=2):
        for _ in range(3):  # and the helper lives
            with pytest.raises(ValueError, match="of a helper"):
                _threads.run_shared(kernel, (np.zeros(3), np.zeros(8)), 2)


def test_helpers_compute_as_the_caller_does(threads):
    """With tiny numbers as zeros, which torch sets for the thread that asks for it."""
    torch = pytest.importorskip("torch")
    x = np.full((1 << 19,), 1e-20, np.float32)  # whose squares are subnormal
    step = fl.value_and_grad(fl.mse_loss)
    plain = threads(4, lambda: fl.mse_loss(x, 0 * x, reduction="none"))
    assert (plain > 0).all()
    try:
        if not torch.set_flush_denormal(True):
            pytest.skip("the processor has no such mode")
        for _ in range(20):
            flushed = threads(4, lambda: fl.mse_loss(x, 0 * x, reduction="none"))
            assert (flushed == 0).all()
    finally:
        torch.set_flush_denormal(False)
    np.testing.assert_array_equal(threads(4, lambda: fl.mse_loss(x, 0 * x, reduction="none")), plain)
    assert step(x, 0 * x)[0] >= 0


LIMITS = {
    "none": ("0::/\n", {}, float("inf"), float("inf")),
    "no limit": ("0::/\n", {"cpu.max": "max 100000", "memory.max": "max"}, float("inf"), float("inf")),
    "two cores": ("0::/\n", {"cpu.max": "200000 100000"}, 2.0, float("inf")),
    "memory": ("0::/a\n", {"a/memory.max": "536870912", "memory.max": "1073741824"}, float("inf"), 1 << 29),
    "of a group around": ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 1.5, float("inf")),
    "path of the host": ("0::/docker/1234\n", {"cpu.max": "50000 100000", "memory.max": "4096"}, 0.5, 4096),
    "version 1": (
        "4:memory:/x\n2:cpu,cpuacct:/x\n0::/\n",
        {
            "cpu,cpuacct/x/cpu.cfs_quota_us": "300000",
            "cpu,cpuacct/x/cpu.cfs_period_us": "100000",
            "memory/x/memory.limit_in_bytes": "268435456",
            "memory/memory.limit_in_bytes": "9223372036854771712",
        },
        3.0,
        1 << 28,
    ),
    "version 1, none": (
        "1:cpu:/\n",
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        float("inf"),
        float("inf"),
    ),
    "garbage": ("0::/\n", {"cpu.max": "what", "memory.max": "what"}, float("inf"), float("inf")),
}


@pytest.mark.parametrize("name", LIMITS)
def test_the_limits_of_a_container_are_read(name, tmp_path):
    from fastloss.runtime import control_groups

    groups, files, cores, memory = LIMITS[name]
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for file, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert control_groups.cores(tmp_path) == cores
    assert control_groups.memory(tmp_path) == memory


def test_the_memory_kept_by_default(monkeypatch):
    from fastloss.runtime import settings as _settings

    for limit, expected in ((1 << 20, 1 << 17), (1 << 29, 1 << 26)):
        monkeypatch.setattr(_settings.control_groups, "memory", lambda limit=limit: limit)
        assert _settings._default_recycled() == expected
    monkeypatch.setattr(_settings.control_groups, "memory", lambda: float("inf"))
    assert 1 << 26 < _settings._default_recycled() <= 1 << 30


def test_the_default_number_of_threads(monkeypatch):
    from fastloss.runtime import settings as _settings

    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5, 7}, raising=False)
    for quota, expected in ((float("inf"), 4), (2.0, 2), (2.5, 3), (0.1, 1), (64.0, 4)):
        monkeypatch.setattr(_settings.control_groups, "cores", lambda quota=quota: quota)
        assert _settings._default_threads() == expected
    monkeypatch.setenv("NUMBA_NUM_THREADS", "7")
    assert _settings._default_threads() == 7
    for wrong in ("abc", "0", "-1", "2.5"):
        monkeypatch.setenv("NUMBA_NUM_THREADS", wrong)
        with pytest.raises(ValueError, match="environment variable NUMBA_NUM_THREADS must be a positive integer"):
            _settings._default_threads()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_helpers_follow_one_caller_alone(monkeypatch):
    """Two threads that call in turn do not move them."""
    from fastloss.runtime import scheduling

    pinned = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, cores: pinned.append(cores))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(scheduling, "current_core", lambda: 2)
    caller = [1]
    monkeypatch.setattr(scheduling, "_get_ident", lambda: caller[0])
    placement = scheduling.Placement()
    placement.ids = [7]
    for _ in range(scheduling.STEADY + 20):
        placement.keep_apart(1)
    assert pinned == [{0, 1, 3}]
    for _ in range(20):
        caller[0] = 3 - caller[0]
        placement.keep_apart(1)
    assert pinned == [{0, 1, 3}, {0, 1, 2, 3}]
    for _ in range(scheduling.STEADY + 20):
        placement.keep_apart(1)
    assert pinned == [{0, 1, 3}, {0, 1, 2, 3}, {0, 1, 3}]


def test_pinning_can_be_turned_off():
    code = "from fastloss.runtime import scheduling; print(scheduling.current_core)"
    assert run(code, FASTLOSS_PIN="0") == "None"


def test_a_check_that_one_thread_leaves_out_is_made_in_others():
    from fastloss.runtime.settings import in_this_thread

    x, y, errors = np.zeros((2, 3)), np.array([0, 7]), []

    def other():
        try:
            fl.cross_entropy(x, y)
        except IndexError as error:
            errors.append(error)

    with in_this_thread(check_indices=False):
        assert np.isnan(fl.cross_entropy(x, y))
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        with fl.config(check_indices=True):
            assert np.isnan(fl.cross_entropy(x, y))
    assert len(errors) == 1
    with pytest.raises(IndexError):
        fl.cross_entropy(x, y)
