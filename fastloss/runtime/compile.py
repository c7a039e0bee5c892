"""How CPU kernels are compiled, named, cached and called."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.extending import register_jitable

from fastloss.runtime.compile_errors import in_one_line
from fastloss.runtime.functions import codes_in, global_names, is_packaged
from fastloss.runtime.interrupts import run_interruptible, run_to_the_end
from fastloss.runtime.kernel_cache import keep_code_alone, keep_on_disk, warn_of_memory
from fastloss.runtime.threads import QUEUE_HEAD, run_shared
from fastloss.runtime.version import __version__

# No nnan or ninf: NaN and infinity in the data must come out as IEEE arithmetic has them.
FASTMATH = {"reassoc", "contract", "nsz", "arcp"}

# The maths of a loss keeps its order of operations: two loops that compute the same difference must get the same bits.
# Only the drivers' sums are reassociated, which is what lets them vectorise.
MATHS_FASTMATH = {"contract", "nsz", "arcp"}

# Losses of one's own do without fused operations and inverses of divisors: LLVM chooses them for vectors and for what
# is left of a loop apart, so that `(T(1) if entry.hit else T(0)) - entry.p` had other bits in some places of a batch.
# The losses of the package are written, and tested, so that it has no such choice.
OWN_MATHS_FASTMATH = {"nsz"}

# How kernels, and what they are made of, are compiled. Nothing calls them from C: the function for that, which Numba
# adds to each of them unless told otherwise, took a tenth of the time to compile, optimised again with every caller.
# They are not stepped through: NUMBA_DEBUGINFO=1 is for the user's own functions, and fails at absent arrays.
# They count no references (cpu/simd/scratch.py): if one function did and another did not, arrays would be freed twice.
NJIT_OPTIONS: Any = {"no_cfunc_wrapper": True, "debug": False, "_nrt": False}


def kernel_part(**options: Any) -> Callable[..., Any]:
    """Return the decorator of functions that kernels are made of; in Python they stay what they are.

    A closure gets a name that says what it closes over. Machine code that is found on the disk calls its parts by name,
    and where kernels of two processes have parts of one name (Numba counts them, in each process from 1), both call
    that of the first: mse_loss would return another loss.

    A part with ``fastmath``, whose sums LLVM may reorder, is always inlined. Where it stays a function, the process
    that compiles a kernel calls the part as it was optimised on its own, and those that load the kernel from the disk
    call the copy inside it: softmax of 100 classes had other last bits in the first process than in all later ones.
    """
    inlined = {"forceinline": True} if options.get("fastmath") else {}
    register = register_jitable(**NJIT_OPTIONS, **inlined, **options)

    def part(body: Callable[..., Any]) -> Any:
        if body.__closure__:
            contents = hashlib.sha256(_described(body, set()).encode()).hexdigest()[:12]
            body.__qualname__ += f"_{contents}{foreign_part(body)}"
        return register(body)

    return part


def written_out(body: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is written out where a kernel calls it, before types are known.

    The machine code is that of a kernel in one piece. A function of its own is optimised on its own first, inlined by
    LLVM or not. That changed bits, the order of sums and of products in what vectors leave of a row; with the row loop
    as one, kernels took twice as long to compile; and with its last stage as one, losses of 80 to 1000 classes took 1.2
    to 2.9 times as long (one thread, AVX-512). Numba copies a part with its variables for each of its blocks: the loop
    as a part of a kernel, and not the kernel itself, took up to a fifth of the time to compile.
    """
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return body  # no kernel is compiled, as each says when it is called
    part: Any = numba.njit(inline="always", **NJIT_OPTIONS)(body)
    # Numba draws a number for it, and looks for the kernels that hold it in its disk cache by that number too.
    part._set_uuid(f"{body.__module__}.{body.__qualname__}")
    written: Callable[..., Any] = part
    return written


# Work (elements of a plain loss) from which a call is shared between threads.
PARALLEL_FROM = 1 << 17

# Work of the smallest chunk, and the most chunks of a call: enough to balance the load of any desktop or server socket,
# few enough that claiming them costs nothing.
CHUNK = 1 << 14
MAX_CHUNKS = 256

# Work from which the main thread hears Ctrl-C during a call, for some 0.1 ms more.
LONG_FROM = 1 << 24

# The size of the work queue of one chunk: behind the head two slots for every chunk, see cpu/simd/work_queue.py.
SMALL_QUEUE = QUEUE_HEAD + 2


