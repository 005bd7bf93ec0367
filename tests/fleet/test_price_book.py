from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from fleet.cost_intervals import Span
from fleet.price_book import (
    Owned,
    Price,
    PriceBook,
    PriceError,
    PriceRow,
    default_rows,
    divided,
    list_prices,
    mig_weights,
    owned_price,
)

H100 = "NVIDIA H100 80GB HBM3"
OWN = Price(micros_per_hour=2_100_000, currency="EUR", source="contract 4711")


def day(number: int, month: int = 11) -> datetime:
    return datetime(2026, month, number, tzinfo=UTC)


NOVEMBER = Span.of(day(1), day(1, 12))
ROW = PriceRow(gpu_model="H100-SXM-80GB", name_pattern="^NVIDIA H100 80GB HBM3$", price=OWN)

NAMES = {
    "NVIDIA B300 SXM6 AC": "B300",
    "NVIDIA HGX B300": "B300",
    "NVIDIA B200": "B200",
    "NVIDIA GH200 480GB": "GH200",
    "NVIDIA H200": "H200",
    "NVIDIA H100 80GB HBM3": "H100-SXM-80GB",
    "NVIDIA H100 80GB HBM3 MIG 1g.10gb": "H100-SXM-80GB",
    "NVIDIA H100 NVL": "H100-NVL-94GB",
    "NVIDIA H100 PCIe": "H100-PCIe-80GB",
    "NVIDIA A100-SXM4-80GB": "A100-SXM-80GB",
    "A100-SXM4-40GB": "A100-SXM-40GB",
    "NVIDIA A100 80GB PCIe": "A100-PCIe-80GB",
    "NVIDIA A100-PCIE-40GB": "A100-PCIe-40GB",
    "NVIDIA L40S": "L40S",
    "NVIDIA L4": "L4",
    "NVIDIA A10G": "A10G",
    "NVIDIA A10": "A10",
    "NVIDIA A40": "A40",
    "Tesla T4": "T4",
    "Tesla V100-SXM2-16GB": "V100-16GB",
    "Tesla V100-PCIE-32GB": "V100-32GB",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "RTX-PRO-6000-Blackwell",
    "NVIDIA RTX A6000": "RTX-A6000",
    "Quadro RTX 6000": "Quadro-RTX-6000",
}


@pytest.mark.parametrize(("name", "model"), NAMES.items())
def test_a_products_name_finds_one_list_price_only(name: str, model: str):
    fitting = [row.gpu_model for row in default_rows() if row.fits(name, "any", "")]
    assert fitting == [model]


@pytest.mark.parametrize(
    "name",
    ["NVIDIA L40", "NVIDIA H200 NVL", "NVIDIA A16", "NVIDIA GeForce RTX 4090", "NVIDIA A2", "AMD MI300X", "", "H100"],
)
def test_a_product_without_a_price_has_none_and_not_0(name: str):
    assert PriceBook().timeline(name, NOVEMBER).entries == ()


def test_every_list_price_has_a_source_and_is_marked_as_nobodys_own():
    rows = list_prices()
    assert len(rows) == 43
    assert len(default_rows()) == 22
    for row in rows:
        assert row.price.mark == "list price, set yours"
        assert row.price.micros_per_hour > 0
        assert row.price.source
        assert row.price.currency == "USD"


def test_the_default_is_the_first_row_of_its_product():
    prices = {row.gpu_model: row.price.micros_per_hour for row in default_rows()}
    assert prices["H100-SXM-80GB"] == 6_880_000
    assert prices["A100-SXM-80GB"] == 3_430_881


def test_the_operators_own_price_goes_first_and_a_hosts_before_that():
    hosts = replace(ROW, host="gpu-7", price=replace(OWN, micros_per_hour=1_900_000))
    book = PriceBook([ROW, hosts])
    assert [price for _, price in book.timeline(H100, NOVEMBER, host="gpu-1").entries] == [OWN]
    assert book.timeline(H100, NOVEMBER, host="gpu-7").at(NOVEMBER.start) == hosts.price
    assert not OWN.mark


def test_outside_the_time_of_ones_own_price_the_list_price_holds():
    until = replace(ROW, valid=Span.of(day(1, 1), day(15)))
    found = PriceBook([until]).timeline(H100, NOVEMBER).entries
    assert [(span.length // 86_400_000_000, price.micros_per_hour, price.listed) for span, price in found] == [
        (14, 2_100_000, False),
        (16, 6_880_000, True),
    ]


def test_two_rows_for_the_same_at_one_time_are_refused():
    with pytest.raises(PriceError, match="two rows hold at once, from the beginning; write valid_to"):
        PriceBook([ROW, replace(ROW, price=replace(OWN, micros_per_hour=1))])
    wide = replace(ROW, name_pattern="H100")
    with pytest.raises(PriceError, match="both fit; write a narrower expression"):
        PriceBook([ROW, wide]).timeline(H100, NOVEMBER)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name_pattern": "("}, "no regular expression"),
        ({"price": replace(OWN, micros_per_hour=-1)}, "write at least 0"),
        ({"price": replace(OWN, currency="$")}, "code of three letters"),
        ({"mig_profile": "big"}, "write one like 1g.10gb"),
    ],
)
def test_a_row_that_cannot_work_is_refused(change: dict[str, object], told: str):
    with pytest.raises(PriceError, match=told):
        replace(ROW, **change)


