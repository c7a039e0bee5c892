"""The options by which a user cuts a large output in chunks."""

from __future__ import annotations

import dataclasses
from typing import Any

_POLICIES = ("auto", "accurate", "compact")


@dataclasses.dataclass(slots=True, frozen=True)
class LinearCrossEntropyOptions:
    """How :func:`fastloss.linear_cross_entropy` cuts its rows in chunks; torch's class of that name, or this one.

    Parameters
    ----------
    allow_retain_graph : bool
        Nothing to allow: there is no graph, and a call may be repeated. For torch's signature.
    batch_chunk_size : int, optional
        The rows of a chunk. Without it a budget of bytes decides, see :func:`fastloss.linear_cross_entropy`.
    chunking_method : str, optional
        ``"auto"`` or None: `batch_chunk_size`, or the budget. ``"aspect_ratio"`` makes the logits of a chunk about as
        large as the input, ``"aspect_ratio:N"`` an N-th of that.
    acc_policy : {"auto", "accurate", "compact"}
        All mean "accurate": every intermediate result is kept in the computing type.
    acc_dtype : dtype, optional
        The type of sums. They are in float64 for float64 input and in float32 otherwise; any other one is refused.

    Raises
    ------
    ValueError
        If an option is out of range, or `batch_chunk_size` and `chunking_method` disagree.
    """

    allow_retain_graph: bool = False
    batch_chunk_size: int | None = None
    chunking_method: str | None = "auto"
    acc_policy: str = "auto"
    acc_dtype: Any = None

    def __post_init__(self) -> None:
        size, method = self.batch_chunk_size, self.chunking_method
        if self.acc_policy not in _POLICIES:
            raise ValueError(f"acc_policy must be one of {', '.join(map(repr, _POLICIES))}, got {self.acc_policy!r}")
        if size is not None and not (isinstance(size, int) and size > 0):
            raise ValueError(f"batch_chunk_size must be a positive int or None, got {size!r}")
        if method not in (None, "auto"):
            name, colon, factor = str(method).partition(":")
            if name != "aspect_ratio" or (colon and not (factor.isdigit() and int(factor) > 0)):
                raise ValueError(
                    f"chunking_method must be 'auto', 'aspect_ratio', 'aspect_ratio:N' or None, got {method!r}"
                )

    def rows(self, batch: int, features: int, classes: int) -> int | None:
        """Return the rows of a chunk, or None where the budget decides."""
        size, method = self.batch_chunk_size, self.chunking_method
        if method in (None, "auto"):
            return size
        wanted = -(-batch // -(-classes // max(1, features)))
        rounded = 1 << (wanted - 1).bit_length()  # the next power of two
        found = max(1, min(rounded // int(str(method).partition(":")[2] or 1), batch))
        if size is not None and min(size, batch) != found:
            raise ValueError(f"batch_chunk_size {size} and chunking_method {method!r}, which gives {found}, disagree")
        return found


def options_of(given: Any) -> LinearCrossEntropyOptions | None:
    """Return the options of this module for torch's, or for any object with these attributes."""
    if given is None or isinstance(given, LinearCrossEntropyOptions):
        return given
    names = [field.name for field in dataclasses.fields(LinearCrossEntropyOptions)]
    if not all(hasattr(given, name) for name in names):
        raise TypeError(f"options must be None or LinearCrossEntropyOptions, got {given!r}")
    return LinearCrossEntropyOptions(**{name: getattr(given, name) for name in names})


def dtype_name(dtype: Any) -> str | None:
    """Return the name of a dtype of NumPy, torch or CuPy, or of a scalar type."""
    if dtype is None:
        return None
    name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
    return name.removeprefix("torch.")
