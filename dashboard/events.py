"""Events as marks on a time axis and as a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dashboard import charts, panels
from dashboard import format as fmt
from dashboard.panels import Column
from dashboard.theme import Palette, status_of

#: kind -> the short word on the mark; other kinds are listed but not drawn.
MARKED = {
    "image_change": "deploy",
    "start": "start",
    "die": "exit",
    "oom": "OOM",
    "health_status": "health",
    "xid": "XID",
    "throttle": "throttle",
    "gap": "gap",
    "kill": "kill",
}


def marks(rows: Sequence[Mapping[str, Any]], colours: Palette) -> list[charts.Mark]:
    """Marks of the events worth a line; several of one kind at almost the same time become one."""
    found: list[charts.Mark] = []
    last: dict[str, float] = {}
    for row in rows:
        word = MARKED.get(row["kind"])
        if word is None:
            continue
        at = row["at"].timestamp()
        if abs(last.get(word, -1e9) - at) < 30:
            continue
        last[word] = at
        colour = {"critical": colours.critical, "warning": colours.warning}.get(row["severity"], colours.mark)
        found.append(charts.Mark(at=row["at"], label=word, colour=colour))
    return found


def listing(rows: Sequence[Mapping[str, Any]], coverage: float | None, *, key: str, shown_rows: int = 8) -> None:
    """What happened, newest first. coverage: of the sources that would have told of it."""
    if not rows:
        panels.all_well("Nothing happened in this range", coverage, height=80)
        return
    columns = (
        Column(name="status", label="", width=26),
        Column(name="at", label="at (UTC)", width=118),
        Column(name="kind", label="kind", width=100),
        Column(name="title", label="what", width=260),
        Column(name="detail", label="detail"),
    )
    cells: Mapping[str, Sequence[Any]] = {
        "status": [status_of(row["severity"]).glyph for row in rows],
        "at": [fmt.clock(row["at"], with_date=True) for row in rows],
        "kind": [row["kind"] for row in rows],
        "title": [row["title"] for row in rows],
        "detail": [row["detail"] for row in rows],
    }
    panels.table(cells, columns, key=key, alt="Events, newest first", shown_rows=shown_rows)
