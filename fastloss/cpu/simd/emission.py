"""Functions that expand in place to LLVM instructions wherever a kernel calls them.

Two reasons to emit instructions where a jitted function would do. A kernel calls the same few functions with dozens of
type combinations, and a function of its own costs Numba 20 ms of compilation per combination: the first call of a loss
would take seconds. And Numba's own indexing tests for negative indices, which turns vector loads into gathers wherever
LLVM cannot see the sign.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import lower_builtin, type_callable

Emitter = Callable[..., Any]


def emits(stub: Callable[..., Any]) -> Callable[[Callable[..., Any]], None]:
    """Make calls of `stub` in kernels expand to instructions.

    The decorated function gets the argument types and returns (result type, emitter); the emitter gets
    (context, builder, argument types, arguments) and returns the result. Unlike an ``@intrinsic``, whose pickle is
    drawn anew in every process, a plain function can be closed over by a kernel that is cached on disk.
    """

    def register(resolve: Callable[..., Any]) -> None:
        def typer(*args: Any) -> Any:
            return resolve(*args)[0]

        typer.__signature__ = inspect.signature(stub)  # type: ignore[attr-defined]

        @type_callable(stub)
        def typing(context: Any) -> Any:
            return typer

        @lower_builtin(stub, types.VarArg(types.Any))  # type: ignore[untyped-decorator]
        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            result = resolve(*signature.args)[1](context, builder, signature.args, args)
            return context.get_dummy_value() if result is None else result

    return register


def is_absent(kind: Any) -> bool:
    """Return whether a Numba type is that of ``()``."""
    return isinstance(kind, types.BaseTuple) and len(kind) == 0


def pointer_to(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Return the address of an element of a contiguous array."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [index], inbounds=True)


def store_past(builder: Any, value: Any, pointer: Any, align: int) -> None:
    """Write past the caches, by a non-temporal store, where `align` makes it one of a whole vector."""
    hint = builder.module.add_metadata([ir.IntType(32)(1)])
    builder.store(value, pointer, align=align).set_metadata("nontemporal", hint)
