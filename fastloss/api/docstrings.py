"""Docstrings of losses: what the registry knows of a loss is added to them, instead of typed for each."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

from fastloss.api.common_options import TEXTS
from fastloss.define.record import Loss

_HEADING = re.compile(r"\n+(\w[\w ]*)\n-{3,}\n")
_EXCEPTION = re.compile(r"^(\S.*)(?:\n|\Z)", re.MULTILINE)

# The shape of the unreduced value.
_ROWS = "the shape of `input` without its class axis"
_SHAPES = {"elementwise": "the common shape of the arrays", "rowwise": _ROWS, "label_sets": _ROWS}


def summary_of(documented: Any) -> str:
    """Return the first paragraph of the docstring of a function or class, on one line."""
    return " ".join((inspect.getdoc(documented) or "").partition("\n\n")[0].split())


def documented(record: Loss) -> str | None:
    """Return the docstring of a loss, with options that it has in common with others, its result and its exceptions.

    A result that the docstring describes itself stays as it is, and what it says of an exception comes after what is
    known of it. A docstring without parameters is returned unchanged.
    """
    head, *found = _HEADING.split(inspect.cleandoc(record.describe.__doc__ or ""))
    written = dict(zip(found[::2], found[1::2], strict=True))
    if "Parameters" not in written:
        return record.describe.__doc__
    sections = {"Parameters": "", "Returns": _returned(record), "Raises": "", **written}
    sections["Parameters"] = "\n".join([written["Parameters"], *[TEXTS[name] for name in record.common]])
    raised = _raised(record)
    _, *more = _EXCEPTION.split(written.get("Raises", ""))
    for name, text in zip(more[::2], more[1::2], strict=True):
        raised[name] = "\n".join(filter(None, (raised.get(name), text.rstrip("\n"))))
    sections["Raises"] = "\n".join([f"{name}\n{text}".rstrip("\n") for name, text in raised.items()])
    parts = [f"{title}\n{'-' * len(title)}\n{text}" for title, text in sections.items() if text]
    return "\n\n".join([head, *parts]) + "\n"


def _returned(record: Loss) -> str:
    """Return the text about the result of a loss with a reduction, where its family says of which shape it is."""
    if "reduction" not in record.options or record.family not in _SHAPES:
        return ""
    return f'array\n    Zero-dimensional, or of {_SHAPES[record.family]} for ``reduction="none"``.'


def _raised(record: Loss) -> dict[str, str]:
    """Return for each exception a sentence that says when calls of a loss raise it, as far as the record tells."""
    several = len(record.operands) > 1
    reals = [f"`{name}`" for name in (*record.wrt, *record.also)]
    kinds = {name: kind for name, kind in record.domains.items() if name in record.operands}
    values, types, indices = [], [], []
    if several:
        values.append("the shapes do not go together")
    if record.options:
        values.append("an option is out of range")
    if reals:
        types.append(f"{_any_of(reals, ' or ')} is not floating point")
    for name, kind in kinds.items():
        if kind in ("class", "class_list"):  # a differentiable argument may hold probabilities of classes instead
            wrong = "class indices are" if name in record.differentiable else f"`{name}` is"
            types.append(f"{wrong} not of an integer dtype")
    if several or record.family == "penalty":
        types.append("the arrays lie on different devices")
    if record.family in ("projected", "clustered"):
        types.append("on a GPU they belong to a library without matrix products")
    if "class" in kinds.values():
        ignores = "ignore_index" in record.options
        indices.append("a class index " + ("is neither a class nor `ignore_index`" if ignores else "is out of range"))
    said = {"ValueError": values, "TypeError": types, "IndexError": indices}
    return {name: _sentence(cases) for name, cases in said.items() if cases}


def _sentence(cases: list[str]) -> str:
    return textwrap.fill(f"If {_any_of(cases, ', or ')}.", 116, initial_indent="    ", subsequent_indent="    ")


def _any_of(parts: list[str], last: str) -> str:
    """Return the parts as a list in prose, with `last` before the last one."""
    return last.join(filter(None, (", ".join(parts[:-1]), parts[-1])))
