"""The checked weights of a loss over classes in clusters. See ``adaptive_softmax.py``."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from numbers import Real
from typing import Any

from fastloss.call.array_ops import in_type
from fastloss.call.checks import check_float, check_shape
from fastloss.call.dispatch import library_of
from fastloss.call.planning import ABSENT
from fastloss.define.descriptions import Clustered
from fastloss.runtime.dtypes import real_of

HEAD = 3  # arguments before the tails: input, head_weight, head_bias


class Layers:
    """The checked weights of a call, as views."""

    def __init__(self, description: Clustered) -> None:
        arrays: list[Any] = [description.input, description.head_weight, description.head_bias]
        names = ["input", "head_weight", "head_bias"]
        for k, pair in enumerate(description.tail_weights):
            if len(pair) != 2:
                raise ValueError(f"tail_weights[{k}] must be a pair (projection, output), got {len(pair)} arrays")
            arrays += pair
            names += [f"tail_weights[{k}][0]", f"tail_weights[{k}][1]"]
        self.arrays, self.names = arrays, names
        self.library = library_of((*arrays, description.target), (*names, "target"))
        see = self.library.view
        self.views: list[Any] = [
            ABSENT if array is None else see(array, name) for array, name in zip(arrays, names, strict=True)
        ]
        for view, name in zip(self.views, names, strict=True):
            if view is not ABSENT:
                check_float(view, name)
        x = self.views[0]
        if x.ndim not in (1, 2):
            raise ValueError(f"input must have shape (F,) or (N, F), got shape {x.shape}")
        self.real = real_of(x.dtype)
        self._check_weights(description.cutoffs, x.shape[-1])

    def _check_weights(self, cutoffs: Any, features: int) -> None:
        """Check the shapes of the weights, and set the classes at which each cluster begins and the last one ends."""
        tails = (len(self.views) - HEAD) // 2
        first = checked_cutoffs(cutoffs)
        if len(first) not in (tails, tails + 1):
            raise ValueError(f"cutoffs must have one entry for each of the {tails} tail_weights, got {list(first)}")
        shortlist, bounds = first[0], [first[0]]
        _, head, bias = self.views[:HEAD]
        check_shape(
            head, (shortlist + tails, features), "head_weight", "(first cutoff + number of tails, features), here"
        )
        if bias is not ABSENT:
            check_shape(bias, (shortlist + tails,), "head_bias", "one entry for each row of head_weight, shape")
        for k in range(tails):
            slot = self.tail_slot(k)
            (projection, output), (name, other) = self.views[slot : slot + 2], self.names[slot : slot + 2]
            if projection.ndim != 2 or projection.shape[1] != features:
                raise ValueError(f"{name} must have shape (hidden, {features}), got shape {projection.shape}")
            if output.ndim != 2 or output.shape[1] != projection.shape[0]:
                raise ValueError(f"{other} must have shape (classes, {projection.shape[0]}), got shape {output.shape}")
            end = bounds[-1] + output.shape[0]
            if output.shape[0] == 0 or (k + 1 < len(first) and first[k + 1] != end):
                raise ValueError(f"{other} of shape {output.shape} does not hold the classes of cutoffs {list(first)}")
            bounds.append(end)
        self.bounds, self.classes, self.tails, self.shortlist = bounds, bounds[-1], tails, shortlist

    @staticmethod
    def tail_slot(k: int) -> int:
        """Return the number of the first weight of a tail."""
        return HEAD + 2 * k

    def matrix(self, slot: int) -> Any:
        """Return a contiguous matrix."""
        view = self.views[slot]
        return self.library.backend.flat(view).reshape(view.shape if view.ndim == 2 else (1, *view.shape))

    def bias(self) -> Any:
        """Return the head's bias in the computing type."""
        backend, bias = self.library.backend, self.views[2]
        return bias if bias is ABSENT else in_type(backend, backend.flat(bias), self.real)


def checked_cutoffs(cutoffs: Any) -> tuple[int, ...]:
    """Return cutoffs as a tuple of int; raise unless they are positive integers in increasing order."""
    given = list(cutoffs) if isinstance(cutoffs, Iterable) else [cutoffs]
    if not all(isinstance(c, Real) for c in given):
        raise TypeError(f"cutoffs must be a sequence of integers, got {cutoffs!r}")
    if (
        not given
        or any(c % 1 != 0 for c in given)
        or min(given) <= 0
        or any(a >= b for a, b in itertools.pairwise(given))
    ):
        raise ValueError(f"cutoffs must be unique positive integers in increasing order, at least one, got {given}")
    return tuple(int(c) for c in given)
