from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from fleet.cost import KINDS, Allocation, Row, allocate
from fleet.cost_accounts import accounts
from fleet.cost_facts import Activity, Blind, CostError, Credit, Device, Facts, Hold, Served, Tenancy
from fleet.cost_intervals import IntervalError, Span, Timeline
from fleet.cost_shares import Rules
from fleet.model import UNASSIGNED, UNATTRIBUTED
from fleet.money import SHARE, micros_of
from fleet.price_book import Price, divided, mig_weights
from fleet.token_cost import OUTPUT_WEIGHT, Traffic, token_weight

ZERO = datetime(2026, 11, 2, tzinfo=UTC)
DAY = date(2026, 11, 2)


def span(start: float, end: float) -> Span:
    """From hour to hour of the first day."""
    return Span.of(ZERO + timedelta(hours=start), ZERO + timedelta(hours=end))


def price(per_hour: str, currency: str = "USD") -> Price:
    return Price(micros_per_hour=micros_of(per_hour), currency=currency, source="test")


def gpu(name: str, per_hour: str | None, hours: float, *, watched: bool = True, currency: str = "USD") -> Device:
    prices = [] if per_hour is None else [(span(0, hours), price(per_hour, currency))]
    return Device(gpu_uuid=name, prices=Timeline(prices), present=(span(0, hours),), watched=watched)


def hold(gpu_uuid: str, container: str, start: float, end: float, weight: int = 1) -> Hold:
    return Hold(span=span(start, end), gpu_uuid=gpu_uuid, container=container, weight=weight)


def busy(gpu_uuid: str, container: str | None, start: float, end: float, ratio: float | None) -> Activity:
    return Activity(span=span(start, end), gpu_uuid=gpu_uuid, container=container, ratio=ratio)


def whose(container: str, tenant: str, start: float = 0, end: float = 1000) -> Tenancy:
    return Tenancy(span=span(start, end), container=container, tenant=tenant)


def facts(hours: float, *devices: Device, **more: object) -> Facts:
    return Facts(window=span(0, hours), zone=UTC, devices=devices, **more)  # type: ignore[arg-type]


def parts(found: Allocation, currency: str = "USD") -> dict[str, str]:
    """Money by kind, without what is 0; the check that they make up the bill comes with it."""
    assert found.difference(currency) == 0
    return {kind: f"{Decimal(micros).scaleb(-6):.2f}" for kind, micros in found.parts(currency).items() if micros}


def owed(found: Allocation, *, spread: str = "apart") -> dict[str, str]:
    """Money by tenant."""
    result = accounts(found, "USD", spread=spread)  # type: ignore[arg-type]
    assert result.difference == 0
    return {one.tenant: f"{Decimal(one.total).scaleb(-6):.4f}" for one in result.accounts}


# --- the worked cases of docs/cost-cases.md, by number -----------------------------------------------------------


def test_case_1_who_holds_pays_and_what_was_not_used_is_told_apart():
    # 24 h x 2.00 = 48.00; 30 % of it worked = 14.40; 70 % = 33.60.
    found = allocate(
        facts(24, gpu("g", "2.00", 24), holds=[hold("g", "a", 0, 24)], tenancies=[whose("a", "A")],
              activities=[busy("g", "a", 0, 24, 0.3)])
    )  # fmt: skip
    assert found.bill == {"USD": 48_000_000}
    assert parts(found) == {"used": "14.40", "held_idle": "33.60"}
    assert owed(found) == {"A": "48.0000"}


def test_case_2_free_gpus_stay_in_the_bill_apart_or_spread():
    # 4 x 3.00 x 10 h = 120. A holds one = 30, B two = 60, one is free = 30.
    # By cost: A 30 + 30 x 30/90 = 40, B 60 + 30 x 60/90 = 80. Evenly: 30 + 15, 60 + 15.
    found = allocate(
        facts(
            10,
            *(gpu(name, "3.00", 10, watched=False) for name in "pqrs"),
            holds=[hold("p", "a", 0, 10), hold("q", "b", 0, 10), hold("r", "b", 0, 10)],
            tenancies=[whose("a", "A"), whose("b", "B")],
        )
    )
    assert found.bill == {"USD": 120_000_000}
    assert parts(found) == {"held_unknown": "90.00", "unallocated": "30.00"}
    assert owed(found) == {"A": "30.0000", "B": "60.0000"}
    assert owed(found, spread="by_cost") == {"A": "40.0000", "B": "80.0000"}
    assert owed(found, spread="evenly") == {"A": "45.0000", "B": "75.0000"}


