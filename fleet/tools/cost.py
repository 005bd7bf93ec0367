"""`python -m fleet cost CASE.json`: what a described case costs, by the engine that the pages use."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from zoneinfo import ZoneInfo

from fleet.case_values import CaseError
from fleet.cost_case import compute, load_case
from fleet.cost_report import as_json, as_text, is_right
from fleet.price_book import PriceBook
from fleet.price_file import Energy, PriceFileError, load_prices
from fleet.tools import FINDINGS, FINE, ToolError, ToolParser

#: A case that a person described is a few kB, one with a month of readings by the minute some MB.
_LARGEST_BYTES = 64_000_000


def main(arguments: Sequence[str]) -> int:
    """Run the tool: 0 the bill adds up, 1 a GPU has no price (or it does not add up). Raises ToolError."""
    parser = ToolParser(
        prog="python -m fleet cost", description="What a described case costs; the format is docs/cost-cases.md."
    )
    parser.add_argument("case", help="the case as JSON; `-` for standard input")
    parser.add_argument("--prices", type=Path, metavar="FILE.toml", help="price file of your own")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    options = parser.parse_args(arguments)
    book, energy = _prices(options.prices)
    try:
        case = load_case(_text(options.case), book, energy)
        found = compute(case)
    except CaseError as error:
        raise ToolError(f"{options.case}: {error}") from error
    sys.stdout.write(as_json(case, found) if options.json else as_text(case, found))
    return FINE if is_right(found) else FINDINGS


def _text(name: str) -> str:
    try:
        if name == "-":
            content = sys.stdin.buffer.read(_LARGEST_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                content = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise ToolError(f"{name}: {error.strerror}; write the path of a case") from error
    if len(content) > _LARGEST_BYTES:
        raise ToolError(f"{name}: more than {_LARGEST_BYTES} bytes; write longer readings, or fewer days")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ToolError(f"{name}: no UTF-8 at byte {error.start}; save it as UTF-8") from error


def _prices(path: Path | None) -> tuple[PriceBook, Energy]:
    if path is None:
        return PriceBook(), Energy()
    try:
        return load_prices(path.read_text(encoding="utf-8"), origin=str(path), zone=ZoneInfo("UTC"))
    except OSError as error:
        raise ToolError(f"{path}: {error.strerror}; write the path of a price file") from error
    except UnicodeDecodeError as error:
        raise ToolError(f"{path}: no UTF-8 at byte {error.start}; save it as UTF-8") from error
    except PriceFileError as error:
        raise ToolError(str(error)) from error
