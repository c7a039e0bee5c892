"""Offline compilation of CUDA kernels: NVVM to PTX, nvJitLink to machine code, both without a device."""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import re
import sys
import types
import warnings
from typing import Any, NamedTuple


class FakeDevice:
    """What the compiler of device functions asks of the current device."""

    def __init__(self, capability: tuple[int, int]) -> None:
        self.compute_capability = capability


@contextlib.contextmanager
def offline(capability: tuple[int, int]):
    """Have the compiler believe that a device of this capability is there."""
    from numba.cuda import dispatcher

    before = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: FakeDevice(capability)
    try:
        yield
    finally:
        dispatcher.get_current_device = before


class Assembled(NamedTuple):
    """What the assembler reports of a kernel."""

    ptx: str
    registers: int
    stack: int
    spills: int


def compile_ptx(body: Any, signature: Any, capability: tuple[int, int], bounds: tuple[int, int]) -> str:
    from numba import cuda

    with offline(capability), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cuda.compile_ptx(body, signature, cc=capability, launch_bounds=bounds)[0]


def assembler() -> str:
    """Return the release of the assembler."""
    from cuda.bindings import nvjitlink

    return ".".join(map(str, nvjitlink.version()))


def link(ptx: str, capability: tuple[int, int]) -> tuple[bytes, str]:
    """Return the machine code, and what the assembler reports of it."""
    from cuda.bindings import nvjitlink

    arch = f"-arch=sm_{capability[0]}{capability[1]}"
    handle = nvjitlink.create(2, [arch, "-Xptxas=-v"])
    data = ptx.encode() + b"\0"
    try:
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, data, len(data), "kernel.ptx")
        nvjitlink.complete(handle)
        log = bytearray(nvjitlink.get_info_log_size(handle))
        nvjitlink.get_info_log(handle, log)
        code = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, code)
    finally:
        nvjitlink.destroy(handle)
    return bytes(code), log.decode(errors="replace")


def assemble(ptx: str, capability: tuple[int, int]) -> Assembled:
    report = link(ptx, capability)[1]
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", report)]
    stack = [int(n) for n in re.findall(r"(\d+) bytes stack frame", report)]
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill", report)]
    assert registers, report
    return Assembled(ptx, max(registers), max(stack, default=0), max(spills, default=0))


# -- instructions, without a device --------------------------------------------------------------------------------


def disassembler() -> str | None:
    """Return the path of nvdisasm, as the wheel nvidia-cuda-nvdisasm or a CUDA toolkit brings it; None without one."""
    import importlib.util
    import shutil
    from pathlib import Path

    found = importlib.util.find_spec("nvidia")
    wheels = [Path(place, "cu13", "bin", "nvdisasm") for place in (found.submodule_search_locations if found else ())]
    return next((str(path) for path in wheels if path.exists()), shutil.which("nvdisasm"))


class Block(NamedTuple):
    """Instructions that run one after another, and the numbers of the blocks that may follow."""

    code: list[str]
    following: list[int]


def blocks_of(text: str) -> list[Block]:
    """Return the basic blocks of the kernel in a listing; subroutines of the compiler's have sections of their own.

    `BRA.DIV` is the way of warps whose threads have parted before a shuffle or a barrier of the warp, which threads
    that take as many turns never do: it is no edge here.
    """
    parts = re.split(r"^\s*\.section\s+\.text\.", text, flags=re.MULTILINE)[1:]
    (kernel,) = [part for part in parts if part.startswith("_Z")]
    pieces: list[tuple[list[str], list[str]]] = [([], [])]
    for line in kernel.splitlines():
        label = re.match(r"(\.L_x_\d+):", line)
        instruction = re.match(r"\s+/\*[0-9a-f]+\*/\s+(.*?)\s*;", line)
        ended = pieces[-1][1] and re.search(r"\b(BRA|EXIT|RET)\b(?!\.DIV)", pieces[-1][1][-1])
        if (label and pieces[-1][1]) or (instruction and ended):
            pieces.append(([], []))
        if label:
            pieces[-1][0].append(label[1])
        elif instruction:
            pieces[-1][1].append(instruction[1])
    at = {label: k for k, (labels, _) in enumerate(pieces) for label in labels}
    blocks = []
    for k, (_, code) in enumerate(pieces):
        last = code[-1] if code else ""
        jump = re.search(r"\bBRA\b(?!\.DIV).*`\((\.L_x_\d+)\)", last)
        always = re.match(r"(BRA `|EXIT|RET)", last)
        following = ([at[jump[1]]] if jump else []) + ([] if always or k + 1 == len(pieces) else [k + 1])
        blocks.append(Block(code, following))
    return blocks