CASE_3 = facts(
    1,
    gpu("g", "4.00", 1),
    holds=[hold("g", "a", 0, 1), hold("g", "b", 0, 1)],
    tenancies=[whose("a", "A"), whose("b", "B")],
    activities=[busy("g", "a", 0, 1, 0.45), busy("g", "b", 0, 1, 0.15)],
)


@pytest.mark.parametrize(
    ("rules", "tenants", "kinds"),
    [
        # Two replicas of 4.00: 2.00 each. A worked 0.45 x 4 = 1.80 of its 2.00, B 0.60.
        (Rules(), {"A": "2.0000", "B": "2.0000"}, {"used": "2.40", "shared_idle": "1.60"}),
        # 4.00 by 45:15 = 3.00 and 1.00.
        (Rules(sharing="usage"), {"A": "3.0000", "B": "1.0000"}, {"used": "2.40", "shared_idle": "1.60"}),
        # Only what worked: 1.80 and 0.60; 1.60 idle is nobody's.
        (Rules(basis="usage"), {"A": "1.8000", "B": "0.6000"}, {"used": "2.40", "shared_idle": "1.60"}),
    ],
)
def test_case_3_a_shared_gpu_is_never_charged_twice(rules: Rules, tenants: dict[str, str], kinds: dict[str, str]):
    found = allocate(CASE_3, rules)
    assert found.bill == {"USD": 4_000_000}
    assert owed(found) == tenants
    assert parts(found) == kinds


def test_case_4_a_price_that_changes_is_used_from_then_on():
    # 08:00-14:00 at 3.00 = 18.00; 14:00-20:00 at 3.60 = 21.60; together 39.60.
    device = replace(
        gpu("g", None, 24, watched=False),
        prices=Timeline([(span(0, 14), price("3.00")), (span(14, 24), price("3.60"))]),
        present=(span(8, 20),),
    )
    found = allocate(facts(24, device, holds=[hold("g", "a", 8, 20)], tenancies=[whose("a", "A")]))
    assert found.bill == {"USD": 39_600_000}
    assert owed(found) == {"A": "39.6000"}


def test_case_6_tenants_of_one_server_split_it_by_weighted_tokens():
    # r = 4: A 600k + 4 x 100k = 1.0 M, B 200k + 4 x 150k = 0.8 M; 10 x 1.0/1.8 = 5.5556, 10 x 0.8/1.8 = 4.4444.
    a = token_weight(Traffic(prompt_tokens=600_000, generation_tokens=100_000), OUTPUT_WEIGHT)
    b = token_weight(Traffic(prompt_tokens=200_000, generation_tokens=150_000), OUTPUT_WEIGHT)
    case = facts(
        5,
        gpu("g", "2.00", 5, watched=False),
        holds=[hold("g", "server", 0, 5)],
        tenancies=[whose("server", "platform")],
        served=[
            Served(span=span(0, 5), container="server", tenant="A", weight=a),
            Served(span=span(0, 5), container="server", tenant="B", weight=b),
        ],
    )
    assert owed(allocate(case, Rules(basis="tokens"))) == {"A": "5.5556", "B": "4.4444"}
    # Allocation as such leaves it with who runs the server.
    assert owed(allocate(case)) == {"platform": "10.0000"}


def test_case_9_waste_is_told_for_the_days_that_were_seen():
    # 2 x 3.430881 x 144 h = 988.093728. The seventh day nobody looked: a gap, not waste.
    found = allocate(
        facts(
            168,
            gpu("p", "3.430881", 168),
            gpu("q", "3.430881", 168),
            holds=[hold("p", "nb", 0, 168), hold("q", "nb", 0, 168)],
            tenancies=[whose("nb", "research")],
            activities=[busy("p", "nb", 0, 144, 0.0), busy("q", "nb", 0, 144, 0.0)],
        ),
        Rules(carry_microseconds=0),
    )
    # 2 x 3.430881 x 24 h = 164.682288.
    assert parts(found) == {"held_idle": "988.09", "data_gap": "164.68"}


# --- what nobody knows -------------------------------------------------------------------------------------------


