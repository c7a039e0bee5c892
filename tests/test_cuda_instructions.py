"""How many instructions a warp issues for a row and for an element, in the machine code of an H100 or H200.

Such a device can copy 4 bytes in the time of 33 instructions of a thread: a loop that issues much less than that is
bound by memory, as it should be. Counted are all instructions of a turn of the outermost loop, both sides of branches
and what is switched off by a predicate, divided by the rows or elements that a warp's turn handles. Left out is what
comes before and after the loop, and what turns of other rows run: those whose class is ignored, and those past the end.
"""

import collections
import math
import os
import re

import pytest
from cases import LOSSES

if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    pytest.skip("the simulator compiles nothing", allow_module_level=True)
pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
pytest.importorskip("cuda.bindings.nvjitlink", reason="nvJitLink is not installed (numba-cuda[cu13])")

import cuda_tools

HOPPER = (9, 0)
needs_disassembler = pytest.mark.skipif(
    cuda_tools.disassembler() is None, reason="nvdisasm is not installed (nvidia-cuda-nvdisasm)"
)


def opcodes(code):
    """Return how often each instruction is there, without its predicate."""
    return collections.Counter(re.sub(r"^@!?U?P\d ", "", line).split()[0] for line in code)


def loop_of(launches, prefix, bytes_of_a_pack):
    """Return the kernel whose name begins so, and its loop around stores of packs of this size."""
    (launch,) = [launch for launch in launches if launch.name.startswith(prefix)]
    size = {4: "", 8: r"64\.?", 16: r"128\.?"}[bytes_of_a_pack]
    stores = rf"STG\.E\.?{size} desc"
    code = cuda_tools.loop_around(cuda_tools.disassemble(launch, HOPPER), stores)
    return launch, code, sum(bool(re.search(stores, line)) for line in code)


ROWS = [
    ("float32", 1000, 600),
    *[
        pytest.param(*row, marks=pytest.mark.slow)
        for row in [("float32", 10, 50), ("float32", 100, 90), ("bfloat16", 100, 100), ("bfloat16", 1000, 600)]
    ],
]


@needs_disassembler
@pytest.mark.parametrize(("dtype", "classes", "most"), ROWS)
def test_instructions_of_a_row(dtype, classes, most):
    launches = cuda_tools.launches_of(LOSSES["cross_entropy"], dtype, shape=(200000, classes))
    size = 4 if dtype == "float32" else 2
    width = math.gcd(classes, 16 // size)
    launch, code, stores = loop_of(launches, "rowwise_", width * size)
    lanes, packs, _ = map(int, re.match(r"rowwise_(\d+)x(\d+)x(\d+)_", launch.name).groups())
    # One store for each pack, and where they are of the same size one for the target: the loop is not unrolled.
    assert packs <= stores <= packs + 1
    found = opcodes(code)
    assert len(code) / (32 // lanes) <= most
    assert not [name for name in found if name.startswith("CALL")]
    assert sum(n for name, n in found.items() if name.startswith("MUFU.EX2")) == packs * width + 1  # and the target's
    narrow = sum(n for name, n in found.items() if name.startswith("LDG.E.U16"))
    assert narrow == (1 if dtype == "bfloat16" else 0)  # the target's entry


@needs_disassembler
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_instructions_of_an_element(dtype):
    launches = cuda_tools.launches_of(LOSSES["mse_loss"], dtype, shape=(1 << 24,))
    _, code, stores = loop_of(launches, "elementwise_", 16)
    assert len(code) / (stores * (4 if dtype == "float32" else 8)) <= 12
    assert not [name for name in opcodes(code) if name.startswith(("CALL", "LDG.E.U16"))]


@pytest.mark.slow
@needs_disassembler
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("classes", [2, 10, 30, 100, 1000, 2048, 10000, 32000])
def test_rows_of_all_lengths(dtype, classes):
    """At most 20 instructions for each entry that a thread has room for, and 150 for the row and its reductions."""
    launches = cuda_tools.launches_of(LOSSES["cross_entropy"], dtype, shape=(200000, classes))
    (launch,) = [launch for launch in launches if launch.name.startswith("rowwise_")]
    lanes, packs, width = map(int, re.match(r"rowwise_(\d+)x(\d+)x(\d+)_", launch.name).groups())
    assert classes <= lanes * packs * width < 2 * classes + lanes * width
    size = width * (4 if dtype == "float32" else 2)
    _, code, _ = loop_of(launches, "rowwise_", size)
    assert len(code) <= 20 * packs * width + 150
    assert not [name for name in opcodes(code) if name.startswith("CALL")]


@pytest.mark.slow
def test_devices_before_ampere_get_instructions_that_they_know():
    """They neither round pairs of numbers to half types nor keep NaN in a maximum by one instruction."""
    (launch,) = [
        launch
        for launch in cuda_tools.launches_of(LOSSES["cross_entropy"], "bfloat16", shape=(8, 64))
        if launch.name.startswith("rowwise_")
    ]
    for capability, there in (((7, 5), False), (HOPPER, True)):
        ptx = cuda_tools.compile_ptx(launch.kernel.body, launch.signature, capability, launch.kernel.bounds)
        assert ("cvt.rn.bf16x2.f32" in ptx) == there
        assert ("max.NaN.f32" in ptx) == there
        assert cuda_tools.assemble(ptx, capability).spills == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["cross_entropy", "multi_margin_loss", "symmetric_cross_entropy"])
def test_the_way_of_a_row_does_not_depend_on_the_others(name, dtype):
    for classes in (3, 100, 1001, 30000, 40000, 128256):
        kernels = set()
        for rows in (1, 127, 128, 20000):
            launches = cuda_tools.launches_of(LOSSES[name], dtype, shape=(rows, classes))
            kernels.add(tuple(launch.name for launch in launches if launch.name != "combine"))
        assert len(kernels) == 1
