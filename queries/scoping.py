"""The one place where a scope becomes a condition: whose rows, of which host, of which span of time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from fleet.model import Scope, Window
from queries.resolution import Resolution, epoch_ms

_RAW = Resolution(suffix="", step_seconds=1)


@dataclass(frozen=True, slots=True)
class Where:
    """A SQL condition and the parameters it binds."""

    sql: str
    parameters: Mapping[str, object] = field(default_factory=dict[str, object])

    def also(self, condition: str, **parameters: object) -> Where:
        """This condition and one more."""
        return Where(f"{self.sql} AND {condition}", {**self.parameters, **parameters})


def of_tenants(scope: Scope, *, host: str | None = None, column: str = "tenant") -> Where:
    """Rows of the scope's tenants (all for the fleet, none for the empty scope), of one host if given."""
    if scope.tenants is None:
        where = Where("1")
    elif not scope.tenants:
        where = Where("0")
    else:
        where = Where(f"{column} IN {{scope_tenants:Array(String)}}", {"scope_tenants": sorted(scope.tenants)})
    return where if host is None else where.also("host = {scope_host:String}", scope_host=host)


def of_gpus(scope: Scope, window: Window, tier: Resolution, *, host: str | None = None) -> Where:
    """GPU rows that the scope may see: all for the fleet, else those its own containers held or used in the window."""
    hosts = Where("1") if host is None else Where("host = {scope_host:String}", {"scope_host": host})
    if scope.tenants is None:
        return hosts
    holders = during(of_tenants(scope), window, tier)
    inner = f"gpu_uuid IN (SELECT gpu_uuid FROM {tier.table('container_gpu_samples')} WHERE {holders.sql})"
    return hosts.also(inner, **holders.parameters)


def during(where: Where, window: Window, tier: Resolution = _RAW) -> Where:
    """The condition limited to a window. Samples are stamped at the end of what they cover, rollups at its start."""
    start, end = epoch_ms(window.start), epoch_ms(window.end)
    if tier.raw:
        condition = (
            "at > fromUnixTimestamp64Milli({window_start:Int64}, 'UTC')"
            " AND at <= fromUnixTimestamp64Milli({window_end:Int64}, 'UTC')"
        )
    else:
        unit = 60_000 if tier.suffix == "_1m" else 3_600_000
        start = start // unit * unit
        condition = (
            "at >= toDateTime(intDiv({window_start:Int64}, 1000), 'UTC')"
            " AND at < toDateTime(intDiv({window_end:Int64} + 999, 1000), 'UTC')"
        )
    return where.also(condition, window_start=start, window_end=end)


def last(window: Window, span: timedelta) -> Window:
    """The last `span` of a window, which may reach before its start."""
    return Window(start=window.end - span, end=window.end)


def since_minute(minute: datetime, window: Window) -> Window:
    """From a full minute to the window's end: samples stamped exactly then belong to that minute in the rollups."""
    return Window(start=minute - timedelta(milliseconds=1), end=window.end)
