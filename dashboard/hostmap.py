"""The host map: one row a host, one tile a GPU, one small square a container, drawn as SVG text.

An SVG costs a few kB for a whole fleet and scales with the page. It is shown through `<img>`, where no script,
link or foreign font works, so names inside it stay inert; the table beside it says the same in words.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from dashboard.format import percent, plain, size
from dashboard.theme import Palette, Status, fill

_WIDTH = 560
_NAME_WIDTH = 92
_GAP = 4
_TILE_HEIGHT = 31
_SQUARE = 7
_PITCH = 9
_PER_ROW = 4
_HOSTS_SHOWN = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One GPU. Ratios are 0-1, None = not known. `state`: "busy" | "free" | "held_idle" | "error" | "unknown"."""

    model: str
    busy_ratio: float | None
    memory_ratio: float | None
    memory_used_bytes: float | None
    holder: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRow:
    """One host: its GPUs in index order, its containers grouped by tenant as (tenant, status of each)."""

    host: str
    tiles: Sequence[Tile]
    containers: Sequence[tuple[str, Sequence[Status]]]


def draw(rows: Sequence[HostRow], colours: Palette) -> str:
    """The map as SVG text."""
    parts: list[str] = []
    y = 2
    for row in rows[:_HOSTS_SHOWN]:
        top = y
        parts.append(_text(0, top + 19, row.host, 11, colours.text, 16))
        y = _tiles(parts, row.tiles, top, colours)
        y = _squares(parts, row.containers, y, colours) + 6
    if len(rows) > _HOSTS_SHOWN:
        parts.append(_text(0, y + 10, f"and {len(rows) - _HOSTS_SHOWN} more hosts in the table", 11, colours.faint, 80))
        y += 16
    y = _legend(parts, y + 4, colours)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" width="{_WIDTH}" height="{y}" '
        f'font-family="sans-serif">'
        '<defs><pattern id="h" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        f'<rect width="6" height="6" fill="{colours.empty}"/>'
        f'<rect width="2" height="6" fill="{colours.warning}" opacity=".55"/></pattern></defs>'
        f"{''.join(parts)}</svg>"
    )


def describe(rows: Sequence[HostRow]) -> str:
    """The map in one sentence, for those who cannot see it."""
    tiles = [tile for row in rows for tile in row.tiles]
    counts = {state: sum(tile.state == state for tile in tiles) for state in ("busy", "free", "held_idle", "error")}
    containers = sum(len(statuses) for row in rows for _, statuses in row.containers)
    return (
        f"Map of {len(rows)} hosts with {len(tiles)} GPUs: {counts['busy']} busy, {counts['free']} free, "
        f"{counts['held_idle']} held but idle, {counts['error']} with errors; {containers} containers."
    )


def _tiles(parts: list[str], tiles: Sequence[Tile], top: int, colours: Palette) -> int:
    if not tiles:
        parts.append(_text(_NAME_WIDTH, top + 19, "no GPU seen", 11, colours.faint, 40))
        return top + _TILE_HEIGHT
    per_row = _PER_ROW if len(tiles) <= 2 * _PER_ROW else 2 * _PER_ROW
    width = (_WIDTH - _NAME_WIDTH - (per_row - 1) * _GAP) / per_row
    y = top
    for index, tile in enumerate(tiles):
        column, line = index % per_row, index // per_row
        y = top + line * (_TILE_HEIGHT + _GAP)
        parts.append(_tile(tile, _NAME_WIDTH + column * (width + _GAP), y, width, colours))
    return y + _TILE_HEIGHT