def test_a_missing_reading_is_carried_for_a_while_and_then_is_a_gap():
    # Readings 0-1 h and 3-4 h, carried half an hour: 1.5 h + 1 h seen, 1.5 h gap, of 4 h at 2.00.
    case = facts(
        4,
        gpu("g", "2.00", 4),
        holds=[hold("g", "a", 0, 4)],
        tenancies=[whose("a", "A")],
        activities=[busy("g", "a", 0, 1, 0.5), busy("g", "a", 3, 4, 1.0)],
    )
    found = allocate(case, Rules(carry_microseconds=1_800_000_000))
    assert parts(found) == {"used": "3.50", "held_idle": "1.50", "data_gap": "3.00"}
    assert owed(found) == {"A": "5.0000"}
    assert found.coverage == Decimal("0.625")
    gap = next(row for row in found.rows if row.kind == "data_gap")
    assert (gap.container, gap.tenant) == ("a", "")
    # A site may say that the ledger's holder pays all the same; then it is an estimate and nothing is called idle.
    theirs = allocate(case, Rules(carry_microseconds=1_800_000_000, gap="holder"))
    assert parts(theirs) == {"used": "3.50", "held_idle": "1.50", "held_unknown": "3.00"}
    assert owed(theirs) == {"A": "8.0000"}


def test_work_that_cannot_be_read_is_held_and_never_idle():
    found = allocate(
        facts(1, gpu("g", "2.00", 1), holds=[hold("g", "a", 0, 1)], activities=[busy("g", "a", 0, 1, None)])
    )
    assert parts(found) == {"held_unknown": "2.00"}
    assert owed(found) == {UNASSIGNED: "2.0000"}


def test_a_device_that_nobody_ever_read_is_all_gap_and_no_free_gpu():
    assert parts(allocate(facts(1, gpu("g", "2.00", 1)))) == {"data_gap": "2.00"}


def test_a_gpu_is_not_free_while_nobody_can_say_who_holds_it():
    seen = [busy("g", None, 0, 4, 0.0)]
    device = replace(gpu("g", "1.00", 4), host="h")
    blind = [Blind(span=span(1, 2), host="h"), Blind(span=span(2, 3), host="other")]
    assert parts(allocate(facts(4, device, activities=seen, blind=blind))) == {
        "unallocated": "3.00",
        "data_gap": "1.00",
    }
    held = facts(4, device, activities=seen, blind=blind, holds=[hold("g", "a", 0, 4)])
    assert parts(allocate(held)) == {"held_idle": "4.00"}


def test_a_gpu_without_a_price_has_time_and_no_money():
    found = allocate(
        facts(2, gpu("g", None, 2), gpu("h", "1.00", 2), holds=[hold("g", "a", 0, 2)],
              activities=[busy("g", "a", 0, 2, 1.0), busy("h", None, 0, 2, 0.0)])
    )  # fmt: skip
    assert found.bill == {"USD": 2_000_000}
    assert found.unpriced_seconds == 7200
    unpriced = [row for row in found.rows if row.gpu_uuid == "g"]
    assert [(row.micros, row.currency, row.gpu_seconds) for row in unpriced] == [(None, "", Decimal(7200))]


def test_a_price_of_zero_is_a_price():
    found = allocate(facts(1, gpu("g", "0", 1, watched=False)))
    assert found.unpriced_seconds == 0
    assert [row.micros for row in found.rows] == [0]


def test_two_currencies_are_two_bills():
    found = allocate(facts(1, gpu("p", "2", 1, watched=False), gpu("q", "3", 1, watched=False, currency="EUR")))
    assert found.bill == {"USD": 2_000_000, "EUR": 3_000_000}
    assert found.currencies == ("EUR", "USD")
    assert parts(found, "EUR") == {"unallocated": "3.00"}
    assert accounts(found, "USD").bill == 2_000_000


def test_a_list_price_marks_its_rows_and_accounts():
    device = replace(
        gpu("g", None, 1, watched=False), prices=Timeline([(span(0, 1), replace(price("2"), listed=True))])
    )
    found = allocate(facts(1, device, holds=[hold("g", "a", 0, 1)]))
    assert all(row.listed for row in found.rows)
    assert accounts(found, "USD").accounts[0].listed


# --- who worked --------------------------------------------------------------------------------------------------


