"""``fastloss warm``: compile kernels before they are needed, for images and servers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

import fastloss as fl
from fastloss.bench.cases import case_of
from fastloss.commands.errors import CommandError
from fastloss.commands.loss_flags import named
from fastloss.define.record import Loss
from fastloss.define.registry import LOSSES
from fastloss.runtime.kernel_cache import folders, is_off
from fastloss.runtime.terminal import clear_status, show_status

DTYPES = ("float64", "float32", "float16", "bfloat16")

# Narrow rows and wide ones, in the caches and past them: each has kernels of its own.
_SIZES = ("small", "medium", "large")


def main(names: Sequence[str], dtypes: Sequence[str]) -> int:
    """Call each loss of `names`, or of all, as programs do most: value, values that are not reduced, gradient."""
    if is_off() or folders()[0] is None:
        raise CommandError("compiled kernels are not kept: set FASTLOSS_CACHE_DIR to a folder that can be written")
    for name in names:
        if name in DTYPES:
            raise CommandError(f"{name} is a dtype and no loss: commas go between dtypes, --dtype float32,float16")
    losses = [named(name) for name in names] if names else list(LOSSES.values())
    kinds = [(dtype, _dtype(dtype)) for dtype in dtypes]
    began = time.perf_counter()
    for number, loss in enumerate(losses, 1):
        for name, dtype in kinds:
            show_status(f"{number} of {len(losses)}: {loss.name} {name}")
            for size in _SIZES:
                _call(loss, size, dtype)
    clear_status()
    seconds = time.perf_counter() - began
    print(f"{len(losses)} of {len(LOSSES)} losses in {', '.join(dtypes)}: {seconds:.1f} s")
    return 0


def _dtype(name: str) -> Any:
    if name not in DTYPES:
        raise CommandError(f"unknown dtype {name!r}; known: {', '.join(DTYPES)}")
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError:
        raise CommandError("bfloat16 arrays of NumPy need ml_dtypes: pip install ml_dtypes") from None
    return np.dtype(ml_dtypes.bfloat16)


def _call(loss: Loss, size: str, dtype: Any) -> None:
    """Call a loss at a size; what has no reduction, or another one, has fewer kernels."""
    case = case_of(loss, size)
    if case is None:
        return
    arrays = {name: array.astype(dtype) if array.dtype.kind == "f" else array for name, array in case.operands.items()}
    reductions: list[dict[str, str]] = [{}]
    if "reduction" in loss.options:
        reductions = [{"reduction": "mean"}, {"reduction": "none"}]
    for options in reductions:
        loss.function(**arrays, **case.options, **options)
        fl.value_and_grad(loss.function, case.wrt)(**arrays, **case.options, **options)
