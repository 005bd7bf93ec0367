"""Seconds of GPU time by state, read from samples or rollups: the material of `queries.gpu_time`.

Up to six hours samples are read, and one that lies across an edge of the window counts with the part inside it.
Beyond, the hours answer, and what is left at both ends of the window comes from the minutes. So two halves of a
window add up to the window (exactly for samples, at whole minutes beyond).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from fleet.gpu_time import HELD, HOLDERS_UNKNOWN, UNKNOWN_BUCKET, bucket_sql, states_by_key
from fleet.model import Window
from fleet.severity import Thresholds
from queries.resolution import Resolution, epoch_ms, moment, resolution
from queries.scoping import Where
from queries.sharing import shared
from store import Store

_MINUTE, _HOUR = timedelta(minutes=1), timedelta(hours=1)
#: How long a device that is not seen any more counts as a gap; after that it is taken for removed.
REMEMBERED = timedelta(days=1)
# Longest span that one sample is expected to cover; looked for behind the end of a window.
_LONGEST_SAMPLE_SECONDS = 600
_RAW = Resolution(suffix="", step_seconds=1)
_MINUTES = Resolution(suffix="_1m", step_seconds=60)
_HOURS = Resolution(suffix="_1h", step_seconds=3600)

# The same keys as in the rollups (store/migrations/0005_gpu_truth.sql).
_DEVICE_KEY = (
    bucket_sql("coalesce(toFloat64(sm_active_ratio), toFloat64(busy_ratio))")
    + f" + multiIf(isNull(holders), {HOLDERS_UNKNOWN}, assumeNotNull(holders) > 0, {HELD}, 0)"
)
_CONTAINER_KEY = f"{bucket_sql('coalesce(toFloat64(sm_active_ratio), toFloat64(sm_ratio))')} + held * {HELD}"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a window that one tier answers, [start, end)."""

    tier: Resolution
    start: datetime
    end: datetime

    @property
    def time_sql(self) -> str:
        """Which rows of the tier belong to it. Times are numbers of ours, so nothing needs binding."""
        start, end = epoch_ms(self.start), epoch_ms(self.end)
        if self.tier.raw:
            return (
                f"at > fromUnixTimestamp64Milli(toInt64({start}), 'UTC')"
                f" AND at < fromUnixTimestamp64Milli(toInt64({end + _LONGEST_SAMPLE_SECONDS * 1000}), 'UTC')"
                f" AND toUnixTimestamp64Milli(at) - toInt64(interval_seconds * 1000) < {end}"
            )
        return f"at >= toDateTime({start // 1000}, 'UTC') AND at < toDateTime({-(-end // 1000)}, 'UTC')"

    @property
    def seconds_sql(self) -> str:
        """Seconds of a sample that lie inside; only for the raw tier."""
        start, end = epoch_ms(self.start), epoch_ms(self.end)
        begins = "toUnixTimestamp64Milli(at) - toInt64(interval_seconds * 1000)"
        return f"(least(toUnixTimestamp64Milli(at), {end}) - greatest({begins}, {start})) / 1000"