def test_strangers_work_is_taken_out_of_the_holders_idle_time():
    # Of 10.00: the holder 30 %, no known container 20 %; the device says 50 %.
    case = facts(1, gpu("g", "10", 1), holds=[hold("g", "a", 0, 1)], tenancies=[whose("a", "A")])
    own = busy("g", "a", 0, 1, 0.3)
    for other in (busy("g", UNATTRIBUTED, 0, 1, 0.2), busy("g", None, 0, 1, 0.5)):
        found = allocate(replace(case, activities=[own, other]))
        assert parts(found) == {"used": "3.00", "held_idle": "5.00", "unattributed": "2.00"}
        assert owed(found) == {"A": "8.0000"}


def test_a_container_that_works_on_a_gpu_it_does_not_hold_pays_for_its_work():
    found = allocate(
        facts(1, gpu("g", "10", 1), holds=[hold("g", "a", 0, 1)], tenancies=[whose("a", "A"), whose("b", "B")],
              activities=[busy("g", "a", 0, 1, 0.5), busy("g", "b", 0, 1, 0.25)])
    )  # fmt: skip
    assert owed(found) == {"A": "7.5000", "B": "2.5000"}
    assert parts(found) == {"used": "7.50", "held_idle": "2.50"}


def test_the_devices_reading_is_its_only_holders():
    found = allocate(facts(1, gpu("g", "10", 1), holds=[hold("g", "a", 0, 1)], activities=[busy("g", None, 0, 1, 0.4)]))
    assert parts(found) == {"used": "4.00", "held_idle": "6.00"}
    assert all(row.estimated for row in found.rows)


def test_of_two_holders_with_one_reading_of_the_device_nobody_is_called_idle():
    holds = [hold("g", "a", 0, 1), hold("g", "b", 0, 1)]
    found = allocate(facts(1, gpu("g", "10", 1), holds=holds, activities=[busy("g", None, 0, 1, 0.4)]))
    assert parts(found) == {"held_unknown": "10.00"}
    by_usage = allocate(
        facts(1, gpu("g", "10", 1), holds=holds, activities=[busy("g", None, 0, 1, 0.4)]), Rules(sharing="usage")
    )
    assert all(row.estimated for row in by_usage.rows)


def test_readings_that_add_up_to_more_than_the_device_are_scaled_to_it():
    # 0.9 + 0.6 = 1.5: 10.00 by 9:6 = 6.00 and 4.00.
    holds = [hold("g", "a", 0, 1), hold("g", "b", 0, 1)]
    readings = [busy("g", "a", 0, 1, 0.9), busy("g", "b", 0, 1, 0.6)]
    case = facts(1, gpu("g", "10", 1), holds=holds, activities=readings, tenancies=[whose("a", "A"), whose("b", "B")])
    assert owed(allocate(case, Rules(basis="usage"))) == {"A": "6.0000", "B": "4.0000"}


def test_thread_percentages_weigh_the_parts_of_a_shared_gpu():
    holds = [hold("g", "a", 0, 1, 70), hold("g", "b", 0, 1, 30)]
    found = allocate(
        facts(1, gpu("g", "10", 1, watched=False), holds=holds, tenancies=[whose("a", "A"), whose("b", "B")])
    )
    assert owed(found) == {"A": "7.0000", "B": "3.0000"}


def test_sharing_lasts_as_long_as_both_hold():
    # a alone 2 h = 2.00; both 1 h = 0.50 each; b alone 1 h = 1.00.
    holds = [hold("g", "a", 0, 3), hold("g", "b", 2, 4)]
    found = allocate(
        facts(4, gpu("g", "1", 4, watched=False), holds=holds, tenancies=[whose("a", "A"), whose("b", "B")])
    )
    assert owed(found) == {"A": "2.5000", "B": "1.5000"}