def chunk_count(units: int, work: int) -> int:
    """Return into how many chunks `units` rows or elements that hold `work` elements in all are cut.

    A function of the problem alone, never of the number of threads: results must not depend on it.
    """
    return max(1, min(units, work // CHUNK, MAX_CHUNKS))


def is_small(work: int) -> bool:
    """Return whether so much work is a single chunk, whatever it consists of."""
    return work < 2 * CHUNK


# What a kernel is made of, beside the functions it closes over.
_SOURCES = ("runtime/compile.py", "cpu/**/*.py", "define/*.py", "losses/*.py")


@functools.cache
def fingerprint(*more: str) -> str:
    """Return a hash of the sources of kernels, `more` of them, and of what else decides the machine code.

    Numba looks only at the file that holds a kernel when it asks whether a cached kernel is stale; a kernel is made of
    functions of many files.
    """
    root = Path(__file__).parent.parent
    digest = hashlib.sha256(f"{__version__} {numba.__version__} {np.__version__} {numba.config.OPT}".encode())  # type: ignore[attr-defined]
    # A package may come without sources, its compiled files in their places: *.py, or *.pyc but those of caches.
    found = {path for pattern in (*_SOURCES, *more) for path in (*root.glob(pattern), *root.glob(f"{pattern}c"))}
    found = found or {path for path in root.parents if path.is_file()}  # the archive that the package is imported from
    for path in sorted(path for path in found if path.parent.name != "__pycache__"):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def foreign_part(body: Callable[..., Any]) -> str:
    """Return a part of a kernel's name for maths that is not this package's: a hash of it, and of all closed over."""
    parts: list[bytes] = []
    _collect(body, parts, set())
    if not parts:
        return ""
    parts.append(_described(body, set()).encode())
    return f"_{hashlib.sha256(b''.join(parts)).hexdigest()[:12]}"


def _collect(function: Callable[..., Any], parts: list[bytes], seen: set[Any]) -> None:
    """Collect what tells whether anything has changed that a function needs and that is not this package's.

    A function of this package needs what it closes over, for the rest is in the fingerprint. Another needs its own
    instructions too, for its file may have been edited since it was read, its defaults, and what it names. One of a
    script is told without its file: processes that it is sent to have none.
    """
    ours = is_packaged(function)
    needed = [cell.cell_contents for cell in function.__closure__ or ()]
    if not ours:
        file = None if function.__module__ == "__main__" else function.__code__.co_filename
        parts += (_contents(file), _instructions(function.__code__))
        needed += [*(function.__defaults__ or ()), *_named(function)]
    for one in _unpacked(needed):
        if isinstance(one, ModuleType):
            parts.append(_contents(getattr(one, "__file__", None)))
        elif isinstance(one, np.ndarray):
            parts += () if ours else (repr((one.dtype, one.shape)).encode(), one.tobytes())
        elif isinstance(one, int | float | str | np.generic | None):
            parts += () if ours else (repr(one).encode(),)
        elif isinstance(one, type):
            parts += () if ours else (repr((one, getattr(one, "_fields", ()))).encode(),)  # those of a named tuple
        elif hasattr(one, "__code__") and one not in seen:
            seen.add(one)
            _collect(one, parts, seen)


def _unpacked(values: Iterable[Any]) -> Iterator[Any]:
    """Yield values, and in place of a tuple its type, its length and its parts: printed, a long array has no middle."""
    for one in values:
        if isinstance(one, tuple):
            yield from (type(one), len(one))
            yield from _unpacked(one)
        else:
            yield getattr(one, "py_func", one)  # of a function that is compiled already


def _named(function: Callable[..., Any]) -> list[Any]:
    """Return what a function names: globals, and what it takes of modules. An attribute is no global of its name."""
    code, known = function.__code__, function.__globals__
    found = [known[name] for name in global_names(code) if name in known]
    modules = [one for one in found if isinstance(one, ModuleType)]
    names = [name for one in codes_in(code) for name in one.co_names]
    return [*found, *[getattr(module, name) for module in modules for name in names if hasattr(module, name)]]


def _described(one: Any, seen: set[Any]) -> str:
    """Return the name of a function and, in brackets, what it closes over; anything else as it prints."""
    one = getattr(one, "py_func", one)
    if isinstance(one, tuple):
        return f"({', '.join([_described(each, seen) for each in one])})"
    if not hasattr(one, "__code__"):
        return repr(one)
    name = f"{one.__module__}.{one.__qualname__}"
    if one in seen:
        return name
    seen.add(one)
    contents = [_described(cell.cell_contents, seen) for cell in one.__closure__ or ()]
    return f"{name}({', '.join(contents)})"


def _contents(path: str | None) -> bytes:
    try:
        return b"" if path is None else Path(path).read_bytes()
    except OSError:  # typed in at a prompt
        return b""


def _instructions(code: CodeType) -> bytes:
    constants = [_instructions(one) if isinstance(one, CodeType) else one for one in code.co_consts]
    return f"{code.co_code!r} {constants} {code.co_names}".encode()


class Launch(NamedTuple):
    """Machine code bound to the size of a problem: ``code(*arguments, queue(), True)``."""

    code: Callable[..., Any]
    queue: Callable[[], Any]


_small_queue = functools.partial(np.zeros, SMALL_QUEUE)


class Kernel:
    """A compiled loop, called with its arguments, a work queue and whether the caller leads.

    Numba's cache key holds neither the options of the compiler nor what a closure calls in other files: the name, with
    the loss, the loop and the fingerprint of the sources, makes stale and colliding entries impossible.
    """

    __slots__ = ("compiled", "found", "own")

    def __init__(self, name: str, body: Callable[..., Any]) -> None:
        part = foreign_part(body)
        self.own = bool(part)  # maths that is not of this package
        body.__qualname__ = body.__name__ = f"{name}_{fingerprint()}{part}"
        self.compiled: Any = numba.njit(nogil=True, error_model="numpy", fastmath=FASTMATH, **NJIT_OPTIONS)(body)
        keep_on_disk(self.compiled, body, "cpu", self.own)
        self.found: dict[Any, Callable[..., Any]] = {}

    def machine_code(self, arguments: tuple[Any, ...], flat: bool, params: int) -> Callable[..., Any]:
        """Return what runs arguments of these types, compiled where it is not yet; `flat`: once arrays are made flat.

        Arrays are writable and in C order, and tuples hold `params` floats in all.
        Numba's dispatcher would look at every argument of every call: a microsecond or more of six for a small loss.
        """
        # What tells the types of arguments apart: kernels take flat arrays, numbers, and tuples of numbers.
        key = (params, *map(type, arguments), *map(getattr, arguments, repeat("dtype"), repeat(None)))
        code = self.found.get(key)
        if code is None:
            if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
                raise RuntimeError("NUMBA_DISABLE_JIT is set, and losses are computed by what Numba compiles: unset it")
            if flat:
                arguments = tuple([a.ravel() if type(a) is np.ndarray else a for a in arguments])
            types = tuple([self.compiled.typeof_pyval(a) for a in (*arguments, _small_queue(), True)])
            with in_one_line(self.own):
                code = self.found[key] = run_to_the_end(lambda: self.compiled.compile(types))
            keep_code_alone(self.compiled)
            warn_of_memory()
        return code

    def launch(
        self,
        units: int,
        work: int,
        arguments: tuple[Any, ...],
        flat: bool = False,
        params: int | None = None,
        most: int = 0,
    ) -> Launch:
        """Return what runs over `units` that hold `work` elements in all, for arguments of the types of these.

        What is in the arguments may make it as long as the work `most`.
        """
        if params is None:
            params = sum([len(a) for a in arguments if type(a) is tuple])
        return launch_of(self.machine_code(arguments, flat, params), units, work, most)

    def __call__(self, units: int, work: int, *args: Any) -> Any:
        """Run over `units` that hold `work` elements in all, on this thread or on several."""
        launch = self.launch(units, work, args)
        return launch.code(*args, launch.queue(), True)


def launch_of(code: Callable[..., Any], units: int, work: int, most: int = 0) -> Launch:
    """Return what runs machine code over `units` that hold `work` elements: here, or here and on helper threads."""
    if is_small(work):
        return Launch(code, _small_queue)
    chunks = chunk_count(units, work)
    shared = chunks if work >= PARALLEL_FROM else 1
    run = run_interruptible if max(work, most) >= LONG_FROM else run_shared
    return Launch(lambda *args: run(code, args[:-1], shared), functools.partial(np.zeros, QUEUE_HEAD + 2 * chunks))