def reached(blocks: list[Block], start: int, without: int = -1) -> set[int]:
    """Return the blocks that can follow a block, itself only through a loop; none by way of `without`."""
    found: set[int] = set()
    waiting = [start]
    while waiting:
        for k in blocks[waiting.pop()].following:
            if k not in found and k != without:
                found.add(k)
                waiting.append(k)
    return found


def loop_around(blocks: list[Block], stores: str) -> list[str]:
    """Return the instructions of a turn of the outermost loop around the most stores that match `stores`.

    Of the turns that run such a store, that with the most instructions, both sides of a branch counted. What other
    turns run instead, such as those of rows that are ignored, is left out.
    """
    after = [reached(blocks, k) for k in range(len(blocks))]
    counts = [sum(bool(re.search(stores, line)) for line in block.code) for block in blocks]
    loops = [{k for k in after[start] if start in after[k]} for start in range(len(blocks)) if start in after[start]]
    loop = max(loops, key=lambda found: sum(counts[k] for k in found))
    (head,) = {
        k for start in set(range(len(blocks))) - loop for k in blocks[start].following if k in loop and start < k
    }
    then = {k: reached(blocks, k, head) & loop for k in loop}
    turns = [
        {k for k in loop if k == anchor or k in then[anchor] or anchor in then[k]} for anchor in loop if counts[anchor]
    ]
    lines = [[line for k in sorted(turn) for line in blocks[k].code] for turn in turns]
    return max(lines, key=len)


def disassemble(launch: Launch, capability: tuple[int, int]) -> list[Block]:
    """Return the basic blocks of the kernel of a launch."""
    import subprocess
    import tempfile

    ptx = compile_ptx(launch.kernel.body, launch.signature, capability, launch.kernel.bounds)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(link(ptx, capability)[0])
        file.flush()
        tool = disassembler()
        assert tool is not None
        return blocks_of(subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True).stdout)


# -- which kernels the losses launch, without a device -------------------------------------------------------------

DTYPES = ("float32", "bfloat16", "float16", "float64")
_VIEWS = {"float16": "int16", "bfloat16": "uint16"}
FAMILIES = ("elementwise", "rowwise", "rowmap", "pairwise", "label_sets", "sequence", "sums")


_DISPATCH = "fastloss.call.dispatch"


class Launch(NamedTuple):
    """A kernel, the dtype it computes in, and the arguments it was launched with."""

    kernel: Any
    real: Any
    args: tuple[Any, ...]

    @property
    def signature(self) -> Any:
        return self.kernel.signature(self.real, self.args)

    @property
    def name(self) -> str:
        """The kernel's name without the fingerprint of the sources."""
        return self.kernel.name


