"""Offline tools, one module each with `main(arguments) -> exit status`; listed in `fleet/__main__.py`.

ToolError      bad usage or unreadable input; its text is the one line on stderr
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NoReturn

FINE, FINDINGS, UNUSABLE = 0, 1, 2
Tool = Callable[[Sequence[str]], int]


class ToolError(Exception):
    """A tool cannot do its work; the text says where, what was found, what to write instead."""


class ToolParser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of a usage text."""

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(UNUSABLE, f"{self.prog}: {message}; write {self.prog} --help\n")
