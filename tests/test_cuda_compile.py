"""Every CUDA kernel goes through NVVM and the assembler, without a device.

The losses run on pretended arrays (cuda_tools.py) and every launch is recorded: what is compiled is what a device
would get.
"""

import functools
import inspect
import itertools
import json
import math
import os
import re
from pathlib import Path

import pytest
from cases import LOSSES

import fastloss as fl

if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    pytest.skip("the simulator compiles nothing", allow_module_level=True)
pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
pytest.importorskip("cuda.bindings.nvjitlink", reason="nvJitLink is not installed (numba-cuda[cu13])")

import cuda_tools

pytestmark = pytest.mark.slow

HOPPER = (9, 0)
OTHERS = ((8, 0), (10, 0))
NAMES = [name for name, record in LOSSES.items() if record.family in cuda_tools.FAMILIES]
REPRESENTATIVE = [
    ("mse_loss", "float32"),
    ("binary_cross_entropy_with_logits", "bfloat16"),
    ("nll_loss", "float32"),
    ("cross_entropy", "bfloat16"),
    ("triplet_margin_loss", "float32"),
    ("ctc_loss", "float32"),
]

# Registers of every kernel when it was last looked at, and the release of the assembler. A kernel may grow by a quarter
# under another release before the test fails: 63 became 76 from one to the next. To renew the table:
# FASTLOSS_WRITE_REGISTERS=1 pytest tests/test_cuda_compile.py
TABLE = Path(__file__).with_name("cuda_registers.json")
ASSEMBLER = "assembler"
MORE, MORE_OF_ANOTHER_RELEASE = 4, 1.25
WRITING = bool(os.environ.get("FASTLOSS_WRITE_REGISTERS"))

# A multiprocessor's registers, which must hold the blocks that a kernel's bounds ask for.
REGISTERS = 65536


@functools.cache
def _assembled(body, signature, capability, bounds):
    return cuda_tools.assemble(cuda_tools.compile_ptx(body, signature, capability, bounds), capability)


def assembled(launch, capability=HOPPER):
    return _assembled(launch.kernel.body, launch.signature, capability, launch.kernel.bounds)


def check(launch, capability=HOPPER):
    """Compile and assemble the kernel of a launch; check what can be seen of its machine code."""
    result = assembled(launch, capability)
    assert result.stack == 0, f"{launch.name}: {result.stack} bytes of local memory"
    assert result.spills == 0, f"{launch.name}: spills {result.spills} bytes"
    assert result.registers * math.prod(launch.kernel.bounds) <= REGISTERS, launch.name
    assert ".local" not in result.ptx, launch.name
    if str(launch.real) == "float32":
        doubles = re.findall(r"\s(\S+\.f64\S*)", result.ptx)
        assert not doubles, f"{launch.name}: double precision {set(doubles)}"
    width = re.match(r"elementwise_.*_(\d)$|(?:rowwise_\d+x\d+x|rowwise_long_|pairwise_\d+x)(\d)_", launch.name)
    if width and int(width[1] or width[2]) * launch.args[0].itemsize == 16:
        assert re.search(r"ld\.global\S*\.(v4\.[bfu]32|v2\.[bfu]64)", result.ptx), f"{launch.name}: no 128-bit loads"
    # Places in an array are computed in 64 bits. The only 32-bit products are those of the short way through a 64-bit
    # division, whose operands have been found to be small.
    lines = result.ptx.splitlines()
    for before, line in itertools.pairwise(lines):
        if re.search(r"(mul|mad)\.lo\.[su]32", line):
            assert "div.u32" in before, f"{launch.name}: {line.strip()}"
    return result


@functools.cache
def table():
    return json.loads(TABLE.read_text()) if TABLE.exists() else {}


def compare_registers(key, registers):
    known = table()
    if WRITING:
        # The largest: a kernel of one name may be compiled for several signatures. Delete the file to begin anew.
        known |= {key: max(registers, known.get(key, 0)), ASSEMBLER: cuda_tools.assembler()}
        TABLE.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")
        return
    if key not in known:  # that of a loss that somebody adds: the bounds of check() hold for it
        return
    most = known[key] + MORE
    if known[ASSEMBLER] != cuda_tools.assembler():
        most = max(most, MORE_OF_ANOTHER_RELEASE * known[key])
    assert registers <= most, f"{key}: {registers} registers, {known[key]} before"


