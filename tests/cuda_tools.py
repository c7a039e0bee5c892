"""Offline compilation of CUDA kernels: NVVM to PTX, nvJitLink to machine code, both without a device."""

from __future__ import annotations

import contextlib
import re
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


def compile_ptx(body: Any, signature: Any, capability: tuple[int, int]) -> str:
    from numba import cuda

    with offline(capability), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cuda.compile_ptx(body, signature, cc=capability)[0]


def assemble(ptx: str, capability: tuple[int, int]) -> Assembled:
    from cuda.bindings import nvjitlink

    arch = f"-arch=sm_{capability[0]}{capability[1]}"
    handle = nvjitlink.create(2, [arch, "-Xptxas=-v"])
    data = ptx.encode() + b"\0"
    try:
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, data, len(data), "kernel.ptx")
        nvjitlink.complete(handle)
        log = bytearray(nvjitlink.get_info_log_size(handle))
        nvjitlink.get_info_log(handle, log)
    finally:
        nvjitlink.destroy(handle)
    report = log.decode(errors="replace")
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", report)]
    stack = [int(n) for n in re.findall(r"(\d+) bytes stack frame", report)]
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill", report)]
    assert registers, report
    return Assembled(ptx, max(registers), max(stack, default=0), max(spills, default=0))
