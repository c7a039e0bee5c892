"""What is asked of the CUDA driver beside launches: copies between host and device, events, and what devices are."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from typing import Any

from fastloss.cuda.device.numba_cuda import SIMULATED, cuda

try:  # numba-cuda brings it along; the simulator does without
    from cuda.bindings import driver as bindings
except ImportError:
    bindings = None

__all__ = [
    "bindings", "checked", "clear_memory", "current_device", "device_of_address", "exempt_from_captures",
    "external_stream", "read_integer", "read_memory", "single_device", "stream_id", "wait_for", "write_memory",
]  # fmt: skip


@functools.cache
def external_stream(ordinal: int, pointer: int) -> Any:
    """Return Numba's object for a stream of another library; 0 is the default stream."""
    return cuda.external_stream(pointer) if pointer else 0


def read_memory(device: Any, pointer: int, size: int) -> Any:
    """Return bytes of device memory; waits for the stream of `device`."""
    host = (ctypes.c_char * size)()
    if SIMULATED:
        ctypes.memmove(host, pointer, size)
        return host.raw
    if current_device() != device.ordinal:
        with device.activated():
            return read_memory(device, pointer, size)
    stream = device.library.current_stream()
    _refuse_capture(
        stream,
        "numbers that this call needs on the host cannot be read while a graph is captured: they are those of the "
        "check of class indices (fl.config(check_indices=False) leaves it out), lengths and grad_output in device "
        "memory, and the sum of weights that a gradient of the weights needs",
    )
    # In the order of this stream alone: a copy that waits for all of them would end a capture in another thread.
    checked(bindings.cuMemcpyDtoHAsync(ctypes.addressof(host), pointer, size, stream))
    checked(bindings.cuStreamSynchronize(stream))
    return host.raw


def read_integer(device: Any, pointer: int) -> int:
    """Return an integer of eight bytes in device memory; waits for the stream of `device`."""
    return int.from_bytes(read_memory(device, pointer, 8), "little")


def write_memory(device: Any, pointer: int, source: int, size: int) -> None:
    """Copy `size` bytes at an address of the host to device memory, in the order of the stream of `device`."""
    if SIMULATED:
        ctypes.memmove(pointer, source, size)
        return
    with device.activated():
        stream = device.stream
        # A graph would read the address when it is replayed, and not what is there now.
        _refuse_capture(stream, "numbers of the host, such as lengths, cannot be copied into a graph that is captured")
        checked(bindings.cuMemcpyHtoDAsync(pointer, source, size, stream))
        if _reads_pageable_memory(device.ordinal):
            checked(bindings.cuStreamSynchronize(stream))  # else the driver has staged a copy when it returns


def stream_id(device: Any) -> int | None:
    """Return what tells the stream of `device` from all others that there have been; None while it is captured."""
    if SIMULATED:
        return 0
    if current_device() != device.ordinal:
        with device.activated():
            return stream_id(device)
    stream = device.stream
    error, capturing = bindings.cuStreamIsCapturing(stream)
    if error or capturing:  # an error: another stream is, and the launch will say so
        return None
    return int(checked(bindings.cuStreamGetId(stream)))  # an address may be used again by another stream


def clear_memory(device: Any, pointer: int, size: int) -> None:
    """Write zeros to `size` bytes of device memory, in the order of the stream of `device`."""
    if SIMULATED:
        ctypes.memset(pointer, 0, size)
        return
    with device.activated():
        checked(bindings.cuMemsetD8Async(pointer, 0, size, device.stream))


@contextlib.contextmanager
def exempt_from_captures() -> Iterator[None]:
    """Allow this thread to allocate while another one captures a graph, which would end the capture otherwise."""
    if SIMULATED:
        yield
        return
    relaxed = bindings.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    before = checked(bindings.cuThreadExchangeStreamCaptureMode(relaxed))
    try:
        yield
    finally:
        checked(bindings.cuThreadExchangeStreamCaptureMode(before))


def wait_for(device: Any, stream: int) -> None:
    """Let what is launched from now on begin when what has been queued on another stream is done."""
    if SIMULATED:
        return
    with device.activated():
        event = checked(bindings.cuEventCreate(int(bindings.CUevent_flags.CU_EVENT_DISABLE_TIMING)))
        checked(bindings.cuEventRecord(event, stream))
        checked(bindings.cuStreamWaitEvent(device.stream, event, 0))
        checked(bindings.cuEventDestroy(event))  # the driver keeps it for as long as a stream waits


def _refuse_capture(stream: int, reason: str) -> None:
    if checked(bindings.cuStreamIsCapturing(stream)):
        raise RuntimeError(reason)


@functools.cache
def _reads_pageable_memory(ordinal: int) -> bool:
    """Return whether a device can read memory of the host that is not pinned, so that a copy may begin late."""
    attribute = bindings.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS
    return bool(checked(bindings.cuDeviceGetAttribute(attribute, checked(bindings.cuDeviceGet(ordinal)))))


def checked(answer: Any) -> Any:
    """Return the result of a call of the driver; raise if it failed."""
    if answer[0]:
        raise RuntimeError(f"the CUDA driver reports {answer[0].name}")
    return answer[1] if len(answer) > 1 else None


def current_device() -> int:
    """Return the number of the device whose context is current in this thread, -1 if none is."""
    error, device = bindings.cuCtxGetDevice()
    return -1 if error else int(device)


@functools.cache
def single_device() -> bool:
    """Return whether there is but one device, so that every array lies on it."""
    return SIMULATED or len(cuda.gpus) == 1


def device_of_address(pointer: int) -> int:
    """Return the number of the device on which an address lies; the current one for an empty array's 0."""
    if SIMULATED:
        return 0
    if not pointer:
        return int(cuda.get_current_device().id)
    cuda.current_context()  # the query needs one
    ordinal = bindings.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    return int(checked(bindings.cuPointerGetAttribute(ordinal, pointer)))