def _floor(at: datetime, unit: timedelta) -> datetime:
    seconds = int(unit.total_seconds())
    return datetime.fromtimestamp(int(at.timestamp()) // seconds * seconds, tz=at.tzinfo)


def aligned(window: Window) -> Window:
    """The window as its tier can answer it: itself for samples, from a whole minute on beyond."""
    if resolution(window).raw:
        return window
    return Window(start=_floor(window.start, _MINUTE), end=window.end)


def pieces(window: Window) -> list[Piece]:
    """The window cut among the tiers: samples, or hours with minutes at both ends (a 60th of the rows)."""
    if resolution(window).raw:
        return [Piece(_RAW, window.start, window.end)]
    start = aligned(window).start
    first, last = _floor(start + _HOUR - timedelta(microseconds=1), _HOUR), _floor(window.end, _HOUR)
    found = [Piece(_MINUTES, start, first), Piece(_HOURS, first, last), Piece(_MINUTES, last, window.end)]
    return [piece for piece in found if piece.start < piece.end]


def _states(limits: Thresholds) -> dict[str, object]:
    by_key = states_by_key(idle_below=limits.idle_sm_ratio, busy_from=limits.busy_sm_ratio)
    return {"state_keys": list(by_key), "state_names": list(by_key.values())}


def _piece_sql(piece: Piece, source: str, who: Sequence[str], key: str) -> str:
    """(who, k, seconds) of one piece. who: columns, or `expression AS name`; source: a table with its conditions."""
    names = ", ".join(part.rsplit(" AS ", 1)[-1] for part in who)
    if piece.tier.raw:
        return (
            f"SELECT {', '.join(who)}, toInt64({key}) AS k, sum({piece.seconds_sql}) AS seconds"
            f" FROM {source} GROUP BY {names}, k"
        )
    # Rows rolled up before the activity was kept have an empty map: their time is known, what it was is not.
    return (
        f"SELECT {names}, toInt64(pair.1) AS k, pair.2 AS seconds FROM ("
        f"SELECT {', '.join(who)}, sumMap(activity_seconds) AS m, sum(interval_seconds) AS observed,"
        f" observed - arraySum(mapValues(m)) AS untold FROM {source} GROUP BY {names})"
        " ARRAY JOIN arrayConcat(arrayZip(mapKeys(m), mapValues(m)),"
        f" if(untold > 0.001 * observed, [(toUInt8({UNKNOWN_BUCKET + HOLDERS_UNKNOWN}), untold)], [])) AS pair"
    )


def _by_state(store: Store, parts: Sequence[str], who: str, where: Where, limits: Thresholds) -> pa.Table:
    return store.query(
        f"SELECT {who}, intDiv(k, {HELD}) AS flags,"
        " transform(k, {state_keys:Array(Int64)}, {state_names:Array(String)}, 'unknown') AS state,"
        f" sum(seconds) AS seconds FROM ({' UNION ALL '.join(parts)}) GROUP BY {who}, flags, state",
        {**where.parameters, **_states(limits)},
    )


def device_seconds(
    store: Store, where: Where, window: Window, limits: Thresholds, *, tier: Resolution | None = None
) -> pa.Table:
    """host, gpu_uuid, in_mig (1: time as the parent of MIG devices, to be left out), flags (0 nobody held it, 1 held,
    2 nobody could be asked), state, seconds (not weighted); with a tier also bucket, the points of a series.
    """
    parts: list[str] = []
    for piece in _cut(window, tier):
        table = piece.tier.table("gpu_samples")
        parents = f"SELECT parent_uuid, at FROM {table} WHERE parent_uuid != '' AND {piece.time_sql}"
        who = ["host", "gpu_uuid", f"(gpu_uuid, at) IN ({parents}) AS in_mig", *_point(tier)]
        parts.append(_piece_sql(piece, f"{table} WHERE {where.sql} AND {piece.time_sql}", who, _DEVICE_KEY))
    names = "host, gpu_uuid, in_mig" + (", bucket" if tier else "")
    return _by_state(store, parts, names, where, limits)


def container_seconds(
    store: Store, where: Where, window: Window, limits: Thresholds, *, tier: Resolution | None = None
) -> pa.Table:
    """tenant, host, container_key, gpu_uuid, flags (1 while it held the device), state, seconds (not weighted); with a
    tier also bucket. Idle time on a device that it does not hold has the state free: it is nobody's use of it.
    """
    parts: list[str] = []
    who = ["tenant", "host", "container_key", "gpu_uuid"]
    for piece in _cut(window, tier):
        source = f"{piece.tier.table('container_gpu_samples')} WHERE {where.sql} AND container_key != ''"
        parts.append(_piece_sql(piece, f"{source} AND {piece.time_sql}", [*who, *_point(tier)], _CONTAINER_KEY))
    return _by_state(store, parts, ", ".join(who) + (", bucket" if tier else ""), where, limits)


def _point(tier: Resolution | None) -> list[str]:
    return [f"{tier.bucket} AS bucket"] if tier else []


def _cut(window: Window, tier: Resolution | None) -> list[Piece]:
    if tier is None:
        return pieces(window)
    start = window.start if tier.raw else _floor(window.start, _HOUR if tier.suffix == "_1h" else _MINUTE)
    return [Piece(tier, start, window.end)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A GPU or MIG device and the time in which it was there to be used.

    weight: 1, or the share of its GPU that a MIG device is. mig: in MIG mode now, so its devices stand for it.
    """

    host: str
    gpu_uuid: str
    parent_uuid: str
    gpu_index: int
    name: str
    mig_profile: str
    weight: float
    mig: bool
    first_seen: datetime
    last_seen: datetime
    memory_total_bytes: int | None = None

    def expected_seconds(self, window: Window) -> float:
        """Seconds of the window in which readings of it were due; 0 for a GPU whose MIG devices stand for it."""
        start, end = max(window.start, self.first_seen), min(window.end, self.last_seen)
        return 0.0 if self.mig else max(0.0, (end - start).total_seconds())


@shared
def devices(store: Store, window: Window, *, host: str | None = None) -> dict[str, Device]:
    """Every device ever sampled, by UUID, with the time in which it was there.

    A device that is not seen any more is due for another day (`REMEMBERED`), then taken for removed; a MIG device
    whose GPU goes on without it was removed at once. First and last are known to the second where the window cuts
    the device's life, to the hour elsewhere, where it makes no difference.
    """
    where = Where("1") if host is None else Where("host = {scope_host:String}", {"scope_host": host})
    rows = store.query(
        f"""
        SELECT life.host AS host, life.gpu_uuid AS uuid, life.parent AS parent, life.idx AS idx, life.first AS first,
            life.newest AS newest, facts.name AS name, facts.mig_profile AS profile, facts.slice_ratio AS slice,
            facts.mig_enabled AS mig, facts.memory_total_bytes AS memory_total
        FROM (
            SELECT host, gpu_uuid, any(parent_uuid) AS parent, any(gpu_index) AS idx,
                toUnixTimestamp(min(at)) AS first, toUnixTimestamp(max(at)) AS newest
            FROM gpu_samples_1h WHERE {where.sql} GROUP BY host, gpu_uuid
        ) AS life LEFT JOIN (SELECT * FROM gpus FINAL) AS facts USING (host, gpu_uuid)
        ORDER BY host, idx, parent != '', uuid
        """,
        where.parameters,
    ).to_pylist()
    newest = {str(row["uuid"]): int(row["newest"]) for row in rows}
    parents = {str(row["parent"]): int(row["newest"]) for row in rows if row["parent"]}
    cut_first = [row["uuid"] for row in rows if row["first"] + 3600 > window.start.timestamp()]
    gone = {str(row["uuid"]) for row in rows if row["parent"] and row["newest"] < newest.get(row["parent"], 0)}
    fine = _to_the_second(store, {*cut_first, *gone}, rows)
    found: dict[str, Device] = {}
    for row in rows:
        uuid = str(row["uuid"])
        first, last = fine.get(uuid, (None, None))
        first = first or moment(row["first"]) or window.end
        if uuid in gone:
            last = last or moment(row["newest"] + 3600) or window.end
        else:
            last = (moment(row["newest"]) or window.end) + REMEMBERED
        found[uuid] = Device(
            host=row["host"], gpu_uuid=uuid, parent_uuid=row["parent"], gpu_index=row["idx"], name=row["name"],
            mig_profile=row["profile"], weight=float(row["slice"]) if row["slice"] else 1.0,
            # Its newest devices are as new as it: it is cut into them now.
            mig=bool(row["mig"]) or parents.get(uuid, 0) >= newest[uuid], first_seen=first, last_seen=last,
            memory_total_bytes=row["memory_total"],
        )  # fmt: skip
    return found


def _to_the_second(
    store: Store, uuids: set[str], rows: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[datetime | None, datetime | None]]:
    """First and last moment covered by samples, looked up in the hours that are known to hold them."""
    if not uuids:
        return {}
    wanted = [row for row in rows if row["uuid"] in uuids]
    hours = sorted({int(row[edge]) for row in wanted for edge in ("first", "newest")})
    spans = " OR ".join(
        f"(at >= fromUnixTimestamp64Milli(toInt64({hour * 1000}), 'UTC')"
        f" AND at < fromUnixTimestamp64Milli(toInt64({(hour + 3600) * 1000}), 'UTC'))"
        for hour in hours
    )
    firsts = {str(row["uuid"]): int(row["first"]) for row in wanted}
    found = store.query(
        "SELECT gpu_uuid, min(toUnixTimestamp64Milli(at) - toInt64(interval_seconds * 1000)) / 1000 AS first,"
        f" max(toUnixTimestamp64Milli(at)) / 1000 AS newest FROM gpu_samples"
        f" WHERE gpu_uuid IN {{uuids:Array(String)}} AND ({spans}) GROUP BY gpu_uuid",
        {"uuids": sorted(uuids)},
    ).to_pylist()
    return {
        # A first sample later than its hour says that older ones have been deleted: the hour is nearer then.
        row["gpu_uuid"]: (
            moment(row["first"]) if row["first"] < firsts[row["gpu_uuid"]] + 3600 else None,
            moment(row["newest"]),
        )
        for row in found
    }
