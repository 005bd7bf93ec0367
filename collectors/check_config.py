"""`python -m collectors check-config`: the settings in force and where each comes from. Holds no secret."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

from fleet.settings import SECTIONS, TABLE, Settings, masked


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """One setting in force. origin: "default", the file's name, or the environment variable."""

    name: str
    value: object
    origin: str


def effective(settings: Settings) -> Iterator[Effective]:
    """Every setting in the order of the table; entries of arrays are numbered from 0."""
    for section, (field, _, array) in SECTIONS.items():
        found = getattr(settings, field)
        for number, item in enumerate(found if array else (found,)):
            prefix = f"{section}[{number}]." if array else f"{section}." if section else ""
            for row in (row for row in TABLE if row.section == section):
                name = f"{prefix}{row.key}"
                value = getattr(item, row.key)
                if isinstance(value, str) and "://" in value:
                    value = masked(value)
                # A value that follows from others (the host's name) is not in the file, yet differs from the table.
                derived = "default" if value == row.default else "derived"
                yield Effective(name=name, value=value, origin=settings.origins.get(name, derived))


def as_text(settings: Settings) -> str:
    """As TOML-like lines, the origin behind."""
    lines = [
        (f"{item.name} = {json.dumps(item.value, ensure_ascii=False)}", item.origin) for item in effective(settings)
    ]
    width = min(60, max(len(line) for line, _ in lines))
    return "\n".join(f"{line:{width}}  # {origin}" for line, origin in lines)


def as_json(settings: Settings) -> str:
    """As one JSON object: name -> value and origin."""
    return json.dumps(
        {item.name: {"value": item.value, "origin": item.origin} for item in effective(settings)}, indent=1
    )
