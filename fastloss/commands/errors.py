"""Mistakes on the command line, as one line on stderr."""

from __future__ import annotations

import argparse
from typing import NoReturn


class CommandError(Exception):
    """What the user asked for cannot be done; the message is one line that says why."""


class Parser(argparse.ArgumentParser):
    """A parser of arguments whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and end with status 2."""
        self.exit(2, f"{self.prog}: {message} (usage: {self.prog} --help)\n")
