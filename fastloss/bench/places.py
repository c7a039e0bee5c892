"""Where the arrays of a case lie: in NumPy, or in tensors of torch on a device, in a dtype of choice.

A place makes the arrays that a case is computed from, brings results to the host to be compared, and waits for the
device. Recipes (:mod:`fastloss.bench.cases`) and formulas do not know of it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from importlib import util
from typing import Any

import numpy as np

# Calls that the shares of device and host are taken from.
ASKED = 20

DTYPES = ("float32", "bfloat16", "float16", "float64")


class Host:
    """NumPy arrays in float32.

    Attributes
    ----------
    device, dtype
        As the results name them.
    contenders
        Who takes part unless the command line names others; ``None``: everybody.
    settle
        Seconds of silence before each timing. An OpenMP pool spins for some 15 ms after use and holds its cores.
    block
        Seconds that a timed block of calls lasts at the least, so that the clock's grain, what ends a block, and the
        first calls after the pause, when the core has slept, do not show.
    """

    device = "cpu"
    dtype = "float32"
    contenders: Sequence[str] | None = None
    settle = 0.02
    block = 5e-3

    def missing(self) -> str | None:
        """Return what has to be installed, or ``None``."""
        return None

    def processor(self) -> str | None:
        """Return the name of the device that computes, ``None`` for the machine's processor."""
        return None

    def put(self, array: Any) -> Any:
        """Return a NumPy array as one of this place; floating-point numbers get its dtype."""
        return array

    def synchronize(self) -> None:
        """Wait until everything that was started is done."""

    def peak(self, call: Any) -> float | None:
        """Return the bytes that a call allocates at its peak, where the place itself knows."""
        return None

    def parts(self, call: Any) -> tuple[float | None, float | None]:
        """Return the seconds that a device computes a call, and those that the host takes to queue it."""
        return None, None

    def release(self) -> None:
        """Give memory back that a library keeps for later."""


class Tensors(Host):
    """Tensors of torch on a device, ``"cuda"`` or ``"cpu"``."""

    contenders = ("fresh", "reused", "unchecked", "copy", "torch", "compile")

    def __init__(self, device: str, dtype: str) -> None:
        self.device, self.dtype = device, dtype
        if device != "cpu":
            # Nothing spins there; a block ends with a wait for the device that takes some 10 µs.
            self.settle, self.block = 0.0, 1e-2

    def missing(self) -> str | None:
        """Return what has to be installed, or ``None``."""
        if util.find_spec("torch") is None:
            return "torch, which is not installed"
        import torch

        if self.device != "cpu" and not torch.cuda.is_available():
            return "a CUDA device and a torch that is built for it"
        return None

    def processor(self) -> str | None:
        """Return the name of the GPU."""
        import torch

        return None if self.device == "cpu" else torch.cuda.get_device_name()

    def put(self, array: Any) -> Any:
        """Return a NumPy array as a tensor; floating-point numbers get the place's dtype."""
        import torch

        tensor = torch.from_numpy(array)
        return tensor.to(self.device, getattr(torch, self.dtype) if tensor.is_floating_point() else tensor.dtype)

    def synchronize(self) -> None:
        """Wait until the device is done."""
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize()

    def peak(self, call: Any) -> float | None:
        """Return the bytes that torch's allocator, which all contenders share, gives out at the peak."""
        if self.device == "cpu":
            return None
        import torch

        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        self.synchronize()
        return float(torch.cuda.max_memory_allocated() - before)

    def parts(self, call: Any) -> tuple[float | None, float | None]:
        """Return the seconds of a call that is replayed from a graph, and of the host while the device is idle.

        The first is None for a call that cannot be captured, such as one that waits for the device.
        """
        if self.device == "cpu":
            return None, None
        import torch

        host = []
        for _ in range(ASKED):
            self.synchronize()
            began = time.perf_counter()
            call()
            host.append(time.perf_counter() - began)
        self.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                call()
        except RuntimeError:
            return None, statistics.median(host)
        event: Any = torch.cuda.Event  # which says no types
        start, end = event(enable_timing=True), event(enable_timing=True)
        graph.replay()
        start.record()
        for _ in range(ASKED):
            graph.replay()
        end.record()
        self.synchronize()
        return start.elapsed_time(end) / 1e3 / ASKED, statistics.median(host)

    def release(self) -> None:
        """Give memory back that torch keeps for later."""
        import torch

        if self.device != "cpu":
            torch.cuda.empty_cache()


HOST = Host()


def asked_for(device: str | None, dtypes: Sequence[str] | None) -> list[Host]:
    """Return the places that a command line asks for, one for each dtype.

    Raises
    ------
    ValueError
        For an unknown device or dtype, and for what cannot be used here.
    """
    if device is None:
        if dtypes is not None:
            raise ValueError("--dtype goes with --device")
        return [HOST]
    for dtype in dtypes or ():
        if dtype not in DTYPES:
            raise ValueError(f"unknown dtype {dtype}; known: {', '.join(DTYPES)}")
    found: list[Host] = [Tensors(device, dtype) for dtype in dtypes or ("float32",)]
    missing = found[0].missing()
    if missing is not None:
        raise ValueError(f"--device {device} needs {missing}")
    return found


def to_host(array: Any) -> Any:
    """Return an array of any place as NumPy; half types, which NumPy has in part, as float32."""
    if isinstance(array, np.ndarray | np.generic):
        return np.asarray(array)
    tensor = array.detach()
    return (tensor.float() if tensor.element_size() == 2 else tensor).cpu().numpy()
