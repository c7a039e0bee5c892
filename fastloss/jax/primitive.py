"""The primitive of JAX that calls a kernel.

``jax.pure_callback`` is the plain way to call Python from compiled code. It copies what the function reads twice, the
second time on threads that JAX may need for something else meanwhile. The primitive is lowered as that is, without
that copy: by bench/jax_step.py it took up to a third of a step of 8192 x 1000, and half of one of 64 x 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from fastloss.jax.kernels import Kernel

_kernel = Primitive("fastloss")
_kernel.multiple_results = True
_compiled = jax.jit(lambda *arrays, kernel: _kernel.bind(*arrays, kernel=kernel), static_argnames="kernel")


def call_back(kernel: Kernel, arrays: Sequence[Any]) -> list[Any]:
    """Return the results of a kernel, as JAX traces them."""
    return _kernel.bind(*map(jnp.asarray, arrays), kernel=kernel)


@_kernel.def_impl
def _run(*arrays: Any, kernel: Kernel) -> list[Any]:
    """Compute results outside of compiled code, as by a function that is compiled."""
    with jax.disable_jit(False):  # where it is disabled, the function would come back to this one
        return _compiled(*arrays, kernel=kernel)


@_kernel.def_abstract_eval
def _shapes(*arrays: Any, kernel: Kernel) -> list[Any]:
    """Return shapes and dtypes of results, with the leading axes of the arrays."""
    batch = kernel.batch_of(arrays)
    return [jax.core.ShapedArray((*batch, *one.shape), one.dtype) for one in kernel.results]


def _lower(context: Any, *arrays: Any, kernel: Kernel) -> Any:
    """Emit the call of the kernel, which has no effect but its results."""
    results, _, _ = mlir.emit_python_callback(
        context, kernel, None, list(arrays), context.avals_in, context.avals_out, has_side_effect=False
    )
    return results


def _batch(arrays: Sequence[Any], axes: Sequence[Any], *, kernel: Kernel) -> tuple[list[Any], list[int]]:
    """Put the axis of vmap first, of length one where an array has none: kernels broadcast leading axes."""
    pairs = zip(arrays, axes, strict=True)
    moved = [jnp.expand_dims(a, 0) if axis is None else jnp.moveaxis(a, axis, 0) for a, axis in pairs]
    results = _kernel.bind(*moved, kernel=kernel)
    return results, [0] * len(results)


mlir.register_lowering(_kernel, _lower, cacheable=False)
batching.primitive_batchers[_kernel] = _batch
