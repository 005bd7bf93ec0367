"""The address line <-> what is looked at: tenant, host, range or from/to, refresh, and the subject of a detail page.

The address is the truth: every view reopens from it. Values from it are foreign input; what cannot be used is
replaced by the default and named in one message, and never reaches a query or the page unescaped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from fleet.model import Window

RANGES: dict[str, timedelta] = {
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
DEFAULT_RANGE = "1h"
#: Seconds between two looks; 0 = paused.
REFRESHES = (5, 15, 60, 0)
DEFAULT_REFRESH = 5
LONGEST = timedelta(days=400)
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
_EPOCH = re.compile(r"\d{9,11}")

#: The parameters that every page shares; the others belong to one page.
SHARED = ("tenant", "host", "range", "from", "to", "every")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What one viewer looks at. `frozen`: an absolute window; None = the newest `range_name`."""

    tenant: str | None = None
    host: str | None = None
    range_name: str = DEFAULT_RANGE
    frozen: Window | None = None
    refresh_seconds: int = DEFAULT_REFRESH
    subject: str | None = None  # `id`: a container key, a GPU's UUID

    @property
    def live(self) -> bool:
        """True when the page follows the newest data."""
        return self.frozen is None and self.refresh_seconds > 0

    def window(self, newest: datetime) -> Window:
        """The span of time looked at: the absolute one, or the range that ends at the newest sample."""
        return self.frozen or Window(start=newest - RANGES[self.range_name], end=newest)

    def params(self, **changes: str | None) -> dict[str, str]:
        """Address parameters of this view, defaults left out; `changes` set or (None) remove single ones."""
        found: dict[str, str | None] = {
            "tenant": self.tenant,
            "host": self.host,
            "range": self.range_name if self.range_name != DEFAULT_RANGE else None,
            "every": str(self.refresh_seconds) if self.refresh_seconds != DEFAULT_REFRESH else None,
        }
        if self.frozen is not None:
            found |= {
                "range": None,
                "from": str(int(self.frozen.start.timestamp())),
                "to": str(int(self.frozen.end.timestamp())),
            }
        found |= changes
        return {name: value for name, value in found.items() if value is not None}

    def link(self, page: str, **changes: str | None) -> str:
        """Relative address of a page that keeps this view: "container?tenant=acme&id=..."."""
        query = urlencode(self.params(**changes))
        return f"{page}?{query}" if query else page

    def absolute(self, newest: datetime) -> Context:
        """The same view with its window written out, for a link that shows the same thing tomorrow."""
        return replace(self, frozen=self.window(newest), refresh_seconds=0)


def read(params: Mapping[str, str], now: datetime) -> tuple[Context, tuple[str, ...]]:
    """The view an address asks for, and what could not be used of it, one clause each (safe plain text)."""
    wrong: list[str] = []
    tenant = _name(params, "tenant", wrong)
    host = _name(params, "host", wrong)
    subject = _name(params, "id", wrong)
    range_name = params.get("range", DEFAULT_RANGE)
    if range_name not in RANGES:
        wrong.append(f"range is not one of {', '.join(RANGES)}")
        range_name = DEFAULT_RANGE
    refresh_text = params.get("every", str(DEFAULT_REFRESH))
    if refresh_text not in {str(seconds) for seconds in REFRESHES}:
        wrong.append(f"every is not one of {', '.join(str(seconds) for seconds in REFRESHES)}")
        refresh_text = str(DEFAULT_REFRESH)
    return (
        Context(
            tenant=tenant,
            host=host,
            subject=subject,
            range_name=range_name,
            frozen=_window(params, now, wrong),
            refresh_seconds=int(refresh_text),
        ),
        tuple(wrong),
    )


def _name(params: Mapping[str, str], key: str, wrong: list[str]) -> str | None:
    value = params.get(key)
    if value is None or value == "":
        return None
    if _NAME.fullmatch(value):
        return value
    wrong.append(f"{key} is longer than 200 characters or holds control characters")
    return None


def _window(params: Mapping[str, str], now: datetime, wrong: list[str]) -> Window | None:
    if "from" not in params and "to" not in params:
        return None
    start, end = _moment(params.get("from")), _moment(params.get("to"))
    if start is None or end is None:
        wrong.append("from and to are not both epoch seconds or times like 2026-11-22T14:00Z")
    elif start >= end:
        wrong.append("from is not before to")
    elif end - start > LONGEST:
        wrong.append(f"from and to are more than {LONGEST.days} days apart")
    elif start > now:
        wrong.append("from lies in the future")
    else:
        return Window(start=start, end=end)
    return None


def _moment(value: str | None) -> datetime | None:
    """Epoch seconds or ISO 8601 (no zone = UTC) as an aware UTC datetime; None when it is neither."""
    if value is None or len(value) > 40:
        return None
    try:
        if _EPOCH.fullmatch(value):
            return datetime.fromtimestamp(int(value), tz=UTC)
        moment = datetime.fromisoformat(value)
    except (ValueError, OverflowError, OSError):
        return None
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        return None
