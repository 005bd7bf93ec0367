from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from fleet.cost_intervals import Span, instant
from fleet.price_file import Energy, PriceFileError, load_prices

BERLIN = ZoneInfo("Europe/Berlin")
A100 = "NVIDIA A100-SXM4-80GB"


def test_own_prices_owned_hardware_and_energy_are_read():
    text = """
[[price]]
gpu = "A100-SXM-80GB"
per_hour = 2.10
currency = "EUR"
valid_from = 2026-11-01
valid_to = 2026-12-01
source = "contract 4711"
as_of = 2026-10-15
[[owned]]
name = "^NVIDIA L40$"
host = "cellar"
capex = 8760
years = 1
[energy]
price_per_kwh = 0.30
pue = 1.2
grid_gco2_per_kwh = 380
source = "invoice"
"""
    book, energy = load_prices(text, origin="prices.toml", zone=BERLIN)
    month = Span(instant(datetime(2026, 10, 31, tzinfo=UTC)), instant(datetime(2026, 12, 1, tzinfo=UTC)))
    spans = book.timeline(A100, month).entries
    # A date is the site's: midnight in Berlin is 23:00 UTC of the day before.
    assert [(price.micros_per_hour, price.currency, span.length // 3_600_000_000) for span, price in spans] == [
        (3_430_881, "USD", 23),
        (2_100_000, "EUR", 720),
        (3_430_881, "USD", 1),
    ]
    assert book.timeline("NVIDIA L40", month, host="cellar").at(month.start).micros_per_hour == 1_000_000
    assert book.timeline("NVIDIA L40", month, host="attic").entries == ()
    assert energy == Energy(
        price_per_kwh=Decimal("0.30"), pue=Decimal("1.2"), grid_gco2_per_kwh=Decimal(380), source="invoice"
    )


def test_an_empty_file_leaves_the_list_prices_and_nothing_known_of_energy():
    book, energy = load_prices("", origin="prices.toml", zone=BERLIN)
    assert len(book.rows) == 22
    assert energy == Energy()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a = [", "not TOML"),
        ("[prices]", "prices is not known; write [[price]]"),
        ("price = 1", "price is no list"),
        ('[[price]]\ngpu = "A100"\nper_hour = 1', "price 1.gpu is 'A100'; write one of B300"),
        ("[[price]]\nper_hour = 1", "price 1 names no GPU; write gpu or name"),
        ('[[price]]\ngpu = "T4"\nname = "x"\nper_hour = 1', "price 1 has both gpu and name"),
        ('[[price]]\ngpu = "T4"', "price 1 has no per_hour"),
        ('[[price]]\ngpu = "T4"\nper_hour = -1', "price 1.per_hour: found -1;"),
        ('[[price]]\ngpu = "T4"\nper_hour = nan', "write a finite number"),
        ('[[price]]\ngpu = "T4"\nper_hour = 1\nprice = 2', "price 1.price is not known"),
        ('[[price]]\ngpu = "T4"\nper_hour = 1\nvalid_from = "soon"', "price 1.valid_from is 'soon'"),
        ('[[price]]\ngpu = "T4"\nper_hour = 1\nvalid_from = 2026-01-02\nvalid_to = 2026-01-01', "not after valid_from"),
        ('[[price]]\ngpu = "T4"\nper_hour = 1\nvalid_from = 2026-10-25T02:30:00', "happens twice"),
        ('[[price]]\ngpu = "T4"\nper_hour = 1\ncurrency = "€"', "three letters"),
        ('[[price]]\nname = "("\nper_hour = 1', "no regular expression"),
        ('[[owned]]\ngpu = "T4"\nyears = 3', "owned 1 has no capex"),
        ('[[owned]]\ngpu = "T4"\ncapex = 1\nyears = 0', "owned.years"),
        ("[energy]\npue = 0.5", "energy.pue is 0.5; write a ratio of at least 1"),
        ("[energy]\nkwh = 1", "energy.kwh is not known"),
        ('[[price]]\ngpu = "T4"\nper_hour = 1\n[[price]]\ngpu = "T4"\nper_hour = 2', "two rows hold at once"),
    ],
)
def test_a_bad_file_gets_one_clear_error(text: str, told: str):
    with pytest.raises(PriceFileError) as caught:
        load_prices(text, origin="prices.toml", zone=BERLIN)
    assert len(caught.value.mistakes) == 1
    assert caught.value.mistakes[0].startswith("prices.toml: ")
    assert told in caught.value.mistakes[0]


def test_all_mistakes_are_told_at_once():
    with pytest.raises(PriceFileError) as caught:
        load_prices('[[price]]\ngpu = "T4"\n[[price]]\nper_hour = "x"\n', origin="p.toml", zone=BERLIN)
    assert len(caught.value.mistakes) == 3