class PretendLibrary:
    """Device memory that nobody has: addresses are handed out and never used."""

    name = "pretend"
    device = "cuda:0"
    ordinal = 0
    stream = 0
    adds_products = multiplies_bfloat16 = True
    reader = None  # no library knows such arrays: every call is planned anew

    def __init__(self) -> None:
        import numpy as np

        from fastloss.cuda.backend import Backend

        self.backend = Backend(self)
        self.backend.activated = contextlib.nullcontext
        self.backend.workspace = lambda: self.allocate((1,), np.dtype(np.float64))
        self.backend.upload = lambda array: self.array(array.shape, array.dtype.name)
        self.next = 1 << 40

    def array(self, shape: tuple[int, ...], dtype: str, offset: int = 0) -> Any:
        import numpy as np

        view = self.allocate(shape, np.dtype(_VIEWS.get(dtype, dtype)))
        view.pointer += offset * view.itemsize
        return view

    def allocate(self, shape: tuple[int, ...], dtype: Any) -> Any:
        from fastloss.cuda.device_array import DeviceArray

        view = DeviceArray(self.next, shape, dtype, "pretended")
        self.next += -(-view.size * view.itemsize // 512) * 512 + 512
        return view

    def maker(self, shape: tuple[int, ...], dtype: Any) -> Any:
        from fastloss.cuda.device_library import Maker

        return Maker(functools.partial(self.allocate, shape, dtype), operator.attrgetter("pointer"), shape, dtype)

    def view(self, array: Any, name: str) -> Any:
        return array

    output = lower = view

    def reading(self, view: Any) -> None:
        return None

    def number_of(self, dtype: Any) -> Any:
        return functools.partial(self.scalar, dtype=dtype)

    def wrapping(self, view_dtype: Any, dtype: Any) -> None:
        return None

    def wrap(self, view: Any, dtype: Any) -> Any:
        return view

    def scalar(self, value: Any, dtype: Any) -> Any:
        return value

    def current_stream(self) -> int:
        return 0

    def matmul(self, a: Any, b: Any, out: Any, add: bool = False) -> None:
        assert a.dtype == b.dtype
        assert a.shape[1] == b.shape[0]
        assert out.shape == (a.shape[0], b.shape[1])


@contextlib.contextmanager
def recorded(library: PretendLibrary):
    """Have every launch recorded in the list that this gives, instead of done."""
    import fastloss as fl
    from fastloss.cuda.launch import Kernel, with_values

    launches: list[Launch] = []
    before = Kernel.launch, Kernel.loaded
    path = [module for name, module in sys.modules.items() if name.startswith("fastloss.call.") and name != _DISPATCH]
    path = [module for module in path if hasattr(module, "library_of")]

    def launch(kernel: Any, device: Any, blocks: int, real: Any, *args: Any) -> None:
        launches.append(Launch(kernel, real, args))

    def loaded(kernel: Any, device: Any, real: Any, args: Any, values: Any) -> Any:
        start = lambda numbers: launch(kernel, device, 1, real, *with_values(args, iter(numbers)))  # noqa: E731
        return types.SimpleNamespace(starter=lambda device, blocks: start)

    Kernel.launch, Kernel.loaded = launch, loaded
    for module in path:
        module.library_of = lambda arrays, names: library
    try:
        with fl.config(check_indices=False):
            yield launches
    finally:
        Kernel.launch, Kernel.loaded = before
        for module in path:
            module.library_of = sys.modules[_DISPATCH].library_of


SEQUENCE = ("log_probs", "targets", "input_lengths", "target_lengths")


def _sequence_lengths(samples: int) -> tuple[Any, Any]:
    """Return time steps of 9 and fewer, and labels of 3 and fewer."""
    import numpy as np

    return 9 - np.arange(samples) % 4, 3 - np.arange(samples) % 3


def arguments(
    record: Any,
    library: PretendLibrary,
    dtype: str,
    shape: tuple[int, ...] = (8, 64),
    offset: int = 0,
    optional: bool = False,
) -> dict[str, Any]:
    """Return pretended arrays for the array arguments of a loss, and the options that it requires."""
    import inspect

    if record.family == "sequence":
        lengths = _sequence_lengths(shape[0])
        labels = library.array((shape[0], 3), "int64")
        return dict(zip(SEQUENCE, (library.array((9, *shape), dtype, offset), labels, *lengths), strict=True))
    given: dict[str, Any] = {}
    indexed = record.domains.get("target") in ("class", "class_list")
    rows = shape[:1] + shape[2:]
    for name, parameter in inspect.signature(record.describe).parameters.items():
        if name in record.operands and (parameter.default is inspect.Parameter.empty or optional):
            if name == "target" and indexed:
                given[name] = library.array(rows if record.domains["target"] == "class" else shape, "int64")
            elif name == "target" and record.family == "pairwise":
                given[name] = library.array(shape[:-1], dtype)
            elif name == "weight" and record.family == "rowwise":
                given[name] = library.array(shape[1:2], dtype)
            else:
                given[name] = library.array(shape, dtype, offset)
        elif parameter.default is inspect.Parameter.empty or (name == "dim" and record.family == "rowmap"):
            given[name] = 1  # the axis of softmax and its like
    return given


def launches_of(
    record: Any, dtype: str, *, transform: str = "value_and_grad", reduction: str | None = None, wrt: Any = None,
    options: dict[str, Any] | None = None, **kwargs: Any,
) -> list[Launch]:  # fmt: skip
    """Return the launches of one call of a loss, in any transform, on pretended arrays."""
    import fastloss as fl

    library = PretendLibrary()
    given = arguments(record, library, dtype, **kwargs) | (options or {})
    if reduction is not None and "reduction" in record.options:
        given["reduction"] = reduction
    function = getattr(fl, transform)
    with recorded(library) as launches:
        (function(record.function, wrt) if wrt else function(record.function))(**given)
    return launches


def further_options(names: Any) -> Any:
    """Give (loss, option, value) for every value of an option of these losses that may choose another kernel."""
    from fastloss.define.registry import LOSSES

    for name in names:
        signature = inspect.signature(LOSSES[name].describe)
        for option, domain in LOSSES[name].options.items():
            if option not in ("reduction", "ignore_index"):
                default = signature.parameters[option].default
                yield from ((name, option, value) for value in domain.examples if value != default)


# -- arguments with numbers in them ----------------------------------------------------------------------------------

_KINDS = {
    "real": lambda rng, shape: rng.normal(size=shape),
    "positive": lambda rng, shape: rng.uniform(0.3, 2.0, shape),
    "count": lambda rng, shape: rng.uniform(1.5, 5.0, shape),
    "probability": lambda rng, shape: rng.uniform(0.1, 0.9, shape),
    "class_probability": lambda rng, shape: rng.uniform(0.1, 0.9, shape),
    "log_probability": lambda rng, shape: -rng.uniform(0.1, 2.0, shape),
    "sign": lambda rng, shape: rng.choice([-1.0, 1.0], shape),
    "binary": lambda rng, shape: rng.choice([0.0, 1.0], shape),
}


def numpy_dtype(name: str) -> Any:
    import ml_dtypes
    import numpy as np

    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def sample(record: Any, dtype: str, shape: tuple[int, ...] = (5, 7), *, optional: bool = False, seed: int = 0) -> Any:
    """Return NumPy arguments of a loss; class indices hold an ignored one where the loss knows of that."""
    import numpy as np

    rng = np.random.default_rng(seed)
    if record.family == "sequence":
        samples, classes = shape
        scores = -rng.uniform(0.1, 2.0, (9, *shape)).astype(numpy_dtype(dtype))
        labels = rng.integers(0, classes, (samples, 3))
        return dict(zip(SEQUENCE, (scores, labels, *_sequence_lengths(samples)), strict=True))
    made: dict[str, Any] = {}
    for name, like in arguments(record, PretendLibrary(), "float32", shape, optional=optional).items():
        if isinstance(like, int):
            made[name] = like
            continue
        kind = record.domains.get(name, "sign" if record.family == "pairwise" and name == "target" else "real")
        kind = "positive" if name in ("weight", "pos_weight", "var") else kind
        if like.dtype.kind == "i" and like.dtype.itemsize == 8:
            classes = shape[0] if len(shape) == 1 else shape[1]
            labels = rng.integers(0, classes, like.shape)
            if "ignore_index" in record.options and labels.size > 2:
                labels.reshape(-1)[1] = -100
            if like.shape == shape:  # a list of classes in each row
                labels = np.stack([rng.permutation(classes) for _ in range(shape[0])])
                labels[:, classes // 2] = -1
            made[name] = labels
        else:
            made[name] = np.asarray(_KINDS[kind](rng, like.shape)).astype(numpy_dtype(dtype))
    return made


def differentiable(record: Any, given: dict[str, Any]) -> tuple[str, ...]:
    """Return the arguments that can be differentiated with these arrays."""
    hard = record.family == "rowwise" and "target" in given and given["target"].dtype.kind == "i"
    names = ("input",) if hard else tuple(name for name in record.differentiable if name in given)
    return tuple(name for name in names if not isinstance(given[name], int))


TOLERANCE = {"float64": 1e-12, "float32": 3e-6, "float16": 2e-3, "bfloat16": 1.6e-2}


def assert_like(found: Any, expected: Any, dtype: str) -> None:
    """Compare results that may be nested tuples; `found` has been brought to the host."""
    import numpy as np

    if isinstance(expected, tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_like(one, other, dtype)
        return
    assert tuple(found.shape) == tuple(expected.shape)
    tolerance = TOLERANCE[dtype]
    expected = np.asarray(expected).astype(np.float64)
    finite = expected[np.isfinite(expected)]
    scale = float(np.abs(finite).max()) if finite.size else 1.0
    np.testing.assert_allclose(
        np.asarray(found).astype(np.float64), expected, tolerance, tolerance * (scale if 1e-6 < scale < 1 else 1.0)
    )


def mapped(function: Any, results: Any) -> Any:
    """Apply a function to every array in nested tuples."""
    if isinstance(results, tuple):
        return tuple(mapped(function, one) for one in results)
    return function(results)
