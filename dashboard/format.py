"""How numbers, ages and marks are written: three significant digits, small units, a dash for what is not known.

Ratios stay 0-1 everywhere else and become percent only here. Nothing in this module knows Streamlit.
"""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta

#: Stands for "not known"; the reason belongs beside it or on hover, never a zero.
DASH = "–"

_SI = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BINARY = ((2.0**50, "PiB"), (2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"))

#: How far a figure can be believed: the sign that stands beside the number.
ATTRIBUTION_MARKS = {"measured": "●", "estimated": "◐", "declared": "○", "unknown": "?"}

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:^=&@/])")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")
_AUTOLINK = re.compile(r"(?:://[^/]|www\.)", re.IGNORECASE)
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def known(value: float | None) -> bool:
    """True when there is a number to show: neither None nor NaN nor infinite."""
    return value is not None and math.isfinite(value)


def significant(value: float | None, digits: int = 3) -> str:
    """The number with at most `digits` significant digits and no exponent; a dash for None or NaN."""
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    places = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    rounded = round(value, places)
    if rounded and math.floor(math.log10(abs(rounded))) > math.floor(math.log10(abs(value))):
        places = max(places - 1, 0)  # 9.996 became 10.00: one decimal fewer keeps three digits
    text = f"{rounded:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _scaled(value: float, steps: tuple[tuple[float, str], ...]) -> tuple[float, str]:
    for index, (factor, unit) in enumerate(steps):
        if abs(value) >= factor:
            return value / factor, unit
        if index and abs(value) >= 0.9995 * factor:
            return 1.0, unit
    return value, ""


def number(value: float | None, unit: str = "") -> str:
    """SI-scaled number with its unit, "18.2 k" or "0.62 s"; a dash when not known."""
    if value is None or not math.isfinite(value):
        return DASH
    scaled, prefix = _scaled(value, _SI)
    suffix = f"{prefix}{unit}"
    return f"{significant(scaled)} {suffix}" if suffix else significant(scaled)


def count(value: float | None) -> str:
    """A whole number; exact up to 9999, SI-scaled above; a dash when not known."""
    if value is None or not math.isfinite(value):
        return DASH
    return str(round(value)) if abs(value) < 10_000 else number(value)


def size(value: float | None) -> str:
    """Bytes in binary units, "27.1 GiB"; a dash when not known."""
    if value is None or not math.isfinite(value):
        return DASH
    scaled, unit = _scaled(float(value), _BINARY)
    return f"{significant(scaled)} {unit or 'B'}"


def percent(ratio: float | None) -> str:
    """A ratio of 0-1 as percent, "0.4 %"; a dash when not known."""
    if ratio is None or not math.isfinite(ratio):
        return DASH
    return f"{significant(ratio * 100)} %"


def seconds(value: float | None) -> str:
    """A duration of a request: "740 ms", "0.62 s" from a tenth of a second on, "2 m 5 s" above two minutes."""
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0:
        return "0 s"
    if abs(value) < 1e-3:
        return f"{significant(value * 1e6)} µs"
    if abs(value) < 0.1:
        return f"{significant(value * 1e3)} ms"
    if abs(value) < 120:
        return f"{significant(value)} s"
    return span(value)


def span(value: float | timedelta | None) -> str:
    """A length of time in the two largest units that matter: "41 s", "2 m 5 s", "6 d 3 h"; a dash when not known."""
    if value is None:
        return DASH
    length = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if not math.isfinite(length):
        return DASH
    left = round(abs(length))
    parts: list[str] = []
    for unit, unit_seconds in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        whole, left = divmod(left, unit_seconds)
        if whole:
            parts.append(f"{whole} {unit}")
        elif parts:
            break
        if len(parts) == 2:
            break
    return " ".join(parts) or "0 s"


def age(then: datetime | None, now: datetime) -> str:
    """How long ago, in one unit: "3 s", "41 m", "6 d"; a dash when never. A clock that runs ahead reads "0 s"."""
    if then is None:
        return DASH
    passed = max((now - then).total_seconds(), 0.0)
    for unit, unit_seconds in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if passed >= unit_seconds * (2 if unit != "d" else 1):
            return f"{int(passed // unit_seconds)} {unit}"
    return f"{int(passed)} s"


def clock(at: datetime | None, *, with_date: bool = False) -> str:
    """A moment in UTC: "14:02" or "2026-11-22 14:02"; a dash when not known."""
    if at is None:
        return DASH
    return at.strftime("%Y-%m-%d %H:%M" if with_date else "%H:%M")


def money(amount: float | None, currency: str = "$") -> str:
    """An amount with its currency sign, "$61.2" or "$12.5 k"; a dash when not known."""
    return DASH if amount is None or not math.isfinite(amount) else f"{currency}{number(amount)}"


def change(now: float | None, before: float | None) -> float | None:
    """Difference to the period before in the value's own unit; None when either side is not known."""
    if now is None or before is None or not (math.isfinite(now) and math.isfinite(before)):
        return None
    return now - before


def signed(value: float, text: str) -> str:
    """`text` (the magnitude, already formatted) with the sign of `value`, as `st.metric` reads it."""
    return f"-{text}" if value < 0 else text


def plain(text: str, limit: int = 200) -> str:
    """Fleet text made printable: control and direction characters removed, one line, cut at `limit` with "…"."""
    if text.isprintable() and "  " not in text and len(text) <= limit:
        return text  # the usual case, twenty times faster
    clean = " ".join(_CONTROL.sub(" ", text).split())
    return clean if len(clean) <= limit else f"{clean[: limit - 1]}…"


def markdown(text: str, limit: int = 200) -> str:
    """Fleet text that stays inert inside Markdown: no emphasis, link, image, HTML, LaTeX, directive or icon."""
    # Addresses are made links after escapes are read, so they are broken with a word joiner, which nobody sees.
    shown = _AUTOLINK.sub(lambda found: f"{found[0][:-1]}\u2060{found[0][-1]}", plain(text, limit))
    return _MARKDOWN.sub(r"\\\1", shown.replace("@", "@\u2060"))


def csv_cell(value: object) -> object:
    """A cell that no spreadsheet runs: text that starts like a formula gets a leading apostrophe; numbers stay."""
    if isinstance(value, str) and value.lstrip(" \ufeff").startswith(_FORMULA):
        return f"'{value}"
    return value


def attribution(mark: str | None) -> str:
    """The mark of an attribution word; "?" for anything else, also None."""
    return ATTRIBUTION_MARKS.get(mark or "unknown", "?")


def gpu_name(uuid: str) -> str:
    """A GPU's UUID cut to what a person can compare: "GPU-1a2b3c4d"."""
    return plain(uuid)[:12]
