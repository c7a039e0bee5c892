"""What reaches the CUDA driver: arguments, grids, streams, waits. The driver is a fake one (fake_driver.c).

Each test runs a few lines in a process of its own that finds the fake driver where it looks for the real one.
"""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import textwrap

import pytest

import fastloss as fl

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
pytest.importorskip("cuda.bindings.nvjitlink", reason="nvJitLink is not installed (numba-cuda[cu13])")
if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    pytest.skip("the simulator has no driver", allow_module_level=True)
COMPILER = shutil.which("cc") or shutil.which("gcc")
if COMPILER is None or not sys.platform.startswith("linux"):
    pytest.skip("needs Linux and a C compiler", allow_module_level=True)

pytestmark = pytest.mark.slow
HEAD = """
    import numpy as np
    from numba import cuda
    import fastloss as fl
    def array(shape, dtype=np.float32, stream=0):
        return cuda.device_array(shape, dtype, stream=cuda.external_stream(stream) if stream else 0)
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """Return the folder of the fake driver."""
    folder = tmp_path_factory.mktemp("driver")
    source = os.path.join(os.path.dirname(__file__), "fake_driver.c")
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-w", "-o", folder / "libcuda.so.1", source], check=True)
    (folder / "libcuda.so").symlink_to("libcuda.so.1")
    return folder


@pytest.fixture
def run(driver, tmp_path):
    """Return a function that runs code beside the fake driver and returns what it printed and what the driver saw."""

    def run(code, **settings):
        log = tmp_path / "log"
        path = f"{driver}:{os.environ.get('LD_LIBRARY_PATH', '')}"
        given = {**os.environ, "LD_LIBRARY_PATH": path, "FAKE_DRIVER_LOG": str(log), **settings}
        script = tmp_path / "script.py"
        script.write_text(textwrap.dedent(HEAD) + textwrap.dedent(code))
        done = subprocess.run([sys.executable, script], env=given, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        lines = log.read_text().splitlines() if log.exists() else []
        return done.stdout.split(), [re.sub(r"_[0-9a-f]{12}\S*", "", line) for line in lines]

    return run


def launches(lines):
    return [line for line in lines if line.startswith("launch")]


@pytest.mark.parametrize("real", ["float32", "float64"])
def test_arguments_are_packed_in_order(run, real):
    """An address, an absent array, a pair of numbers, integers of either sign."""
    code = f"""
        from fastloss.cuda.device.memory import store
        from fastloss.cuda.libraries import library_of_device_array
        from fastloss.cuda.launch import Kernel
        def probe(out, absent, pair, first, second):
            store(out, 0, pair[0] + pair[1] + first + second)
        x = array(4, np.{real})
        library = library_of_device_array(x)
        view = library.view(x, "x")
        start = Kernel("probe", probe, 64).launch
        start(library.backend, 3, np.dtype("{real}"), view, (), (1.5, -2.0), -7, np.int64(9))
        print(view.pointer)
    """
    (pointer,), lines = run(code, FAKE_DRIVER_ARGUMENTS="5")
    (line,) = launches(lines)
    assert re.search(r"probe\S* grid 3 block 64 stream 0 ", line)
    slots = [bytes.fromhex(slot)[::-1] for slot in line.split()[-5:]]
    number, size = ("<f", 4) if real == "float32" else ("<d", 8)
    assert int.from_bytes(slots[0], "little") == int(pointer)
    assert [struct.unpack(number, slot[:size])[0] for slot in slots[1:3]] == [1.5, -2.0]
    assert [struct.unpack("<q", slot)[0] for slot in slots[3:]] == [-7, 9]


def test_numbers_beyond_float32_are_infinite_there(run):
    """As on the CPU; and an integer beside one stays what it is."""
    code = """
        from fastloss.cuda.device.memory import store
        from fastloss.cuda.libraries import library_of_device_array
        from fastloss.cuda.launch import Kernel
        def probe(out, number, other, count):
            store(out, 0, number + other + count)
        x = array(4)
        library = library_of_device_array(x)
        view = library.view(x, "x")
        start = Kernel("probe", probe, 64).launch
        start(library.backend, 1, np.dtype("float32"), view, 1e42, np.float64(-1e39), 1 << 40)
    """
    _, lines = run(code, FAKE_DRIVER_ARGUMENTS="4")
    slots = [bytes.fromhex(slot)[::-1] for slot in launches(lines)[0].split()[-3:]]
    assert [struct.unpack("<f", slot[:4])[0] for slot in slots[:2]] == [float("inf"), float("-inf")]
    assert struct.unpack("<q", slots[2])[0] == 1 << 40


def test_a_small_call_without_checks_is_two_launches_and_no_wait(run):
    code = """
        x, y = array((64, 10)), array(64, np.int64)
        with fl.config(check_indices=False):
            value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y)
        print(value.shape == (), gradient.shape == x.shape)
    """
    found, lines = run(code)
    assert found == ["True", "True"]
    assert len(launches(lines)) == 2
    assert all("grid 1 " in line for line in launches(lines))
    assert not [line for line in lines if line.startswith(("wait", "copy"))]


LARGE = """
    loss = fl.value_and_grad(fl.mse_loss)
    def call(stream):
        loss(array((4000, 4), stream=stream), array((4000, 4), stream=stream))
