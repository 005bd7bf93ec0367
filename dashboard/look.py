"""One look of one viewer at the newest snapshot: the window it ends, how fresh each source is, and the way to ask.

A page is drawn from the snapshot, not from the clock: between two snapshots it comes out byte for byte the same, and
Streamlit sends references instead of contents. Only when nothing has arrived for a while does the window follow the
clock, so that silence shows as a gap and as unknown, not as the last good values for ever.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar

import streamlit as st

from dashboard import process
from dashboard.context import Context
from dashboard.theme import Palette, Status, palette
from fleet.model import Scope, Window
from queries import status
from queries.answer import Answer
from queries.snapshot import Snapshot, newest_snapshot
from store import Store, StoreError

P = ParamSpec("P")
T = TypeVar("T")

#: Snapshots closer together than this are one: viewers whose timers differ by a second share their answers.
SNAPSHOT_SECONDS = 5
#: Without any sample for this long, time goes on by the clock.
SILENCE_SECONDS = 30
_KINDS = {"docker": "Docker", "nvml": "NVML", "prometheus": "Prometheus", "synthetic": "Synthetic"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceState:
    """One kind of source, the worst of its targets: newest good reading, status, and a word when it is not fine."""

    name: str
    newest: datetime | None
    status: Status
    word: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one run of a page's live fragment sees."""

    context: Context
    viewer: Scope
    now: datetime
    window: Window
    sources: tuple[SourceState, ...]
    live: Window  # the newest snapshot's, that `sources` speaks for
    colours: Palette

    @property
    def scope(self) -> Scope:
        """What this page may read."""
        return self.viewer.narrow(self.context.tenant)

    @property
    def seen(self) -> bool:
        """True when any source has ever reported."""
        return bool(self.sources)

    @property
    def answer(self) -> Answer:
        """Every source and target in full, as far as this viewer may see it. Raises StoreError."""
        return process.current().reader.ask(self.live.end, status.source_status, self.viewer, self.live)

    def every(self, seconds: int) -> Look:
        """This view as the first snapshot of every `seconds` showed it, for what moves slowly.

        Means of five minutes, points a minute wide: read with each snapshot they would cost most of a tick's time
        and look the same. A window that was written out stays as it is.
        """
        if self.context.frozen is not None:
            return self
        slot = (self.context.range_name, seconds, int(self.window.end.timestamp()) // seconds)
        return replace(self, window=process.current().reader.first(slot, self.window))

    def ask(
        self, question: Callable[Concatenate[Store, Scope, Window, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The answer to a question about this scope and window. Raises StoreError."""
        kwargs = judged(question, kwargs)  # type: ignore[assignment]
        return process.current().reader.ask(self.window.end, question, self.scope, self.window, *args, **kwargs)

    def ahead(
        self, question: Callable[Concatenate[Store, Scope, Window, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Start a question that will be asked below, so that the questions of a page are read side by side."""
        kwargs = judged(question, kwargs)  # type: ignore[assignment]
        process.current().reader.ahead(self.window.end, question, self.scope, self.window, *args, **kwargs)


@functools.cache
def _judges(question: Callable[..., object]) -> bool:
    return "limits" in inspect.signature(question).parameters


def judged(question: Callable[..., object], arguments: Mapping[str, object]) -> dict[str, object]:
    """The arguments with the operator's thresholds, for a question that judges: one place, so no page can forget."""
    limits = {"limits": process.current().settings.thresholds} if _judges(question) else {}
    return {**limits, **arguments}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the filter bar offers, and whether any source is synthetic."""

    tenants: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    demo: bool = False


def _newest(store: Store, viewer: Scope) -> Snapshot:
    return newest_snapshot(store, viewer, process.current().now())


def look_now(context: Context, viewer: Scope) -> Look:
    """The newest snapshot seen through this view. Raises StoreError."""
    deployment = process.current()
    now = deployment.now()
    newest = deployment.reader.pulse(_newest, viewer).newest
    window = context.window(snapshot_end(newest, now))
    if context.frozen is None:
        live = window
    else:
        live = Window(start=snapshot_end(newest, now) - timedelta(hours=1), end=snapshot_end(newest, now))
    found = deployment.reader.ask(live.end, status.source_freshness, viewer, live, host=None)
    return Look(
        context=context,
        viewer=viewer,
        now=now,
        window=window,
        sources=source_states(found, live.end),
        live=live,
        colours=palette(st.context.theme.type),
    )


def snapshot_end(newest: datetime | None, now: datetime) -> datetime:
    """End of "now": the newest sample, on a grid that all viewers share; the clock when nothing arrives."""
    silent = newest is None or (now - newest).total_seconds() > SILENCE_SECONDS
    at, step = (now, SILENCE_SECONDS) if silent or newest is None else (newest, SNAPSHOT_SECONDS)
    return datetime.fromtimestamp(-(-int(at.timestamp()) // step) * step, tz=UTC)


def source_states(rows: Sequence[Mapping[str, Any]], end: datetime) -> tuple[SourceState, ...]:
    """One state per kind of source: that of its worst target; kinds in a fixed order. Ages count back from `end`."""
    worst: dict[str, SourceState] = {}
    for row in rows:
        kind, state, age_seconds = row["source"], row["state"], row["age_seconds"]
        one = SourceState(
            name=str(_KINDS.get(kind, kind)),
            newest=None if age_seconds is None or state == "absent" else end - timedelta(seconds=age_seconds),
            status=STATES.get(state, Status.UNKNOWN),
            word=str({"ok": "", "absent": "none here"}.get(state, row["reason"] or state)),
        )
        if kind not in worst or one.status.rank < worst[kind].status.rank:
            worst[kind] = one
    order = list(_KINDS)
    return tuple(worst[kind] for kind in sorted(worst, key=lambda k: (order.index(k) if k in _KINDS else 9, k)))


STATES = {
    "ok": Status.OK,
    "partial": Status.WARNING,
    "stale": Status.WARNING,
    "failed": Status.CRITICAL,
    "absent": Status.NONE,
}


def choices(viewer: Scope) -> Choices:
    """What the filters offer this viewer; nothing while the store is away."""
    deployment = process.current()
    try:
        snapshot = deployment.reader.pulse(_newest, viewer)
        end = snapshot_end(snapshot.newest, deployment.now())
        # Names change rarely: one reading a minute is enough.
        minute = end.replace(second=0, microsecond=0)
        window = Window(start=minute - timedelta(hours=1), end=minute)
        rows = deployment.reader.ask(minute, status.choices, viewer, window).rows.to_pylist()
    except StoreError:
        return Choices()
    return Choices(
        tenants=tuple(row["value"] for row in rows if row["kind"] == "tenant"),
        hosts=tuple(row["value"] for row in rows if row["kind"] == "host"),
        demo=snapshot.synthetic,
    )