# --- editions ----------------------------------------------------------------------------------------------------


def test_a_price_that_is_ended_or_added_later_leaves_a_past_period_its_version():
    then = PriceBook([replace(ROW, valid=Span.of(day(1, 1), day(1, 1).replace(year=2030)))])
    ended = replace(ROW, valid=Span.of(day(1, 1), day(10, 12)))
    following = replace(ROW, price=replace(OWN, micros_per_hour=9), valid=Span.of(day(10, 12), day(20, 12)))
    now = PriceBook([following, ended])
    assert now.version(NOVEMBER) == then.version(NOVEMBER)
    december = Span.of(day(1, 12), day(20, 12))
    assert now.version(december) != then.version(december)


def test_a_price_that_was_changed_within_the_period_changes_its_version():
    other = replace(ROW, price=replace(OWN, micros_per_hour=2_100_001))
    assert PriceBook([ROW]).version(NOVEMBER) != PriceBook([other]).version(NOVEMBER)


def test_the_order_of_rows_does_not_change_the_version():
    rows = default_rows()
    assert PriceBook([], rows).version(NOVEMBER) == PriceBook([], rows[::-1]).version(NOVEMBER)


def test_the_list_prices_of_a_past_month_stay_what_they_were():
    # A new list price is a new row with its own time, never an edit of an old one: this hash must not change.
    assert PriceBook().version(NOVEMBER) == "6c7895a648eb"


# --- owned and MIG -----------------------------------------------------------------------------------------------


def test_owned_hardware_costs_depreciation_opex_and_power():
    # 35,040 of 43,800 over 4 years = 1.00 an hour; 876 a year = 0.10; 0.5 kW x 1.2 x 0.30 = 0.18.
    owned = Owned(
        capex=Decimal(43_800), residual_ratio=Decimal("0.2"), years=Decimal(4), yearly_opex=Decimal(876),
        power_kilowatts=Decimal("0.5"), pue=Decimal("1.2"), price_per_kwh=Decimal("0.30"),
    )  # fmt: skip
    price = owned_price(owned, "EUR")
    assert (price.micros_per_hour, price.currency, price.listed) == (1_280_000, "EUR", False)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"years": Decimal(0)}, "owned.years"),
        ({"pue": Decimal("0.9")}, "owned.pue"),
        ({"residual_ratio": Decimal(2)}, "owned.residual_ratio"),
        ({"capex": Decimal(-1)}, "owned.capex"),
        ({"price_per_kwh": Decimal("NaN")}, "owned.price_per_kwh"),
    ],
)
def test_owned_hardware_that_cannot_be_meant_is_refused(change: dict[str, Decimal], told: str):
    with pytest.raises(PriceError, match=told):
        owned_price(replace(Owned(capex=Decimal(1), years=Decimal(1)), **change), "EUR")


def test_mig_devices_are_weighed_by_a_named_rule_and_the_rest_stays():
    profiles = ["3g.40gb", "2g.20gb", "1g.20gb"]
    assert mig_weights(profiles, "compute") == [3, 2, 1, 1]
    assert mig_weights(profiles, "memory", memory_gb=80) == [40, 20, 20, 0]
    assert mig_weights(["2g.12gb", "1g.6gb+me"], "compute", compute_slices=4) == [2, 1, 1]


@pytest.mark.parametrize(
    ("profiles", "rule", "told"),
    [
        (["4g.40gb", "4g.40gb"], "compute", "8 by compute, the GPU has 7"),
        (["whole"], "compute", "cannot be read"),
        (["1g.10gb"], "memory", "write how many"),
    ],
)
def test_mig_devices_that_cannot_be_are_refused(profiles: list[str], rule: str, told: str):
    with pytest.raises(PriceError, match=told):
        mig_weights(profiles, rule)  # type: ignore[arg-type]


def test_the_prices_of_slices_and_rest_add_up_to_the_gpus():
    whole = PriceBook().timeline(H100, NOVEMBER)
    parts = divided(whole, mig_weights(["3g.40gb", "2g.20gb"], "compute"))
    # 6.88/7 = 0.982857: 3 -> 2.948571, 2 -> 1.965714, rest 2 -> 1.965714; the odd micro-dollar to the first .43.
    at = [part.at(NOVEMBER.start).micros_per_hour for part in parts]
    assert sum(at) == 6_880_000
    assert at == [2_948_572, 1_965_714, 1_965_714]


def test_a_price_for_a_profile_is_for_that_profile_only():
    book = PriceBook([replace(ROW, mig_profile="1g.10gb")])
    assert book.timeline(f"{H100} MIG 1g.10gb", NOVEMBER, mig_profile="1g.10gb").at(NOVEMBER.start) == OWN
    assert book.timeline(H100, NOVEMBER).at(NOVEMBER.start).listed
    assert book.timeline(H100, NOVEMBER, mig_profile="2g.20gb").entries == ()