"""


def test_a_loss_of_several_blocks_is_one_launch(run):
    """Their sums and a counter, which is cleared once, lie in memory that launches on one stream share."""
    code = "    call(4660), call(4660), call(4661), call(4660), call(4661)"
    _, lines = run(LARGE + code, FAKE_DRIVER_ARGUMENTS="9")
    seen = [line for line in lines if line.startswith(("launch", "clear"))]
    streams = ["4660", "4660", "4661", "4660", "4661"]
    assert [re.search(r"stream (\d+)", line)[1] for line in launches(seen)] == streams
    assert all("grid 16 " in line for line in launches(seen))
    assert [line for line in seen if line.startswith("clear")] == ["clear 16 stream 4660", "clear 16 stream 4661"]
    assert seen[0].startswith("clear")
    counters = [line.split()[-2] for line in launches(seen)]
    assert counters[0] == counters[1] == counters[3] != counters[2] == counters[4]
    sums = [line.split()[-3] for line in launches(seen)]
    assert [int(sum_, 16) - int(counter, 16) for sum_, counter in zip(sums, counters, strict=True)] == [16] * 5


def test_launches_in_a_graph_share_no_counter(run):
    """It is replayed beside whatever runs on the stream it was captured on, and clears its own each time."""
    _, lines = run(LARGE + "    call(4660), call(4660)", FAKE_DRIVER_CAPTURES="1")
    seen = [line.split()[0] for line in lines if line.startswith(("launch", "clear"))]
    assert seen == ["clear", "launch"] * 2


def test_rows_lie_in_registers(run):
    """Of part of a warp, of a warp or of a block; beyond that blocks visit them in memory. None in shared memory."""
    code = """
        def gradient(rows, classes):
            with fl.config(check_indices=False):
                fl.value_and_grad(fl.cross_entropy)(array((rows, classes)), array(rows, np.int64))
        for classes in (10, 1000, 2000, 3000, 30000, 99999):
            gradient(200, classes)
    """
    _, lines = run(code)
    seen = [
        (re.search(r".*rowwise_(\w+)_ce_row_ce", line)[1], int(line.split(" block ")[1].split()[0]))
        for line in launches(lines)
        if "rowwise" in line
    ]
    blocks = [("4x2x2", 128), ("32x8x4", 128), ("64x8x4", 64), ("128x8x4", 128), ("512x16x4", 512), ("long_1", 512)]
    assert seen == blocks
    assert not [line for line in lines if " shared " in line or line.startswith("attribute 8 ")]


def test_the_check_of_the_classes_waits_for_its_stream_alone(run):
    code = """
        x, y = array((64, 10), stream=4660), array(64, np.int64, 4660)
        try:
            value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y)
        except IndexError:  # nothing was computed: the first class that does not exist would be that of row 0
            print("checked")
    """
    found, lines = run(code)
    assert found == ["checked"]
    waits = [line for line in lines if line.startswith(("wait", "copy"))]
    assert waits == ["copy 8 stream 4660", "wait 4660"] * 2  # the row, and what stands there
    assert all("stream 4660" in line for line in launches(lines))


def test_results_are_of_the_stream_and_other_streams_are_waited_for(run):
    code = """
        x, t = array((50, 50), stream=4660), array((50, 50), stream=4661)
        value, gradient = fl.value_and_grad(fl.mse_loss)(x, t)
        print(int(value.stream), int(gradient.stream))
    """
    found, lines = run(code)
    assert found == ["4660", "4660"]
    assert lines[:2] == ["event of stream 4661", "stream 4660 waits"]
    assert all("stream 4660" in line for line in launches(lines))


def test_threads_without_a_context_get_one(run):
    code = """
        import threading
        x = array((50, 50))
        results = []
        for _ in range(2):
            thread = threading.Thread(target=lambda: results.append(fl.value_and_grad(fl.mse_loss)(x, x)))
            thread.start()
            thread.join()
        print(len(results))
    """
    found, lines = run(code)
    assert found == ["2"]
    assert launches(lines) == 2 * launches(lines)[: len(launches(lines)) // 2]


def test_what_a_capture_cannot_do_is_said(run):
    code = """
        try:
            fl.cross_entropy(array((64, 10)), array(64, np.int64))
        except RuntimeError as error:
            print("check_indices=False" in str(error))
    """
    found, lines = run(code, FAKE_DRIVER_CAPTURES="1")
    assert found == ["True"]
    assert not [line for line in lines if line.startswith(("wait", "copy"))]


# Prints the interpreter's instructions in repeated calls of 64 rows of 10, less those of Numba's own code, which makes
# the arrays and knows their addresses. Some calls free the arrays of those before: the least of several counts.
STEPS = """
    import sys
    sys.path.insert(0, {tests!r})
    from steps import steps
    def least(function, *args):
        return min([steps(function, *args) for _ in range(8)])
    def of_numba(count, arguments):
        for k in range(count):
            arguments += (cuda.device_array((64, 10) if k == 0 else (), np.float32),)
        for array in arguments:
            array.device_ctypes_pointer.value
    def counted(loss, arguments, made):
        return least(fl.value_and_grad(loss), *arguments) - least(of_numba, made, arguments)
    x, t, y = array((64, 10)), array((64, 10)), array(64, np.int64)
    print(counted(fl.mse_loss, (x, t), 2), counted(fl.cross_entropy, (x, y), 4))
    with fl.config(check_indices=False):
        print(counted(fl.cross_entropy, (x, y), 3))
