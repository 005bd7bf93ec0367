"""Status is a shape, a word and a colour, always together; the colours of charts in light and dark.

Colours are Okabe and Ito's set, told apart by people with any of the usual colour vision deficiencies.
`.streamlit/config.toml` holds the same values for Streamlit's own elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

Mode = Literal["light", "dark"]


class Status(Enum):
    """How a thing is: the glyph, the word, and the Markdown colour that repeats the word."""

    CRITICAL = ("✖", "critical", "red")
    WARNING = ("▲", "warning", "orange")
    OK = ("●", "ok", "green")
    UNKNOWN = ("?", "unknown", "gray")
    NONE = ("◌", "no data yet", "gray")

    def __init__(self, glyph: str, word: str, colour: str) -> None:
        self.glyph = glyph
        self.word = word
        self.colour = colour

    @property
    def rank(self) -> int:
        """Sorting key: the worst first."""
        return list(Status).index(self)

    def badge(self, text: str) -> str:
        """Markdown badge with the glyph before `text`; the caller has escaped `text`."""
        return f":{self.colour}-badge[{self.glyph} {text}]"


def status_of(word: str | None) -> Status:
    """The status named by a word of the data layer; anything not known is UNKNOWN, never OK."""
    return _WORDS.get((word or "").lower(), Status.UNKNOWN)


_WORDS = {
    "critical": Status.CRITICAL,
    "failed": Status.CRITICAL,
    "warning": Status.WARNING,
    "partial": Status.WARNING,
    "stale": Status.WARNING,
    "ok": Status.OK,
    "fresh": Status.OK,
    "info": Status.OK,
    "absent": Status.NONE,
    "none": Status.NONE,
    "never": Status.NONE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Palette:
    """Colours of one mode, as CSS hex."""

    text: str
    faint: str
    grid: str
    surface: str
    empty: str
    ok: str
    warning: str
    critical: str
    unknown: str
    mark: str
    series: tuple[str, ...]
    ramp: tuple[str, ...]  # one hue, little to much; never red to green

    def of(self, status: Status) -> str:
        """Colour of a status."""
        return {
            Status.OK: self.ok,
            Status.WARNING: self.warning,
            Status.CRITICAL: self.critical,
        }.get(status, self.unknown)


LIGHT = Palette(
    text="#1b2733",
    faint="#5b6875",
    grid="#e6eaee",
    surface="#ffffff",
    empty="#eceff2",
    ok="#008a64",
    warning="#b77a00",
    critical="#c44f00",
    unknown="#7b8794",
    mark="#8a5fb5",
    series=("#0072b2", "#d55e00", "#009e73", "#aa6f9e", "#b77a00", "#3d9bd1", "#6b7785", "#7a5c00"),
    ramp=("#dbe8f2", "#b4d3e8", "#82b8da", "#4a98c7", "#1d78b0", "#005688"),
)
DARK = Palette(
    text="#dde4ea",
    faint="#8b98a5",
    grid="#232c35",
    surface="#0e1318",
    empty="#1f272f",
    ok="#2fbf94",
    warning="#e69f00",
    critical="#ff7a33",
    unknown="#8b98a5",
    mark="#b794d9",
    series=("#56b4e9", "#e8804a", "#2fbf94", "#cc79a7", "#e6b422", "#3d86c6", "#8b98a5", "#b0a14f"),
    ramp=("#16324a", "#1b4a6d", "#226692", "#2f86bb", "#4ea5dc", "#86caf4"),
)


def palette(mode: str | None) -> Palette:
    """The palette of "dark" or "light"; anything else, as on the first run of a browser, is dark."""
    return LIGHT if mode == "light" else DARK


def fill(ratio: float | None, colours: Palette) -> str:
    """Colour of a 0-1 ratio on the one-hue ramp; the empty colour when not known."""
    if ratio is None:
        return colours.empty
    step = min(int(max(ratio, 0.0) * len(colours.ramp)), len(colours.ramp) - 1)
    return colours.ramp[step]
