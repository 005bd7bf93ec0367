"""How long containers have held GPUs without using them, looking back a month.

The hours tell in which few hours a container can have been busy last; only those are then read to the minute. Reading a
month of minutes for every idle holder took a quarter of a second each time a page was drawn. What was up to a round
time a few minutes ago is kept, and only the minutes since are read again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from fleet.model import Window
from queries.resolution import Resolution, moment
from queries.scoping import Where, during, since_minute
from queries.sharing import KEPT_SECONDS, Frozen, frozen, round_time_before, shared_for, thawed
from store import Store

#: An idle holder is followed back so far; one that is idle for longer is told as idle since then.
LOOK_BACK = timedelta(days=30)
_RAW = Resolution(suffix="", step_seconds=60)
_MINUTES = Resolution(suffix="_1m", step_seconds=60)
_HOURS = Resolution(suffix="_1h", step_seconds=3600)
_HOUR_SECONDS = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Idleness:
    """GPUs that a container holds without using them: how many, for how long, and the highest SM share meanwhile."""

    gpus: int
    seconds: float
    peak_ratio: float | None
    since: datetime


def idleness(
    store: Store, where: Where, window: Window, held: Mapping[str, int], idle_sm_ratio: float
) -> dict[str, Idleness]:
    """Since the last minute in which a GPU of the container was at or above the idle share, else since it was seen.

    held: container key -> GPUs it holds now, of those that are below the share now. where: whose rows.
    """
    if not held:
        return {}
    keys = tuple(sorted(held))
    cut = round_time_before(window.end)
    before = _up_to(store, where.sql, frozen(where.parameters), keys, cut, idle_sm_ratio)
    own = where.also("container_key IN {quiet:Array(String)}", quiet=list(keys))
    after = _minutes(store, during(own, since_minute(cut, window)), _RAW, idle_sm_ratio)
    found: dict[str, Idleness] = {}
    for key in keys:
        since, peak = before.get(key, (0, None))
        busy, first, newer = after.get(key, (0, 0, None))
        if busy or not since:
            since, peak = busy or first, newer
        elif newer is not None:
            peak = newer if peak is None else max(peak, newer)
        if begin := moment(since):
            seconds = (window.end - begin).total_seconds()
            found[key] = Idleness(gpus=held[key], seconds=seconds, peak_ratio=peak, since=begin)
    return found


def _minutes(
    store: Store, where: Where, tier: Resolution, idle_sm_ratio: float
) -> dict[str, tuple[int, int, float | None]]:
    """Per container: the last busy minute (0 = none), the first one, and the highest share after the busy one."""
    rows = store.query(
        f"""
        SELECT container_key, last_busy, first_seen, top FROM (SELECT container_key,
            toUnixTimestamp(maxIf(point, mean >= {{idle:Float64}})) AS last_busy,
            toUnixTimestamp(min(point)) AS first_seen,
            groupArray((toUnixTimestamp(point), peak)) AS peaks, if(last_busy = 0, first_seen, last_busy) AS begin,
            arrayReduce('max', arrayMap(p -> p.2, arrayFilter(p -> p.1 > begin, peaks))) AS top
        FROM ({_points(tier, where)}) GROUP BY container_key)
        """,
        {**where.parameters, "idle": idle_sm_ratio},
    ).to_pylist()
    return {row["container_key"]: (row["last_busy"], row["first_seen"], row["top"]) for row in rows}


@shared_for(KEPT_SECONDS)
def _up_to(
    store: Store, sql: str, parameters: Frozen, keys: tuple[str, ...], cut: datetime, idle_sm_ratio: float
) -> dict[str, tuple[int, float | None]]:
    """Per container: idle since (epoch seconds) and the highest SM share since then, as it stood at `cut`."""
    own = Where(sql, thawed(parameters)).also("container_key IN {quiet:Array(String)}", quiet=list(keys))
    span = Window(start=cut - LOOK_BACK, end=cut)
    hours = _hours_to_look_into(store, own, span, idle_sm_ratio)
    if not hours:
        return {}
    found = _minutes(store, _in_hours(during(own, span, _MINUTES), hours), _MINUTES, idle_sm_ratio)
    since = {key: busy or first for key, (busy, first, _) in found.items()}
    peaks = _peaks(store, own, Window(start=span.start, end=cut), since)
    return {key: (begin, peaks.get(key)) for key, begin in since.items()}


def _in_hours(where: Where, hours: set[int]) -> Where:
    # As a set it also tells the engine which days need no reading.
    listed = "SELECT toDateTime(arrayJoin({hours:Array(Int64)}), 'UTC')"
    return where.also(f"toStartOfHour(at) IN ({listed})", hours=sorted(hours))


def _points(tier: Resolution, where: Where) -> str:
    # A rollup's rows of one point may be unmerged: one row of them is no point.
    point = "toStartOfMinute(at)" if tier.raw else "at"
    return (
        f"SELECT container_key, {point} AS point, {tier.mean('sm_ratio')} AS mean, {tier.peak('sm_ratio')} AS peak"
        f" FROM {tier.table('container_gpu_samples')} WHERE {where.sql} GROUP BY container_key, gpu_uuid, point"
    )


def _hours_to_look_into(store: Store, own: Where, span: Window, idle_sm_ratio: float) -> set[int]:
    """Hours (epoch seconds) in which a container's last busy minute may lie, or the first minute it was seen in.

    An hour whose mean is at or above the share has such a minute, and one whose peak is below it has none: what has to
    be read is the last of the former and those of the others after it.
    """
    asked = during(own, span, _HOURS)
    rows = store.query(
        f"""
        SELECT toUnixTimestamp(min(point)) AS first,
            toUnixTimestamp(maxIf(point, mean >= {{idle:Float64}} AND point < toDateTime({{end_hour:Int64}}, 'UTC')))
                AS surely,
            groupUniqArrayIf(toUnixTimestamp(point), peak >= {{idle:Float64}}) AS possibly
        FROM ({_points(_HOURS, asked)}) GROUP BY container_key
        """,
        # The hour that the window ends in may know what came after the window.
        {**asked.parameters, "idle": idle_sm_ratio, "end_hour": _hour_of(span.end.timestamp())},
    ).to_pylist()
    hours: set[int] = set()
    for row in rows:
        hours.add(row["first"])
        hours.update(hour for hour in row["possibly"] if hour >= row["surely"])
    return hours


def _peaks(store: Store, own: Where, window: Window, since: Mapping[str, int]) -> dict[str, float]:
    """Highest SM share of each container after the minute that it was busy in last; None or absent = not known."""
    oldest = min(since.values(), default=0)
    if window.end.timestamp() - oldest < 60:
        return {}
    span = Window(start=moment(oldest) or window.end, end=window.end)
    keys = own.also("1", keys=list(since), begins=[int(begin) for begin in since.values()])
    begin = "transform(container_key, {keys:Array(String)}, {begins:Array(Int64)}, toInt64(0))"
    last_hour = _hour_of(window.end.timestamp())
    end_hour = "toDateTime({end_hour:Int64}, 'UTC')"
    hour_after = f"toStartOfHour(toDateTime({begin}, 'UTC')) + 3600"
    whole = during(keys, span, _HOURS).also(f"at >= {hour_after} AND at < {end_hour}")
    edges = _in_hours(during(keys, span, _MINUTES), {last_hour, *(_hour_of(at) for at in since.values())})
    edges = edges.also(f"at > toDateTime({begin}, 'UTC') AND (at < {hour_after} OR at >= {end_hour})")
    both = " UNION ALL ".join(
        f"SELECT container_key, sm_ratio_max FROM {tier.table('container_gpu_samples')} WHERE {part.sql}"
        for tier, part in ((_HOURS, whole), (_MINUTES, edges))
    )
    rows = store.query(
        f"SELECT container_key, max(sm_ratio_max) AS peak FROM ({both}) GROUP BY container_key",
        # The start of the hours' span is the rounder one; to the minutes it is no limit, their own condition is.
        {**edges.parameters, **whole.parameters, "end_hour": last_hour},
    ).to_pylist()
    return {row["container_key"]: row["peak"] for row in rows}


def _hour_of(seconds: float) -> int:
    return int(seconds) // _HOUR_SECONDS * _HOUR_SECONDS