def test_mig_devices_have_their_part_of_the_gpus_price_and_the_rest_is_free():
    # 7.00 by compute slices: 3g = 3.00, 2g = 2.00, not cut 2 of 7 = 2.00.
    whole = Timeline([(span(0, 1), price("7.00"))])
    lines = divided(whole, mig_weights(["3g.40gb", "2g.20gb"], "compute"))
    devices = [
        Device(gpu_uuid=name, prices=line, present=(span(0, 1),), watched=False, size=SHARE * part // 7)
        for name, line, part in zip(("m3", "m2", "rest"), lines, (3, 2, 2), strict=True)
    ]
    found = allocate(
        facts(1, *devices, holds=[hold("m3", "a", 0, 1), hold("m2", "b", 0, 1)],
              tenancies=[whose("a", "A"), whose("b", "B")])
    )  # fmt: skip
    assert found.bill == {"USD": 7_000_000}
    assert owed(found) == {"A": "3.0000", "B": "2.0000"}
    assert parts(found) == {"held_unknown": "5.00", "unallocated": "2.00"}
    assert {row.gpu_uuid: row.gpu_seconds for row in found.rows} == {
        "m3": Decimal(3600) * 3 / 7, "m2": Decimal(3600) * 2 / 7, "rest": Decimal(3600) * 2 / 7,
    }  # fmt: skip


# --- changes in the middle ---------------------------------------------------------------------------------------


def test_a_container_that_is_relabelled_at_noon_costs_each_tenant_its_half():
    tenancies = [whose("a", "A", 0, 12), whose("a", "B", 12, 24)]
    found = allocate(facts(24, gpu("g", "1", 24, watched=False), holds=[hold("g", "a", 0, 24)], tenancies=tenancies))
    assert owed(found) == {"A": "12.0000", "B": "12.0000"}


def test_a_restart_that_overlaps_its_old_run_is_held_once():
    found = allocate(
        facts(4, gpu("g", "1", 4, watched=False), holds=[hold("g", "a", 0, 2), hold("g", "a", 1.5, 4)],
              tenancies=[whose("a", "A")])
    )  # fmt: skip
    assert owed(found) == {"A": "4.0000"}


def test_a_hold_of_no_length_costs_nothing():
    found = allocate(facts(1, gpu("g", "1", 1, watched=False), holds=[hold("g", "a", 0.5, 0.5)]))
    assert parts(found) == {"unallocated": "1.00"}


def test_an_empty_window_has_no_bill():
    found = allocate(facts(0, gpu("g", "1", 1)))
    assert (found.rows, found.bill, found.coverage) == ((), {}, None)


def test_a_gpu_is_billed_while_it_is_there():
    device = replace(gpu("g", "1", 10, watched=False), present=(span(2, 3), span(2.5, 4)))
    assert allocate(facts(10, device)).bill == {"USD": 2_000_000}


def test_a_server_that_nobody_asked_is_its_own_tenants_and_unknown_callers_split_it_evenly():
    case = facts(
        2, gpu("g", "1", 2, watched=False), holds=[hold("g", "s", 0, 2)], tenancies=[whose("s", "platform")],
        served=[
            Served(span=span(0, 1), container="s", tenant="A", weight=0),
            Served(span=span(1, 2), container="s", tenant="A"),
            Served(span=span(1, 2), container="s", tenant="B"),
        ],
    )  # fmt: skip
    found = allocate(case, Rules(basis="tokens"))
    assert owed(found) == {"platform": "1.0000", "A": "0.5000", "B": "0.5000"}
    assert {row.tenant: row.estimated for row in found.rows} == {"platform": False, "A": True, "B": True}


def test_a_credit_is_its_own_row_and_gets_no_share_of_idle():
    credit = Credit(day=DAY, micros=-1_500_000, currency="USD", tenant="B", reason="outage")
    found = allocate(
        facts(2, gpu("g", "1", 2, watched=False), gpu("h", "1", 2, watched=False), holds=[hold("g", "a", 0, 2)],
              tenancies=[whose("a", "A")], credits=[credit])
    )  # fmt: skip
    assert found.bill == {"USD": 4_000_000}
    assert parts(found) == {"held_unknown": "2.00", "unallocated": "2.00", "credit": "-1.50"}
    assert owed(found, spread="evenly") == {"A": "4.0000", "B": "-1.5000"}


# --- days of the site --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-11-22", 24)])
def test_a_day_on_which_clocks_change_costs_the_hours_it_had(day: str, hours: int):
    start = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo("Europe/Berlin"))
    whole = Span.of(start - timedelta(days=1), start + timedelta(days=2))
    device = Device(gpu_uuid="g", prices=Timeline([(whole, price("1"))]), present=(whole,), watched=False)
    found = allocate(Facts(window=whole, zone=ZoneInfo("Europe/Berlin"), devices=[device]))
    assert {row.day.isoformat(): row.micros for row in found.rows}[day] == hours * 1_000_000


def test_a_day_with_a_leap_second_costs_24_hours():
    whole = Span.of(datetime(2016, 12, 31, tzinfo=UTC), datetime(2017, 1, 1, tzinfo=UTC))
    device = Device(gpu_uuid="g", prices=Timeline([(whole, price("1"))]), present=(whole,), watched=False)
    assert allocate(Facts(window=whole, zone=UTC, devices=[device])).bill == {"USD": 24_000_000}


