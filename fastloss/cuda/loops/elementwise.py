"""The loop of losses of single elements: one pass that reads the operands and writes value and derivatives.

Contiguous operands are read and written 128 bits at a time; operands of any other layout element by element, from
strides along three axes that travel as launch arguments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from fastloss.cuda.device.block import added, block, blocks, over, thread, threads
from fastloss.cuda.device.memory import WIDEST, load_or, load_pack, store_derivatives, store_values
from fastloss.cuda.device.numba_cuda import jitable
from fastloss.cuda.device.packs import filled, folded, spread
from fastloss.cuda.device.reduce import THREADS, deliver, divided, grid_of
from fastloss.cuda.device_array import DeviceArray
from fastloss.cuda.launch import Kernel
from fastloss.cuda.planned import Form, Looping, itself, never, plan_of, unaligned
from fastloss.runtime.dtypes import real_of
from fastloss.runtime.plans import KernelPlan, count_present
from fastloss.runtime.strides import merged_axes


def _element_of(point: Callable[..., Any], arity: int) -> Callable[..., Any]:
    """Return the loss of one element: (weighted value, slopes, curvature, their factor)."""

    @jitable
    def element(x, b, c, w, u, i, rest):
        heads = (x, b, c)[:arity]
        value, slopes, curvature = point(*(heads + rest))
        return w * value, slopes, curvature, w * u

    return element


@functools.cache
def contiguous_kernel(point: Callable[..., Any], arity: int, width: int) -> Kernel:
    """Return the kernel of a loss over contiguous arrays of one length, in packs of `width` elements."""
    one = _element_of(point, arity)
    each, last = spread(one, width), spread(one, 1)
    sum_of, fill, fill_one = folded(added, width, 0), filled(width), filled(1)
    over_block = over(added, THREADS)

    def elementwise(
        a, b, c, weight, grad_output, values, d_a, d_b, d_c, hess, params, scale, size, partials, counted, divisor,
    ):  # fmt: skip
        T = type(scale)
        factor = divided(scale, counted)
        zeros, ones, factors = fill(T(0)), fill(T(1)), fill(factor)
        grads = (d_a, d_b, d_c)
        total = T(0)
        me = block() * threads() + thread()
        whole = size // width * width
        for i in range(me * width, whole, threads() * blocks() * width):
            outcomes = each(
                load_pack(a, i, zeros),
                load_pack(b, i, zeros),
                load_pack(c, i, zeros),
                load_pack(weight, i, ones),
                load_pack(grad_output, i, factors),
                i,
                params,
            )
            store_values(values, i, outcomes)
            store_derivatives(grads, hess, i, outcomes)
            total += sum_of(outcomes)
        i = whole + me
        if i < size:
            zero, unit = fill_one(T(0)), fill_one(T(1))
            rest = last(
                load_pack(a, i, zero),
                load_pack(b, i, zero),
                load_pack(c, i, zero),
                load_pack(weight, i, unit),
                load_pack(grad_output, i, fill_one(factor)),
                i,
                params,
            )
            store_values(values, i, rest)
            store_derivatives(grads, hess, i, rest)
            total += rest[0][0]
        total = over_block(total)
        deliver(partials, total, counted, divisor)

    return Kernel(f"elementwise_{point.__name__}_{width}", elementwise, THREADS)


@jitable
def place_of(i, axes, strides):
    """Return where element `i` lies, in elements, of the lengths of the last two axes and three strides."""
    outer = i // (axes[0] * axes[1])
    rest = i - outer * (axes[0] * axes[1])
    middle = rest // axes[1]
    return outer * strides[0] + middle * strides[1] + (rest - middle * axes[1]) * strides[2]


@functools.cache
def strided_kernel(point: Callable[..., Any], arity: int) -> Kernel:
    """Return the kernel for operands of any layout."""
    one = _element_of(point, arity)
    over_block = over(added, THREADS)

    def elementwise(
        a, b, c, weight, grad_output, axes, on_a, on_b, on_c, on_weight, on_grad_output,
        values, d_a, d_b, d_c, hess, params, scale, size, partials, counted, divisor,
    ):  # fmt: skip
        T = type(scale)
        factor = divided(scale, counted)
        grads = (d_a, d_b, d_c)
        total = T(0)
        for i in range(block() * threads() + thread(), size, threads() * blocks()):
            outcomes = (
                one(
                    load_or(a, place_of(i, axes, on_a), T(0)),
                    load_or(b, place_of(i, axes, on_b), T(0)),
                    load_or(c, place_of(i, axes, on_c), T(0)),
                    load_or(weight, place_of(i, axes, on_weight), T(1)),
                    load_or(grad_output, place_of(i, axes, on_grad_output), factor),
                    i,
                    params,
                ),
            )
            store_values(values, i, outcomes)
            store_derivatives(grads, hess, i, outcomes)
            total += outcomes[0][0]
        total = over_block(total)
        deliver(partials, total, counted, divisor)

    return Kernel(f"elementwise_strided_{point.__name__}", elementwise, THREADS)


def plan(
    device: Any,
    point: Callable[..., Any],
    operands: tuple[Any, ...],
    results: tuple[Any, ...],
    params: tuple[float, ...],
) -> KernelPlan:
    """Plan a loss over operands of one shape, see :func:`fastloss.cpu.loops.elementwise.plan`.

    The reduced value is a device scalar, the divisor a number or one too. A result may be the same array as an operand:
    a thread reads its elements before it writes them.
    """
    first, arrays = operands[0], (*operands, *results)
    arity, size, real = count_present(operands[:3]), first.size, real_of(first.dtype)
    present = [a for a in arrays if type(a) is DeviceArray]
    packs, layout = all(a.is_contiguous() for a in present), ()
    wide, copies = WIDEST // first.itemsize if packs else 1, False
    if not packs:
        axes, strides = merged(operands, first.shape)
        copies = axes is None
        if copies:  # too many axes
            flat = [a if type(a) is tuple else DeviceArray(0, (size,), a.dtype, None) for a in operands]
            axes, strides = merged(flat, (size,))
        layout = (axes, *strides)

    def form(single: bool) -> Form:
        width = 1 if single else wide
        kernel = contiguous_kernel(point, arity, width) if packs else strided_kernel(point, arity)
        return Form(kernel, grid_of(-(-size // width), THREADS), (size,), layout)

    look = unaligned(wide, [a.itemsize for a in present]) if packs else never
    numbers = tuple([float(p) for p in params])
    launch = Looping(device, real, arrays, len(numbers), look, form)

    reads = (device.flat if copies else itself,) * count_present(operands)
    return plan_of(device, functools.partial(launch.bound, numbers), reads, raw=not copies)


def merged(arrays: Sequence[Any], shape: tuple[int, ...]) -> tuple[Any, list[Any]]:
    """Return the lengths of the last two of three axes, and three strides for each array, in elements.

    Neighbouring axes are merged as far as all arrays allow; where more than three are left there are no lengths.
    """
    present = [a for a in arrays if type(a) is DeviceArray]
    lengths, axes = merged_axes(present, shape)
    if len(axes) > 3:
        return None, []
    missing = [0] * (3 - len(axes))
    lengths = [1] * len(missing) + lengths
    strides = [
        (*missing, *[a.strides[axis] // a.itemsize for axis in axes]) if type(a) is DeviceArray else (0, 0, 0)
        for a in arrays
    ]
    return (lengths[1], lengths[2]), strides
