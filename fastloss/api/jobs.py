"""What is known of a call before there are numbers: shapes, dtypes and options, and how values lie to arrays."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fastloss.api.transforms import mode_of
from fastloss.call.call import Call
from fastloss.call.checks import aligned_variance, normal_axis
from fastloss.call.request import VALUE, Request
from fastloss.define.record import Loss

# The label that is ignored where none is named.
IGNORED = -100

# A value of each kind that 1 is not.
_EXAMPLES = {"log_probability": 0, "class": 0, "class_list": -1}

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """Arrays of a `shape` with a value for each place along all axes but `axes`, which `keeps` their places or not.

    `kind` says how arrays of further leading axes become one call: "elements", "rows", "samples", or not at all: None.
    """

    shape: Shape
    axes: tuple[int, ...]
    keeps: bool
    kind: str | None

    @property
    def kept(self) -> Shape:
        """The shape without the axes that are summed over."""
        return tuple([size for axis, size in enumerate(self.shape) if axis not in self.axes])

    @property
    def values(self) -> Shape:
        """The shape of the values."""
        if not self.keeps:
            return self.kept
        return tuple([1 if axis in self.axes else size for axis, size in enumerate(self.shape)])


class Job(NamedTuple):
    """A loss, the names, shapes and dtypes of its arrays, its options, and lengths that are known while tracing."""

    loss: Loss
    names: tuple[str, ...]
    shapes: tuple[Shape, ...]
    dtypes: tuple[np.dtype[Any], ...]
    options: tuple[tuple[str, Any], ...]
    known: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def keywords(self) -> dict[str, Any]:
        """The options by name."""
        return dict(self.options)

    @property
    def real(self) -> np.dtype[Any]:
        """The dtype that values and gradients are computed in."""
        return np.dtype(np.float64 if self.dtypes[0] == np.float64 else np.float32)

    @property
    def is_map(self) -> bool:
        """Whether there is a row of values for each row."""
        return self.loss.family == "rowmap"

    def shape(self, name: str) -> Shape:
        """Return the shape of an array."""
        return self.shapes[self.names.index(name)]

    def check(self, wrt: tuple[str, ...] = ()) -> None:
        """Raise what the loss raises for such arrays, differentiated with respect to some, whatever they hold."""
        request = Request(mode_of(self.loss, "value_and_grad", wrt)) if wrt else VALUE
        Call(self.loss, request, {}).check({**dict(zip(self.names, self._stand_ins(), strict=True)), **self.keywords})

    def _stand_ins(self) -> list[Any]:
        """Return arrays of the shapes and dtypes, whose memory is not touched unless their numbers count in a plan."""
        made = [_stand_in(shape, dtype) for shape, dtype in zip(self.shapes, self.dtypes, strict=True)]
        if self.loss.name == "ctc_loss":
            for place in (self.names.index("input_lengths"), self.names.index("target_lengths")):
                made[place] = np.zeros(self.shapes[place], self.dtypes[place])
            if len(self.shape("targets")) == 1:  # of which all are some sample's
                made[place].reshape(-1)[:1] = self.shape("targets")[0]
        return [np.asarray(dict(self.known).get(name, one)) for name, one in zip(self.names, made, strict=True)]

    def shape_of_value(self) -> Shape:
        """Return the shape of what the loss returns, found by a call with arrays of ones, and the first class."""
        kinds = [self.loss.domains.get(name, "real") for name in self.names]
        ones = [np.full(s, _EXAMPLES.get(k, 1), d) for s, k, d in zip(self.shapes, kinds, self.dtypes, strict=True)]
        return np.shape(self.loss.function(**dict(zip(self.names, ones, strict=True)), **self.keywords))

    def layout(self) -> Layout:
        """Return how values lie to arrays, all of which have been found to go together.

        Raises
        ------
        ValueError
            If the shapes do not go together.
        """
        try:
            return self._layout()
        except ValueError:
            self.check()  # says it in the words of the loss
            raise

    def _layout(self) -> Layout:
        options, family = self.keywords, self.loss.family
        first = self.shapes[0]
        if family in ("elementwise", "penalty"):
            return Layout(np.broadcast_shapes(*self.aligned().values()), (), False, "elements")
        if family == "sums":
            axes = tuple(range(min(2, len(first) - 1), len(first)))
            return Layout(first, axes, False, "samples")
        if family == "sequence":
            return Layout(first, (0, len(first) - 1), False, None)
        if family == "pairwise":
            first = np.broadcast_shapes(*[self.shape(name) for name in self.names if name != "target"])
        return Layout(first, self._axes(first, options), options.get("keepdim", False), "rows")

    def _axes(self, shape: Shape, options: dict[str, Any]) -> tuple[int, ...]:
        """Return the axes of rows or vectors."""
        record, rank = self.loss, len(shape)
        given = options.get("dim", options.get("axis"))
        if given is None:
            last = record.family in ("label_sets", "pairwise") or record.name == "multilabel_soft_margin_loss"
            given = -1 if last or rank < 2 else 1
        if isinstance(given, tuple):
            return tuple(sorted({normal_axis(axis, rank) for axis in given or range(rank)})) if rank else ()
        if record.family == "pairwise" and "dim" in options:  # of fewer axes the last
            given = min(given, rank - 1)
        return (normal_axis(given, rank, record.axis_name),) if rank else ()

    def aligned(self) -> dict[str, Shape]:
        """Return the shapes of the arrays of an elementwise loss, in which they broadcast to that of its values."""
        shapes = dict(zip(self.names, self.shapes, strict=True))
        if self.loss.name == "gaussian_nll_loss":
            variance, like = (np.broadcast_to(np.empty((), bool), shapes[name]) for name in ("var", "input"))
            shapes["var"] = aligned_variance(variance, like, "var").shape
        return shapes


def _stand_in(shape: Shape, dtype: np.dtype[Any]) -> Any:
    """Return an array of a shape and a dtype: one 1, or what nobody looks at, in as little memory as there is."""
    size = math.prod(shape)
    if size == 1:
        return np.ones(shape, dtype)
    if size * dtype.itemsize < 1 << 30:
        return np.empty(shape, dtype)  # of which the system gives no page before it is touched
    return np.broadcast_to(np.empty((), dtype), shape)


@functools.cache
def divides_by_weights(record: Loss, sampled: bool) -> bool:
    """Return whether weights of elements count in the divisor of a mean; `sampled`: beside weights of samples."""
    if record.family != "elementwise":
        return False
    mean = record.describe(**dict.fromkeys(record.operands, np.ones(1))).mean
    return mean == "weights" or (sampled and mean == "products")


def counts_of(job: Job, xp: Any, arrays: Mapping[str, Any], weights: Any = None) -> Any:
    """Return what each value of a loss counts for in the divisor of its mean, 1.0 where all count for one.

    `arrays` are the job's, labels in the shape of the values; `weights` are those of samples, `xp` their library.
    """
    options = job.keywords
    counts: Any = 1.0
    if "weight" in arrays and divides_by_weights(job.loss, weights is not None):
        counts = arrays["weight"]
    elif "ignore_index" in options and arrays["target"].dtype.kind in "iu":
        target, ignored = arrays["target"], options["ignore_index"]
        if "weight" in arrays:
            counts = xp.take(arrays["weight"], target, mode="clip")
        counts = xp.where(target == (IGNORED if ignored is None else ignored), 0.0, counts)
    return counts if weights is None else counts * weights
