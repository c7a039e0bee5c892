"""Losses by name, and the options of a loss as flags of the command line."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Sequence
from typing import Any

from fastloss.commands.errors import CommandError
from fastloss.define.record import Loss
from fastloss.define.registry import loss_named

# Keyword arguments that commands set themselves, and those that no text can stand for.
_NO_FLAGS = frozenset(
    ("reduction", "sample_weight", "divisor", "returns", "distance_vjp", "dtype", "options", "keepdim")
)
_TYPES = {"int": int, "float": float, "str": str}


def named(name: str) -> Loss:
    """Return the loss of a name."""
    try:
        return loss_named(name)
    except ValueError as error:
        raise CommandError(str(error)) from None


def flag(name: str) -> str:
    """Return the flag of an argument."""
    return f"--{name.replace('_', '-')}"


def readable(arguments: Sequence[str]) -> list[str]:
    """Return arguments as argparse reads them: flags with dashes, and a negative number joined to its flag.

    Flags may be written like arguments of a function, and argparse takes -1e-3 for a flag.
    """
    result: list[str] = []
    for one in arguments:
        one = re.sub(r"^--[^=]*", lambda found: found[0].replace("_", "-"), one)
        if one.startswith("-") and is_number(one) and result and re.fullmatch("--[^=]+", result[-1]):
            result[-1] += f"={one}"
        else:
            result.append(one)
    return result


def is_number(text: str) -> bool:
    """Return whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def first_names(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Return what stands first among the arguments of a command whose other flags are those of `parser`.

    The flags of a loss can be read when it is known which loss it is.
    """
    parser.add_argument("names", nargs="*")
    names: list[str] = parser.parse_known_args(arguments)[0].names
    return names


def options_of(loss: Loss) -> dict[str, inspect.Parameter]:
    """Return the parameters of a loss that are options with a flag, by name."""
    parameters = inspect.signature(loss.function).parameters
    return {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in loss.operands and name not in _NO_FLAGS
    }


def add_flags(parser: Any, loss: Loss) -> None:
    """Add a flag for each option of a loss; what is not given is absent from the result."""
    for name, parameter in options_of(loss).items():
        domain = loss.options.get(name)
        text = f"{domain.text if domain else 'see `fastloss describe`'} (default {parameter.default})"
        if isinstance(parameter.default, bool):
            parser.add_argument(flag(name), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        else:
            parser.add_argument(
                flag(name), type=_Reader(parameter), default=argparse.SUPPRESS, metavar="VALUE", help=text
            )


def given_options(loss: Loss, namespace: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a loss that were given, their values checked."""
    given = {name: value for name, value in vars(namespace).items() if name in options_of(loss)}
    for name, value in given.items():
        if name in loss.options:
            try:
                loss.options[name].check(name, value)
            except (TypeError, ValueError) as error:
                raise CommandError(str(error)) from None
    return given


class _Reader:
    """What makes the value of an option from text, by the option's annotation."""

    def __init__(self, parameter: inspect.Parameter) -> None:
        annotation = str(parameter.annotation)
        found = re.search(r"\b(int|float|str)\b", annotation)
        self.type: Any = _TYPES[found[1]] if found else type(parameter.default)
        self.optional = "None" in annotation
        self.__name__ = getattr(self.type, "__name__", "value")  # argparse: invalid float value

    def __call__(self, text: str) -> Any:
        if self.optional and text.lower() == "none":
            return None
        return self.type(text)
