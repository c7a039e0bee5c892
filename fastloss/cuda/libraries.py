"""Which library an array in CUDA memory belongs to.

Libraries are recognised through ``sys.modules``, never imported.
"""

from __future__ import annotations

import functools
from typing import Any

from fastloss.cuda.cupy_arrays import CupyLibrary
from fastloss.cuda.device_library import DeviceLibrary
from fastloss.cuda.interface import identify
from fastloss.cuda.torch_arrays import TorchLibrary

_LIBRARIES = {kind.name: kind for kind in (DeviceLibrary, CupyLibrary, TorchLibrary)}


def library_of_device_array(array: Any) -> DeviceLibrary:
    """Return the library of an array in CUDA memory."""
    return _library(*identify(array))


@functools.cache
def _library(name: str, ordinal: int, stream: int) -> DeviceLibrary:
    return _LIBRARIES[name](ordinal, stream)
