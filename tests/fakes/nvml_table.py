"""The scenario table: what every scenario must give and what the NVML source makes of it.

    python -m tests.fakes.nvml_table [NAME ...]

Exit status 1 when a row differs.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterable
from pathlib import Path

from tests.fakes.nvml_cases import CASES
from tests.fakes.nvml_stub import build
from tests.fakes.nvml_world import Case, Line, run

_SUBJECT_WIDTH = 14


class Libraries:
    """Stub libraries, one for each set of symbols that a driver lacks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._built: dict[tuple[str, ...], Path] = {}

    def without(self, omit: tuple[str, ...]) -> Path:
        """The library of a driver that does not have these symbols."""
        if omit not in self._built:
            folder = self._folder / f"driver{len(self._built)}"
            folder.mkdir()
            self._built[omit] = build(folder, omit)
        return self._built[omit]


def render(case: Case, lines: Iterable[Line], width: int) -> str:
    """The rows of one case, wrapped to the terminal."""
    column = (width - _SUBJECT_WIDTH - 10) // 2
    shown = [f"{case.name}: {case.says}"]
    for line in lines:
        expected = textwrap.wrap(line.expected, column) or [""]
        got = textwrap.wrap(line.got, column) or [""]
        for number in range(max(len(expected), len(got))):
            parts = [
                _name(line.subject) if number == 0 else "",
                expected[number] if number < len(expected) else "",
                got[number] if number < len(got) else "",
            ]
            verdict = ("ok" if line.ok else "WRONG") if number == 0 else ""
            shown.append(f"  {parts[0]:{_SUBJECT_WIDTH}} {parts[1]:{column}} {parts[2]:{column}} {verdict}".rstrip())
    return "\n".join(shown)


def head(width: int) -> str:
    """The line of column names."""
    column = (width - _SUBJECT_WIDTH - 10) // 2
    return f"  {'subject':{_SUBJECT_WIDTH}} {'expected':{column}} {'got':{column}} verdict\n" + "-" * width


def _name(subject: str) -> str:
    container, at, place = subject.partition("@")
    if not at:
        return f"GPU {subject}" if subject[0].isdigit() else subject
    return f"{container or '(none)'} on {place}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.nvml_table", description=__doc__)
    parser.add_argument("names", nargs="*", help="scenarios; all by default")
    options = parser.parse_args(arguments)
    width = max(100, min(200, shutil.get_terminal_size((160, 40)).columns))
    wrong = total = 0
    print(head(width))
    with tempfile.TemporaryDirectory() as place:
        libraries = Libraries(Path(place))
        for number, case in enumerate(CASES):
            if options.names and case.name not in options.names:
                continue
            folder = Path(place) / f"case{number}"
            folder.mkdir()
            lines = run(case, folder, libraries.without(case.omit))
            print(render(case, lines, width), flush=True)
            wrong += sum(not line.ok for line in lines)
            total += len(lines)
    print("-" * width + f"\n{total} rows, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
