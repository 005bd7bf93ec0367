from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from fleet.cost import allocate
from fleet.cost_accounts import accounts
from fleet.cost_facts import Activity, Device, Facts
from fleet.cost_intervals import Span, Timeline
from fleet.cost_ledger import from_ledger
from fleet.cost_shares import Rules
from fleet.model import GpuJob
from fleet.price_book import Price

T = datetime(2026, 11, 20, tzinfo=UTC)
NOW = T + timedelta(hours=24)


def hour(number: float) -> datetime:
    return T + timedelta(hours=number)


def span(start: float, end: float) -> Span:
    return Span.of(hour(start), hour(end))


def entry(job: str, start: float, end: float | None, **more: object) -> GpuJob:
    values: dict[str, object] = {
        "at": T, "chain": "c", "sequence": 1, "entry": "open" if end is None else "close", "job_id": job, "host": "h",
        "tenant": "acme", "container_key": "h/chat", "gpu_uuids": ("g",), "started_at": hour(start),
        "ended_at": None if end is None else hour(end),
    }  # fmt: skip
    return GpuJob(**{**values, **more})  # type: ignore[arg-type]


def gap(start: float, end: float) -> GpuJob:
    return entry("", start, end, entry="gap", tenant="", container_key="", gpu_uuids=())


def costs(*entries: GpuJob, readings: tuple[Activity, ...] = ()) -> tuple[dict[str, str], dict[str, str]]:
    """Money of a day at 1.00 an hour: by tenant, and by kind what nobody is charged."""
    held = from_ledger(entries, now=NOW)
    device = Device(
        gpu_uuid="g", host="h", present=(span(0, 24),),
        prices=Timeline([(span(0, 24), Price(micros_per_hour=1_000_000, currency="USD", source="test"))]),
    )  # fmt: skip
    seen = readings or (Activity(span=span(0, 24), gpu_uuid="g", container=None, ratio=0.0),)
    facts = Facts(
        window=span(0, 24), zone=UTC, devices=[device], holds=held.holds, tenancies=held.tenancies, blind=held.blind,
        activities=seen,
    )  # fmt: skip
    found = accounts(allocate(facts, Rules()), "USD")
    assert found.difference == 0
    return (
        {one.tenant: f"{Decimal(one.total).scaleb(-6).normalize():f}" for one in found.accounts},
        {kind: f"{Decimal(micros).scaleb(-6).normalize():f}" for kind, micros in found.apart.items() if micros},
    )


def test_a_job_holds_from_its_start_to_its_end_and_a_running_one_until_now():
    assert costs(entry("1", 2, 5)) == ({"acme": "3"}, {"unallocated": "21"})
    assert costs(entry("1", 22, None)) == ({"acme": "2"}, {"unallocated": "22"})


def test_open_and_close_of_one_job_are_one_hold():
    both = entry("1", 2, None), entry("1", 2, 5, sequence=2)
    assert costs(*both) == costs(entry("1", 2, 5))


def test_a_recreated_container_goes_on_under_its_name():
    assert costs(entry("1", 0, 6), entry("2", 5.5, 12)) == ({"acme": "12"}, {"unallocated": "12"})


def test_a_relabelled_container_costs_each_tenant_its_run():
    # Both runs are known from 5 to 6: the one that started later counts.
    assert costs(entry("1", 0, 6), entry("2", 5, 12, tenant="beta")) == (
        {"beta": "7", "acme": "5"},
        {"unallocated": "12"},
    )


def test_a_shorter_run_within_a_longer_one_gives_its_container_back():
    held = from_ledger([entry("1", 0, 12), entry("2", 4, 6, tenant="beta", gpu_uuids=("k",))], now=NOW)
    assert [(one.span, one.tenant) for one in held.tenancies] == [
        (span(0, 4), "acme"), (span(4, 6), "beta"), (span(6, 12), "acme"),
    ]  # fmt: skip


def test_while_nobody_looked_a_gpu_is_not_free_and_a_known_holder_stays_one():
    assert costs(entry("1", 0, 12), gap(10, 14)) == ({"acme": "12"}, {"unallocated": "10", "data_gap": "2"})


def test_who_uses_a_device_without_having_been_given_it_holds_nothing_and_pays_for_its_work():
    uses = entry("1", 0, 24, sources={"gpu_uuids": "used, not declared: its processes are on them"})
    readings = (Activity(span=span(0, 24), gpu_uuid="g", container="h/chat", ratio=0.25),)
    assert costs(uses, readings=readings) == ({"acme": "6"}, {"unallocated": "18"})


def test_a_job_whose_end_is_before_its_start_by_a_clock_that_was_set_back_holds_nothing():
    assert costs(entry("1", 5, 4)) == ({}, {"unallocated": "24"})