@pytest.mark.parametrize("dtype", cuda_tools.DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient(name, dtype):
    launches = cuda_tools.launches_of(LOSSES[name], dtype)
    assert launches
    for launch in launches:
        result = check(launch)
        compare_registers(f"{launch.name} {dtype}", result.registers)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", [name for name in NAMES if LOSSES[name].family in ("rowwise", "rowmap")])
def test_long_rows(name, dtype):
    """Rows in the registers of a warp and of blocks, and rows that registers do not hold."""
    for classes in (1000, 4096, 40000):
        for launch in cuda_tools.launches_of(LOSSES[name], dtype, shape=(200, classes)):
            result = check(launch)
            compare_registers(f"{launch.name} {dtype}", result.registers)


@pytest.mark.parametrize("dtype", cuda_tools.DTYPES)
def test_linear_map(dtype):
    """What stands around the matrix products: conversions, sums in place, the survey and the row loss in place."""
    library = cuda_tools.PretendLibrary()
    x, w, b = (library.array(shape, dtype) for shape in ((8, 16), (64, 16), (64,)))
    y = library.array((8,), "int64")
    options = fl.LinearCrossEntropyOptions(batch_chunk_size=3)
    with cuda_tools.recorded(library) as launches:
        fl.value_and_grad(fl.linear_cross_entropy)(x, w, y, linear_bias=b, options=options)
    assert {"add", "survey"} <= {launch.name for launch in launches}
    for launch in launches:
        result = check(launch)
        compare_registers(f"{launch.name} {dtype}", result.registers)


@pytest.mark.parametrize("dtype", cuda_tools.DTYPES)
def test_rows_are_gathered_and_scattered(dtype):
    library = cuda_tools.PretendLibrary()
    x, index = library.array((8, 16), dtype), library.array((3,), "int64")
    with cuda_tools.recorded(library) as launches:
        rows = library.backend.take(x, index)
        if dtype in ("float32", "float64"):
            library.backend.add_rows(x, index, rows)
    for launch in launches:
        result = check(launch)
        compare_registers(f"{launch.name} {dtype}", result.registers)


# Bytes of local memory that the second, scaled sums of vectors, and rows of symmetric cross-entropy, may take in
# float64 on architectures before Hopper.
ON_OTHERS = 64


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_every_kernel_on_other_architectures(name, dtype):
    """What the oldest one is compiled to is assembled for all: later ones read it too.

    Half types are computed in float32.
    """
    for launch in cuda_tools.launches_of(LOSSES[name], dtype):
        _assembled_for_others(launch.kernel.body, launch.signature, launch.kernel.bounds)


@functools.cache
def _assembled_for_others(body, signature, bounds):
    ptx = cuda_tools.compile_ptx(body, signature, OTHERS[0], bounds)
    for capability in OTHERS:
        result = cuda_tools.assemble(ptx, capability)
        most = ON_OTHERS if re.match("pairwise|rowwise_.*_sce_", body.__name__) and "float64" in str(signature) else 0
        assert max(result.stack, result.spills) <= most, body.__name__
        assert result.registers * math.prod(bounds) <= REGISTERS, body.__name__


@pytest.mark.parametrize("capability", OTHERS)
@pytest.mark.parametrize(("name", "dtype"), REPRESENTATIVE)
def test_other_architectures(name, dtype, capability):
    for launch in cuda_tools.launches_of(LOSSES[name], dtype):
        check(launch, capability)


@pytest.mark.parametrize(("name", "option", "value"), list(cuda_tools.further_options(NAMES)))
def test_options(name, option, value):
    for launch in cuda_tools.launches_of(LOSSES[name], "float32", options={option: value}):
        check(launch)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if "weight" in inspect.signature(LOSSES[name].describe).parameters]
)
def test_optional_arrays(name):
    for launch in cuda_tools.launches_of(LOSSES[name], "bfloat16", optional=True, reduction="sum"):
        check(launch)


