"""What :mod:`fastloss.call.call` asks of a backend, for device memory: one object for a library on one device."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

import fastloss.cuda  # noqa: F401  (registers the maths)
from fastloss.cuda import memory
from fastloss.cuda.device.numba_cuda import SIMULATED, cuda
from fastloss.cuda.device.reduce import COUNTER, WORKSPACE
from fastloss.cuda.device_array import DeviceArray, addresses, like
from fastloss.cuda.driver import (
    clear_memory,
    current_device,
    exempt_from_captures,
    read_memory,
    stream_id,
    write_memory,
)
from fastloss.cuda.interface import address_of
from fastloss.cuda.loops import check_labels, ctc, elementwise, indexing, multilabel, pairwise, rowwise
from fastloss.define.point_maths import kept
from fastloss.runtime.dtypes import F64, real_of
from fastloss.runtime.half import widened
from fastloss.runtime.plans import KernelPlan

# Streams whose workspaces are kept; then all are forgotten, of streams that are no more among them.
MOST_WORKSPACES = 64

_NOTHING = contextlib.nullcontext()


class Backend:
    """Allocates through the user's library, launches on the caller's current stream.

    Reduced values stay on the device; :meth:`number` and the check of class indices alone wait for it.
    """

    samples_rows = False  # whether loops over rows multiply by the weights of samples
    follows_layout = False  # neighbouring threads take neighbouring rows: an axis of rows may as well come last
    waits = True
    chunk_times = 2  # how many times the budget of the CPU, see call/chunked_matmul.py

    def __init__(self, library: Any) -> None:
        self.library = library
        self.ordinal = library.ordinal
        self.adds_products, self.multiplies_bfloat16 = library.adds_products, library.multiplies_bfloat16
        self.plan_pairwise = functools.partial(pairwise.plan, self)
        self.plan_multilabel = functools.partial(multilabel.plan, self)
        self.ctc = functools.partial(ctc.run, self)
        self._workspaces: dict[int | None, DeviceArray] = {}

    @property
    def stream(self) -> int:
        """The address of the caller's current stream, 0 for the default one."""
        return self.library.current_stream()

    def activated(self) -> Any:
        """Return a context in which this device is the current one."""
        return _NOTHING if SIMULATED or current_device() == self.ordinal else cuda.gpus[self.ordinal]

    # -- plans ----------------------------------------------------------------------------------------------------

    def plan_elementwise(
        self, point: Any, operands: tuple[Any, ...], results: tuple[Any, ...], params: tuple[float, ...], aliased: bool
    ) -> KernelPlan:
        """Plan a loss over operands of one shape, see :func:`fastloss.cpu.loops.elementwise.plan`."""
        return elementwise.plan(self, point, operands, results, params)

    def plan_rowwise(
        self,
        maths: Any,
        operands: tuple[Any, ...],
        results: tuple[Any, ...],
        params: tuple[float, ...] | None,
        shape: tuple[int, int, int],
        ignore_index: int,
        replaces: bool = False,
    ) -> KernelPlan:
        """Plan a row loss, see :func:`fastloss.cpu.loops.rowwise.plan`."""
        return rowwise.plan(self, maths, operands, results, params, shape, ignore_index)

    # -- memory ---------------------------------------------------------------------------------------------------

    def empty(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        """Return an array of the user's library, uninitialised."""
        return self.library.allocate(tuple(shape), dtype)

    def maker(self, shape: tuple[int, ...], dtype: Any) -> Callable[[], DeviceArray]:
        """Return what makes such arrays."""
        return self.library.maker(tuple(shape), dtype)

    @staticmethod
    def prototype(dtype: Any) -> DeviceArray:
        """Return what stands for a result when a loop is planned."""
        return like(dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        """Return an array of zeros."""
        view = self.empty(shape, dtype)
        memory.fill(self, view, 0.0)
        return view

    def scratch(self, size: int, dtype: Any) -> DeviceArray:
        """Return memory for a kernel's own use; the library frees it in the order of its stream."""
        return self.empty((size,), dtype)

    def workspace(self) -> DeviceArray:
        """Return memory for a counter that is 0 and a sum of each block, for a launch on the current stream.

        Launches on a stream follow each other and share it. It is no array of the user's library: torch.compile gives
        out memory of a graph where it first calls what it will capture, and raises if any but the results is kept.

        A graph may be replayed beside whatever runs on the stream that it was captured on: each of its launches has
        memory of the graph, which is cleared at every replay.
        """
        stream = stream_id(self)
        if (kept := self._workspaces.get(stream)) is not None:
            return kept
        if stream is None:
            made = self.scratch(WORKSPACE // 8, F64)
            clear_memory(self, made.pointer, COUNTER)
            return made
        with self.activated(), exempt_from_captures():
            array = cuda.device_array(WORKSPACE // 8)
        made = DeviceArray(address_of(array), array.shape, F64, array)
        clear_memory(self, made.pointer, COUNTER)
        if len(self._workspaces) >= MOST_WORKSPACES:
            self._workspaces.clear()
        self._workspaces[stream] = made
        return made

    def scalar(self, dtype: Any) -> DeviceArray:
        """Return a zero-dimensional array for a reduced value."""
        return self.empty((), real_of(dtype))

    def filling(self, size: int, dtype: Any) -> Callable[[tuple[Any, ...]], None]:
        """Return what writes a value to contiguous memory, given (address, value, size)."""
        return memory.filling(self, size, dtype)

    def fill(self, view: DeviceArray, value: float) -> None:
        """Write `value` to every element of a contiguous view."""
        memory.fill(self, view, value)

    def pad(self, target: DeviceArray, source: DeviceArray, columns: int) -> None:
        """Copy `source` to the first `columns` of the target's second axis, and write zeros to the others."""
        self.copy_into(target[:, :columns], source)
        rest = target[:, columns:]
        self.copy_into(rest, self.zeros(rest.shape, rest.dtype))

    def matmul(self, a: DeviceArray, b: DeviceArray, out: DeviceArray, add: bool = False) -> None:
        """Write the matrix product into `out`, or add it, by the library that owns the arrays."""
        self.library.matmul(a, b, out, add)

    def multiplier(self, products: int) -> Callable[[DeviceArray, DeviceArray, DeviceArray], None]:
        """Return what writes matrix products that sum up so many products of two numbers."""
        return self.matmul

    def survey(
        self, target: DeviceArray, weight: Any, columns: int, ignore: int, check: bool, real: Any
    ) -> tuple[int, DeviceArray]:
        """Return (first row whose class does not exist or -1, summed weight of the rows that count, a scalar)."""
        return check_labels.plan(self, real, target, weight, columns, ignore)(addresses((target, weight)), check)

    def class_weights(self, target: DeviceArray, weight: Any, columns: int, ignore: int, real: Any) -> DeviceArray:
        """Return the weight of the class of each row, 1 without a `weight`, and 0 for rows that do not count."""
        return check_labels.class_weights(self, target, weight, columns, ignore, real)

    def clear_rows(self, weights: DeviceArray, gradient: DeviceArray, rows: int, layout: tuple[int, int, int]) -> None:
        """Write zeros to the entries of rows whose weight is 0; see :class:`fastloss.call.weighting.RowLayout`."""
        columns, inner, width = layout
        shape = (rows // inner, columns, inner, width)
        spread = weights.reshape((rows // inner, 1, inner, 1)).broadcast(shape)
        entries = gradient.reshape(shape)
        operands, results = (entries, spread, (), (), ()), (gradient, (), (), (), ())
        elementwise.plan(self, kept, operands, results, ()).run_once(operands, results, 1.0, 1)

    def add_to(self, target: DeviceArray, source: DeviceArray) -> None:
        """Add `source` to `target`, contiguous and of one real dtype; one row of `source` is added to every row."""
        memory.add(self, target, source)

    def host(self, view: DeviceArray) -> Any:
        """Return a view of integers as a NumPy array of int64; waits for the device."""
        return self.on_host(view).astype(np.int64)

    def take(self, view: DeviceArray, index: DeviceArray) -> DeviceArray:
        """Return a copy of the rows at `index`."""
        return indexing.take(self, view, index)

    def add_rows(self, target: DeviceArray, index: DeviceArray, source: DeviceArray) -> None:
        """Add the rows of `source` to those at `index`, which are all different; both of one real dtype."""
        indexing.add_rows(self, target, index, source)

    def argmax(self, view: DeviceArray, out: DeviceArray) -> None:
        """Write to `out` the place of the largest entry of every row of a real matrix, by the arrays' library."""
        self.library.argmax(view, out)

    # -- views ----------------------------------------------------------------------------------------------------

    def flat(self, view: DeviceArray) -> DeviceArray:
        """Return the elements in C order as a flat array, copied only where they do not lie so."""
        if view.is_contiguous():
            return view.reshape(-1)
        copied = self.empty(view.shape, view.dtype)
        memory.copy(self, copied, view)
        return copied.reshape(-1)

    @staticmethod
    def moved(view: DeviceArray, source: int, destination: int) -> DeviceArray:
        """Return the array with one axis in another place, without a copy."""
        return view.moved(source, destination)

    @staticmethod
    def broadcast(view: DeviceArray, shape: tuple[int, ...]) -> DeviceArray:
        """Return the view repeated to `shape`; itself where it has that."""
        return view if view.shape == shape else view.broadcast(shape)

    @staticmethod
    def overlap(one: DeviceArray, other: DeviceArray) -> bool:
        """Return whether the stretches of memory overlap that two views span; interleaved ones count as overlapping."""
        return one.relation(other) != 0

    @staticmethod
    def same(one: DeviceArray, other: DeviceArray) -> bool:
        """Return whether two views that overlap are the same elements in the same places."""
        return one.relation(other) == 1

    def number(self, view: DeviceArray | float) -> float:
        """Return the value of a view of one element; waits for the device."""
        if isinstance(view, float):
            return view
        return float(widened(np.frombuffer(read_memory(self, view.pointer, view.itemsize), view.dtype))[0])

    def on_host(self, view: DeviceArray) -> Any:
        """Return a view as a NumPy array; waits for the device."""
        flat = self.flat(view)
        raw = read_memory(self, flat.pointer, flat.size * flat.itemsize) if flat.size else b""
        return np.frombuffer(raw, flat.dtype).reshape(view.shape)

    def upload(self, array: Any) -> DeviceArray:
        """Return a copy of a contiguous NumPy array in the user's library."""
        view = self.empty(array.shape, array.dtype)
        if array.size:
            write_memory(self, view.pointer, array.ctypes.data, array.nbytes)
        return view

    def copy_into(self, target: DeviceArray, source: DeviceArray) -> None:
        """Copy `source` into a view of any layout and of the same dtype."""
        memory.copy(self, target, source)

    def sum_to(self, view: DeviceArray, shape: tuple[int, ...], dtype: Any = None) -> DeviceArray:
        """Return the sum over axes along which `shape` was broadcast to `view`, in another dtype where one is named."""
        return memory.sum_to(self, view, shape, dtype)