# --- facts that cannot be ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"devices": (gpu("g", "1", 1), gpu("g", "1", 1))}, "GPU 'g' is there twice"),
        ({"holds": [hold("x", "a", 0, 1)]}, "hold of GPU 'x': no such GPU"),
        ({"holds": [hold("g", "a", 0, 1, 0)]}, "found the weight 0; write at least 1"),
        ({"activities": [busy("x", "a", 0, 1, 0.5)]}, "reading of GPU 'x': no such GPU"),
        ({"activities": [busy("g", "a", 0, 1, float("nan"))]}, "found the ratio nan; write 0 to 1"),
        ({"activities": [busy("g", "a", 0, 1, -0.1)]}, "found the ratio -0.1; write 0 to 1"),
        ({"activities": [busy("g", "a", 0, 1, 30.0)]}, "found the ratio 30.0; write 0 to 1"),
        ({"served": [Served(span=span(0, 1), container="a", tenant="A", weight=-1)]}, "tokens of 'a': found -1"),
        ({"credits": [Credit(day=DAY, micros=1, currency="USD")]}, "write an amount below 0"),
    ],
)
def test_facts_that_cannot_be_are_refused_with_one_error(change: dict[str, object], told: str):
    with pytest.raises(CostError, match=told):
        allocate(replace(facts(1, gpu("g", "1", 1)), **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"tenancies": [whose("a", "A", 0, 2), whose("a", "B", 1, 3)], "holds": [hold("g", "a", 0, 1)]},
            "tenants of 'a'",
        ),
        ({"holds": [hold("g", "a", 0, 2, 1), hold("g", "a", 1, 3, 2)]}, "holds of 'a' by weight overlap"),
        ({"activities": [busy("g", "a", 0, 1, 0.5), busy("g", "a", 0, 2, 0.4)]}, "start together"),
    ],
)
def test_facts_that_contradict_each_other_are_refused(change: dict[str, object], told: str):
    with pytest.raises(IntervalError, match=told):
        allocate(replace(facts(1, gpu("g", "1", 1)), **change))  # type: ignore[arg-type]


def test_a_later_reading_takes_over_from_one_that_overlaps_it():
    case = facts(2, gpu("g", "1", 2), holds=[hold("g", "a", 0, 2)])
    found = allocate(replace(case, activities=[busy("g", "a", 0, 1.5, 1.0), busy("g", "a", 1, 2, 0.0)]))
    assert parts(found) == {"used": "1.00", "held_idle": "1.00"}


def test_every_kind_has_its_own_row_in_one_picture():
    found = allocate(
        facts(
            6,
            replace(gpu("g", "1", 6), host="h"),
            holds=[hold("g", "a", 0, 3), hold("g", "b", 2, 3), hold("g", "c", 3, 4)],
            activities=[
                busy("g", "a", 0, 3, 0.25),
                busy("g", "b", 2, 3, 0.25),
                busy("g", "c", 3, 4, None),
                busy("g", UNATTRIBUTED, 4, 5, 0.5),
            ],
            credits=[Credit(day=DAY, micros=-1, currency="USD")],
        ),
        Rules(carry_microseconds=0),
    )
    assert {row.kind for row in found.rows} == set(KINDS)
    # 0-2: a .50 used, 1.50 idle; 2-3: .25 + .25 used, .50 idle; 3-4 not read; 4-5: half a stranger's; 5-6 gap.
    assert {kind: micros for kind, micros in found.parts("USD").items() if kind != "credit"} == {
        "used": 1_000_000, "held_idle": 1_500_000, "shared_idle": 500_000, "held_unknown": 1_000_000,
        "unallocated": 500_000, "unattributed": 500_000, "data_gap": 1_000_000,
    }  # fmt: skip
    assert found.difference("USD") == 0
    assert sum(row.gpu_time for row in found.rows) == 6 * 3_600_000_000 * SHARE


def test_rows_name_what_they_are_of():
    found = allocate(facts(1, replace(gpu("g", "1", 1, watched=False), host="h"), holds=[hold("g", "a", 0, 1)]))
    assert found.rows == (
        Row(
            day=DAY, host="h", gpu_uuid="g", container="a", tenant=UNASSIGNED, team="", kind="held_unknown",
            gpu_time=3_600_000_000 * SHARE, atoms=1_000_000 * 3_600_000_000 * SHARE, micros=1_000_000, currency="USD",
        ),
    )  # fmt: skip