def _tile(tile: Tile, x: float, y: int, width: float, colours: Palette) -> str:
    idle, free = tile.state == "held_idle", tile.state == "free"
    colour = "url(#h)" if idle else colours.empty if free or tile.busy_ratio is None else fill(tile.busy_ratio, colours)
    ink = colours.text if idle or free or tile.busy_ratio is None else _ink(colour)
    narrow = width < 80
    words = {"free": "free", "held_idle": "idle", "unknown": "?"}.get(tile.state) or percent(
        None if tile.busy_ratio is None else round(tile.busy_ratio, 2)
    )
    first = words if narrow else f"{tile.model} {words}".strip()
    second = (
        tile.holder if narrow or tile.memory_used_bytes is None else f"{tile.holder} · {size(tile.memory_used_bytes)}"
    )
    parts = [
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_TILE_HEIGHT}" rx="2.5" fill="{colour}"/>',
        _text(x + 5, y + 12.5, first, 10.5, ink, int(width / 6)),
    ]
    if second.strip(" ·") and not free:
        parts.append(_text(x + 5, y + 24, second.strip(" ·"), 9, ink, int(width / 5), opacity=0.85))
    if tile.memory_ratio is not None and tile.memory_ratio > 0:
        share = min(tile.memory_ratio, 1.0) * width
        parts.append(
            f'<rect x="{x:.1f}" y="{y + _TILE_HEIGHT - 2.5}" width="{share:.1f}" height="2.5" '
            f'fill="{ink}" opacity=".7"/>'
        )
    if tile.state == "error":
        parts.append(
            f'<rect x="{x + width - 15:.1f}" y="{y + 2}" width="13" height="13" rx="2" fill="{colours.surface}"/>'
            f'<text x="{x + width - 12.5:.1f}" y="{y + 12.5}" font-size="10" fill="{colours.critical}">✖</text>'
        )
    return "".join(parts)


def _ink(background: str) -> str:
    """Black or white, whichever can be read on the colour (relative luminance of WCAG 2)."""
    channels = [int(background[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#0b1016" if luminance > 0.18 else "#ffffff"


def _squares(parts: list[str], groups: Sequence[tuple[str, Sequence[Status]]], y: int, colours: Palette) -> int:
    """One path a colour: at a thousand containers a rectangle each would be 60 kB."""
    paths: dict[Status, list[str]] = {}
    x = float(_NAME_WIDTH)
    line_top = y + 4
    drawn = False
    for _, statuses in groups:
        for status in statuses:
            if x + _SQUARE > _WIDTH:
                x, line_top = float(_NAME_WIDTH), line_top + _PITCH
            shapes = paths.get(status)
            if shapes is None:
                shapes = paths[status] = []
            shapes.append(f"M{x:g} {line_top}{_SHAPES[status]}")
            x += _PITCH
            drawn = True
        x += 5
    for status, shapes in paths.items():
        parts.append(f'<path d="{"".join(shapes)}" fill="{colours.of(status)}"/>')
    return line_top + _SQUARE if drawn else y


_HOLLOW = "h7v7h-7zm1.5 1.5v4h4v-4z"
#: Path from a square's upper left corner. A triangle for a warning, a cross for a critical one, a hollow square for
#: what is not known: the shape repeats the colour.
_SHAPES = {
    Status.OK: "h7v7h-7z",
    Status.WARNING: "m3.5 0l3.5 7h-7z",
    Status.CRITICAL: "h2.2l1.3 2 1.3-2h2.2l-2.3 3.5 2.3 3.5h-2.2l-1.3-2-1.3 2h-2.2l2.3-3.5z",
    Status.UNKNOWN: _HOLLOW,
    Status.NONE: _HOLLOW,
}


def _legend(parts: list[str], y: int, colours: Palette) -> int:
    parts.append(_text(0, y + 8, "SM activity", 9.5, colours.faint, 30))
    x = 58
    for colour in colours.ramp:
        parts.append(f'<rect x="{x}" y="{y}" width="13" height="9" fill="{colour}"/>')
        x += 13
    parts.append(_text(x + 4, y + 8, "0–100 %", 9.5, colours.faint, 30))
    for offset, colour, words in ((196, "url(#h)", "held, idle"), (268, colours.empty, "free")):
        parts.append(f'<rect x="{offset}" y="{y}" width="13" height="9" rx="1.5" fill="{colour}"/>')
        parts.append(_text(offset + 17, y + 8, words, 9.5, colours.faint, 30))
    parts.append(_text(316, y + 8, "bar at the foot = memory", 9.5, colours.faint, 40))
    x = 440
    for status, words in ((Status.OK, "ok"), (Status.WARNING, "warn"), (Status.CRITICAL, "crit")):
        parts.append(f'<path d="M{x} {y + 1}{_SHAPES[status]}" fill="{colours.of(status)}"/>')
        parts.append(_text(x + 10, y + 8, words, 9.5, colours.faint, 10))
        x += 12 + 7 * len(words)
    return y + 12


def _text(x: float, y: float, words: str, font_size: float, colour: str, limit: int, *, opacity: float = 1.0) -> str:
    shade = f' opacity="{opacity}"' if opacity < 1 else ""
    body = html.escape(plain(words, max(limit, 2)))
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{font_size}" fill="{colour}"{shade}>{body}</text>'
