"""The same number of threads for every contender.

==============  ======================================================================================================
fastloss, copy  ``fl.config(num_threads=)``
torch           ``torch.set_num_threads``
JAX             ``NPROC`` and, for one thread, ``XLA_FLAGS=--xla_cpu_multi_thread_eigen=false``; both are read once,
                when the first array is made, so a process keeps the number it began with
scikit-learn    the argument ``n_threads``
NumPy           one thread; its BLAS (``vdot``) follows threadpoolctl, which scikit-learn brings
==============  ======================================================================================================

``taskset`` before the command is honoured by all of them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from fastloss.runtime.config import config


def prepare(count: int) -> None:
    """Settle what libraries read once, when they start."""
    os.environ["NPROC"] = str(count)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA tells how long it folds constants
    if count == 1:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()


@contextlib.contextmanager
def limited(count: int, names: Sequence[str]) -> Iterator[None]:
    """Run the named contenders with `count` threads while in the block."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(config(num_threads=count))
        if {"torch", "compile"} & set(names):
            import torch

            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(count)
        with contextlib.suppress(ImportError):
            import threadpoolctl

            limits: Any = threadpoolctl.threadpool_limits(limits=count, user_api="blas")
            stack.callback(limits.restore_original_limits)
        yield


def most() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
