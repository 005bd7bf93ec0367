"""Exposition texts of any size, read line by line: a damaged line is refused by number and costs nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

#: Longer lines are refused unread: labels of real servers fit a hundred times over.
LONGEST_LINE = 65_536
_TYPE = re.compile(r"#\s*TYPE\s+(\S+)\s+(\S+)\s*$")
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Sample:
    """One series with its value."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class RefusedLine:
    """A line that is no sample: its number from 1, its beginning, and what is wrong with it."""

    number: int
    text: str
    why: str


@dataclass(slots=True)
class Exposition:
    """What a text holds besides its samples, filled while `samples` runs. `types`: metric name -> type as written."""

    types: dict[str, str] = field(default_factory=dict[str, str])
    refused: list[RefusedLine] = field(default_factory=list[RefusedLine])
    lines: int = 0

    def samples(self, lines: Iterable[str]) -> Iterator[Sample]:
        """The samples of a text, in order; NaN and infinite values included."""
        for number, line in enumerate(lines, start=1):
            self.lines = number
            text = line.strip()
            if not text:
                continue
            if text.startswith("#"):
                found = _TYPE.match(text)
                if found:
                    self.types[found[1]] = found[2].lower()
                continue
            if len(text) > LONGEST_LINE:
                self._refuse(number, text, f"longer than {LONGEST_LINE} characters")
                continue
            try:
                # The library's reader gives up at the first fault of a text, so it is handed one line at a time.
                families = list(text_string_to_metric_families(text))
            except (ValueError, IndexError, KeyError) as error:
                self._refuse(number, text, str(error) or type(error).__name__)
                continue
            for family in families:
                for one in family.samples:
                    yield Sample(one.name, one.labels, float(one.value))

    def _refuse(self, number: int, text: str, why: str) -> None:
        shown = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
        self.refused.append(RefusedLine(number, shown, why))