@pytest.mark.parametrize("name", [name for name in NAMES if LOSSES[name].hessian == "exact"])
def test_hessian(name):
    for launch in cuda_tools.launches_of(LOSSES[name], "float32", transform="grad_and_hess", reduction="none"):
        check(launch)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("float32", (8, 3)),
        ("bfloat16", (8, 7)),
        ("bfloat16", (8, 64)),
        ("float32", (8, 1001)),
        ("float32", (8, 32000)),
        ("bfloat16", (8, 10002)),
        ("float32", (8, 50257)),
        ("float32", (200, 50257)),
        ("bfloat16", (200, 50257)),
        ("float64", (200, 4096)),
        ("float16", (200, 8192)),
        ("bfloat16", (8, 128256)),
        ("float32", (4, 19, 33)),
    ],
)
def test_row_lengths(dtype, shape):
    for launch in cuda_tools.launches_of(LOSSES["cross_entropy"], dtype, shape=shape):
        check(launch)


def test_sequences(monkeypatch):
    """A block for a sequence of many labels, and for a row of many classes; labels of another type; values alone."""
    record, library = LOSSES["ctc_loss"], cuda_tools.PretendLibrary()
    options = {"targets": library.array((4, 300), "int32"), "target_lengths": [300, 0, 7, 9]}
    for transform in ("value_and_grad", "grad"):
        launches = cuda_tools.launches_of(
            record, "float32", shape=(4, 5000), options=options, transform=transform, reduction="none"
        )
        assert {launch.name for launch in launches} >= {"ctc_gradient_256", "ctc_rows_256"}
        for launch in launches:
            check(launch)

    monkeypatch.setattr("fastloss.cuda.loops.ctc.first_of", lambda device, real, firsts, grid: 1 << 40)
    with cuda_tools.recorded(library) as launches, fl.config(check_indices=True):
        fl.ctc_loss(**cuda_tools.arguments(record, library, "bfloat16"))
    assert [launch.name for launch in launches] == ["ctc_survey", "ctc_value_32", "elementwise_itself_4"]
    for launch in launches:
        check(launch)


def test_misaligned_arrays_are_read_element_by_element():
    (kernel,) = cuda_tools.launches_of(LOSSES["mse_loss"], "float32", offset=1)
    assert kernel.name == "elementwise_mse_1"
    assert not re.search(r"(ld|st)\.\S*v[24]\.", check(kernel).ptx)


def test_strided_and_broadcast_operands():
    library = cuda_tools.PretendLibrary()
    x = library.array((6, 5, 4), "float32")
    x.strides = (80, 16, -4)
    w = library.array((5, 1), "float32")
    with cuda_tools.recorded(library) as launches:
        fl.value_and_grad(fl.binary_cross_entropy_with_logits)(x, x, pos_weight=w)
    assert launches[0].name.startswith("elementwise_strided")
    for launch in launches:
        check(launch)


def test_memory_kernels():
    library = cuda_tools.PretendLibrary()
    x = library.array((64, 32), "float32")
    transposed = library.array((64, 32), "float32")
    transposed.strides = (4, 256)
    with cuda_tools.recorded(library) as launches:
        library.backend.flat(transposed)
        library.backend.zeros((8,), x.dtype)
        library.backend.sum_to(x, (32,))
    assert {launch.name for launch in launches} == {"copy", "fill", "sum_axis"}
    for launch in launches:
        check(launch)


def test_offsets_are_64_bit():
    """The compiler folds a constant offset beyond 2**32; the number that it arrives at is the exact one."""
    from fastloss.cuda.device.memory import store
    from fastloss.cuda.device.numba_cuda import types
    from fastloss.cuda.loops.elementwise import place_of

    i, axes, strides = 5_000_000_011, (70_000, 50_000), (3_500_000_123, -70_001, 3)
    expected = place_of(i, axes, strides)
    assert expected == (i // 3_500_000_000) * strides[0] + (i % 3_500_000_000 // 50_000) * -70_001 + i % 50_000 * 3

    def kernel(out):
        store(out, 0, place_of(i, axes, strides))

    ptx = cuda_tools.compile_ptx(kernel, types.void(types.CPointer(types.int64)), HOPPER, (256, 2))
    assert re.search(rf"\b{expected}\b|{expected & (2**64 - 1)}\b", ptx)


def test_row_offsets_are_64_bit():
    """Rows beyond element 2**31: their offsets are computed from the row's number by 64-bit products."""
    for shape in ((3_000_000, 1_000), (70_000, 50_000), (300_000, 3, 5_000)):
        launch = next(
            launch
            for launch in cuda_tools.launches_of(LOSSES["cross_entropy"], "float32", shape=shape)
            if launch.name.startswith("rowwise")
        )
        assert re.search(r"(mul|mad)\.lo\.s64", check(launch).ptx)
