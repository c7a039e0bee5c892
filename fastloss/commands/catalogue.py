"""``fastloss list`` and ``fastloss describe``: what the registry and the docstrings know of the losses."""

from __future__ import annotations

import inspect
import re

from fastloss.api.docstrings import summary_of
from fastloss.commands.loss_flags import named, options_of
from fastloss.define.record import KINDS, Loss
from fastloss.define.registry import LOSSES

_SECOND = {
    "exact": "exact",
    "zero": "zero almost everywhere",
    None: "not defined",
}


def list_losses() -> int:
    """Print the name of every loss and the first sentence of its documentation."""
    width = max(map(len, LOSSES))
    for name in sorted(LOSSES):
        print(f"{name:<{width}}  {summary_of(LOSSES[name].function)}")
    return 0


def describe(name: str) -> int:
    """Print what a user of a loss must know."""
    loss = named(name)
    text = _sections(inspect.cleandoc(loss.function.__doc__ or ""))
    print(f"{loss.name}{_signature(loss)}\n")
    print(text.get("", "").strip())
    print("\nArrays and options")
    print(_indented(text.get("Parameters", "see the signature")))
    bounded = {name: loss.options[name].text for name in options_of(loss) if name in loss.options}
    if bounded:
        print("\nValues of options")
        print(_indented("\n".join(f"{name}: {text}" for name, text in bounded.items())))
    print("\nDerivatives")
    print(f"  differentiable with respect to {', '.join(loss.differentiable)}")
    print(f"  taken unless told otherwise: {', '.join(loss.wrt)}")
    print(f"  second derivative: {_SECOND[loss.hessian]}")
    kinds = {argument: KINDS[kind] for argument, kind in loss.domains.items()}
    if kinds:
        print("\nValues of arrays")
        print(_indented("\n".join(f"{argument}: {kind}" for argument, kind in kinds.items())))
    for section, title in (("Notes", "Notes"), ("References", "References"), ("Examples", "Example")):
        if section in text:
            print(f"\n{title}\n{_indented(text[section])}")
    return 0


def _signature(loss: Loss) -> str:
    """Return the signature without annotations."""
    signature = inspect.signature(loss.function)
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()]
    return str(inspect.Signature(bare))


def _sections(text: str) -> dict[str, str]:
    """Return the sections of a docstring by title; what stands before the first has the title ``""``."""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}$", text, flags=re.MULTILINE)
    titles = ["", *parts[1::2]]
    return {title: _plain(body.strip("\n")) for title, body in zip(titles, parts[0::2], strict=True)}


def _plain(text: str) -> str:
    """Take the marks of reStructuredText out of a text that a terminal shows."""
    text = re.sub(r"\.\. math::\n*( *)", r"Formula\n\1", text)
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", text)
    return re.sub(r"\n{3,}", "\n\n", text.replace("``", "`")).rstrip()


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())
