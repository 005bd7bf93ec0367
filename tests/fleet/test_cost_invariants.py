"""What must hold of every allocation, whatever happened: drawn at random, with holes, overlaps and both bases."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.cost import Allocation, allocate
from fleet.cost_accounts import SPREADS, accounts
from fleet.cost_facts import Activity, Blind, Credit, Device, Facts, Hold, Served, Tenancy
from fleet.cost_intervals import Span, Timeline, merged, moment
from fleet.cost_shares import Rules
from fleet.money import SHARE
from fleet.price_book import Price

# Two days around the end of summer time in Berlin, so that days of 24 and 25 hours are in it.
START = datetime(2026, 10, 24, 12, tzinfo=UTC)
WHOLE = Span.of(START, START + timedelta(hours=48))
BERLIN = ZoneInfo("Europe/Berlin")
HOUR = 3_600_000_000
CONTAINERS, TENANTS = ("a", "b", "c"), ("acme", "beta", "unassigned")

instants = st.integers(WHOLE.start - 3 * HOUR, WHOLE.end + 3 * HOUR)
spans = st.tuples(instants, instants).map(lambda pair: Span(min(pair), max(pair)))
ratios = st.none() | st.sampled_from([0.0, 0.001, 0.333333, 0.5, 1.0]) | st.floats(0, 1)
prices = st.builds(
    Price,
    micros_per_hour=st.integers(0, 20_000_000),
    currency=st.sampled_from(["USD", "EUR"]),
    source=st.just("test"),
    listed=st.booleans(),
)


@st.composite
def timelines(draw: st.DrawFn, values: st.SearchStrategy[object]) -> list[tuple[Span, object]]:
    """Spans that do not overlap, some of them with holes between."""
    edges = sorted(set(draw(st.lists(instants, max_size=6))))
    return [(Span(a, b), draw(values)) for a, b in pairwise(edges) if draw(st.booleans())]


@st.composite
def cases(draw: st.DrawFn) -> Facts:
    names = ["g", "h"][: draw(st.integers(1, 2))]
    devices = [
        Device(
            gpu_uuid=name,
            prices=Timeline(draw(timelines(prices))),
            present=tuple(draw(st.lists(spans, max_size=2))) or (WHOLE,),
            host="node",
            watched=draw(st.booleans()),
        )
        for name in names
    ]
    gpus, containers = st.sampled_from(names), st.sampled_from(CONTAINERS)
    starts: set[tuple[str, str | None, int]] = set()
    readings = []
    for one in draw(
        st.lists(
            st.builds(
                Activity, span=spans, gpu_uuid=gpus, container=containers | st.sampled_from([None, ""]), ratio=ratios
            ),
            max_size=12,
        )
    ):
        if (key := (one.gpu_uuid, one.container, one.span.start)) not in starts:
            starts.add(key)
            readings.append(one)
    return Facts(
        window=WHOLE,
        zone=BERLIN,
        devices=devices,
        holds=draw(st.lists(st.builds(Hold, span=spans, gpu_uuid=gpus, container=containers), max_size=6)),
        tenancies=[
            Tenancy(span=span, container=name, tenant=tenant)
            for name in CONTAINERS
            for span, tenant in draw(timelines(st.sampled_from(TENANTS)))
        ],
        activities=readings,
        served=[
            Served(span=span, container="a", tenant=tenant, weight=weight)
            for span, weight in draw(timelines(st.none() | st.integers(0, 10**9)))
            for tenant in draw(st.sets(st.sampled_from(TENANTS), min_size=1))
        ],
        blind=[Blind(span=span, host="node") for span in draw(st.lists(spans, max_size=1))],
        credits=[
            Credit(day=START.date(), micros=micros, currency="USD", tenant="acme")
            for micros in draw(st.lists(st.integers(-(10**7), -1), max_size=2))
        ],
    )


rules = st.builds(
    Rules,
    basis=st.sampled_from(["allocation", "usage", "tokens"]),
    sharing=st.sampled_from(["equal", "usage"]),
    gap=st.sampled_from(["apart", "holder"]),
    carry_microseconds=st.integers(0, 4 * HOUR),
)
many = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def exact(found: Allocation) -> Counter[tuple[object, ...]]:
    """Amounts before any rounding, and times, by all that a row says."""
    sums: Counter[tuple[object, ...]] = Counter()
    for row in found.rows:
        key = (
            row.day, row.gpu_uuid, row.container, row.tenant, row.team, row.kind, row.currency, row.listed,
            row.estimated,
        )  # fmt: skip
        sums[(*key, "money")] += row.atoms
        sums[(*key, "time")] += row.gpu_time
    return +sums


@many
@given(cases(), rules)
def test_parts_are_the_bill_exactly_by_kind_by_tenant_and_by_spread(case: Facts, rule: Rules):
    found = allocate(case, rule)
    for currency in found.currencies:
        assert found.difference(currency) == 0
        for spread in SPREADS:
            assert accounts(found, currency, spread=spread).difference == 0


@many
@given(cases(), rules)
def test_no_row_but_a_credit_is_below_0_and_no_time_is_lost(case: Facts, rule: Rules):
    found = allocate(case, rule)
    assert all(row.gpu_time > 0 and (row.micros or 0) >= 0 for row in found.rows if row.kind != "credit")
    there = sum(span.within(WHOLE).length for device in case.devices for span in merged(device.present))
    assert sum(row.gpu_time for row in found.rows) == there * SHARE


@many
@given(cases(), rules, st.integers(WHOLE.start, WHOLE.end))
def test_splitting_the_window_at_any_instant_changes_nothing(case: Facts, rule: Rules, cut: int):
    case = replace(case, credits=())
    first = allocate(replace(case, window=Span(WHOLE.start, cut)), rule)
    second = allocate(replace(case, window=Span(cut, WHOLE.end)), rule)
    assert exact(first) + exact(second) == exact(allocate(case, rule))


@many
@given(cases(), rules, st.sampled_from([0, 1]))
def test_months_of_whole_days_add_up_to_the_micro_unit(case: Facts, rule: Rules, day: int):
    case = replace(case, credits=())
    midnight = datetime(2026, 10, 25 + day, tzinfo=BERLIN)
    cut = Span.of(START, midnight).end
    first = allocate(replace(case, window=Span(WHOLE.start, cut)), rule)
    second = allocate(replace(case, window=Span(cut, WHOLE.end)), rule)
    whole = allocate(case, rule)
    assert Counter([*first.rows, *second.rows]) == Counter(whole.rows)


@many
@given(cases(), rules, st.permutations(["zeta", "acme", "new"]))
def test_renaming_tenants_moves_no_money(case: Facts, rule: Rules, names: list[str]):
    rule = replace(rule, basis="usage" if rule.basis == "usage" else "allocation")
    renamed = dict(zip(("acme", "beta", "gamma"), names, strict=True))
    tenancies = [one for one in case.tenancies if one.tenant != "unassigned"]
    before = allocate(replace(case, tenancies=tenancies), rule)
    after = allocate(
        replace(case, tenancies=[replace(one, tenant=renamed[one.tenant]) for one in tenancies],
                credits=[replace(one, tenant=renamed[one.tenant]) for one in case.credits]),
        rule,
    )  # fmt: skip
    assert Counter(replace(row, tenant=renamed.get(row.tenant, row.tenant)) for row in before.rows) == Counter(
        after.rows
    )


@many
@given(cases(), rules)
def test_doubling_prices_doubles_the_cost(case: Facts, rule: Rules):
    case = replace(case, credits=())
    doubled = [
        replace(
            device,
            prices=Timeline(
                (span, replace(price, micros_per_hour=2 * price.micros_per_hour))
                for span, price in device.prices.entries
            ),
        )
        for device in case.devices
    ]
    once, twice = exact(allocate(case, rule)), exact(allocate(replace(case, devices=doubled), rule))
    assert twice == Counter({key: amount * (2 if key[-1] == "money" else 1) for key, amount in once.items()})


@many
@given(cases(), rules, st.integers(0, 2**32))
def test_the_order_of_facts_does_not_matter(case: Facts, rule: Rules, seed: int):
    mixed = random.Random(seed)

    def shuffled(values: object) -> list[object]:
        found = list(values)  # type: ignore[call-overload]
        mixed.shuffle(found)
        return found

    names = ("devices", "holds", "tenancies", "activities", "served", "blind", "credits")
    other = replace(case, **{name: shuffled(getattr(case, name)) for name in names})
    assert allocate(other, rule) == allocate(case, rule)


@many
@given(cases(), rules, instants)
def test_a_hold_of_no_length_and_facts_outside_the_window_change_nothing(case: Facts, rule: Rules, at: int):
    before = Span(WHOLE.start - 9 * HOUR, WHOLE.start - 8 * HOUR)
    more = [
        Hold(span=Span(at, at), gpu_uuid="g", container="new"),
        Hold(span=before, gpu_uuid="g", container="old"),
    ]
    changed = replace(case, holds=[*case.holds, *more])
    assert exact(allocate(changed, rule)) == exact(allocate(case, rule))


@many
@given(cases(), rules)
def test_every_day_is_the_sites(case: Facts, rule: Rules):
    days = {moment(at).astimezone(BERLIN).date() for at in range(WHOLE.start, WHOLE.end, HOUR)}
    assert {row.day for row in allocate(replace(case, credits=()), rule).rows} <= days