"""


def test_a_divisor_on_the_device_is_not_waited_for(run):
    """The kernel takes its address, of any type."""
    code = """
        x, y, sign = array((64, 10)), array(64, np.int64), array(64)
        for dtype in (np.float32, np.float64, np.int64):
            divisor = array((), dtype)
            with fl.config(check_indices=False):
                for loss, arrays in (
                    (fl.mse_loss, (x, x)), (fl.cross_entropy, (x, y)), (fl.cosine_embedding_loss, (x, x, sign)),
                ):
                    for _ in range(2):
                        value, *_ = fl.value_and_grad(loss)(*arrays, divisor=divisor)
        print(value.shape == ())
    """
    found, lines = run(code)
    assert found == ["True"]
    assert len(launches(lines)) == 18
    assert not [line for line in lines if line.startswith(("wait", "copy"))]


def test_a_repeated_call_reads_a_value_that_may_be_none(run):
    """Of Numba's arrays, too, which are no numbers to Python; one wait for each call."""
    code = """
        x, loss = array((5, 7)), fl.value_and_grad(fl.binary_cross_entropy)
        loss(x, x), loss(x, x)
        for _ in range(3):
            value, gradient = loss(x, x)
            print(value.shape == ())
    """
    found, lines = run(code)
    assert found == ["True"] * 3
    assert [line for line in lines if line.startswith(("launch", "copy", "wait"))][-2:] == ["copy 4 stream 0", "wait 0"]


def test_a_repeated_call_takes_few_steps(run):
    """Kernels, grids and the types of arguments are settled; what is left is addresses, results and launches."""
    tests = os.path.dirname(os.path.abspath(__file__))
    if not os.path.exists(os.path.join(tests, "steps.py")):
        pytest.skip("tests/steps.py is not there")
    found, _ = run(STEPS.format(tests=tests), FAKE_DRIVER_FILL="255")
    mse, checked, cross_entropy = map(int, found)
    assert mse <= 500, found
    assert cross_entropy <= 500, found
    assert checked <= 800, found


def test_a_repeated_call_of_tensors_takes_few_steps(driver):
    """No more than the table says, and than the bar on any version of Python."""
    pytest.importorskip("torch")
    import steps

    path = f"{driver}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    package = os.path.dirname(os.path.dirname(fl.__file__))
    given = {**os.environ, "LD_LIBRARY_PATH": path, "PYTHONPATH": package}
    command = [sys.executable, steps.__file__, "--device", "--json"]
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found, table = json.loads(done.stdout), json.loads(steps.TABLE.read_text())
    assert found.keys() == steps.DEVICE_KINDS.keys() == table["device"].keys()
    for kind, (_, bar) in steps.DEVICE_KINDS.items():
        assert found[kind] <= bar, kind
        if table["python"] == steps.VERSION:
            assert found[kind] <= table["device"][kind], kind


def test_repeated_calls_know_streams(run):
    """Arrays of another stream are another kind of call, and are waited for each time where they lie beside others."""
    code = """
        loss = fl.value_and_grad(fl.mse_loss)
        for _ in range(3):
            for first, second in ((0, 0), (4660, 4660), (4660, 4661)):
                value, gradient = loss(array((50, 50), stream=first), array((50, 50), stream=second))
                print(int(value.stream), int(gradient.stream))
    """
    found, lines = run(code)
    assert found == ["0", "0", "4660", "4660", "4660", "4660"] * 3
    seen = [int(re.search(r"stream (\d+)", line)[1]) for line in launches(lines)]
    assert seen == [0, 4660, 4660] * 3
    assert lines.count("stream 4660 waits") == 3
    assert lines.count("event of stream 4661") == 3
