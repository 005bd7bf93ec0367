from __future__ import annotations

from datetime import UTC, date, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.cost_intervals import (
    IntervalError,
    Span,
    Timeline,
    instant,
    local_instant,
    merged,
    moment,
    pieces,
    site_days,
)

HOUR = 3_600_000_000
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(IntervalError, match="has no time zone"):
        instant(datetime(2026, 11, 1))  # noqa: DTZ001


def test_an_instant_is_exact_and_comes_back():
    precise = datetime(2026, 11, 22, 9, 43, 42, 123457, tzinfo=UTC)
    assert moment(instant(precise)) == precise


def test_a_span_that_ends_before_it_starts_is_refused_and_an_empty_one_is_not():
    with pytest.raises(IntervalError, match="before it starts"):
        Span(2, 1)
    assert Span(1, 1).length == 0


@pytest.mark.parametrize(
    ("span", "common"),
    [
        (Span(0, 5), Span(2, 5)),
        (Span(3, 4), Span(3, 4)),
        (Span(0, 1), Span(2, 2)),
        (Span(9, 12), Span(8, 8)),
        (Span(0, 20), Span(2, 8)),
    ],
)
def test_the_common_part_of_two_spans(span: Span, common: Span):
    assert span.within(Span(2, 8)) == common


def test_values_hold_over_their_spans_and_nothing_holds_in_a_hole():
    line = Timeline([(Span(10, 20), "b"), (Span(0, 5), "a"), (Span(5, 5), "empty")])
    assert [line.at(instant) for instant in (-1, 0, 4, 5, 9, 10, 19, 20)] == [
        None, "a", "a", None, None, "b", "b", None,
    ]  # fmt: skip


def test_two_values_at_once_are_refused_with_both_spans():
    with pytest.raises(IntervalError, match="prices overlap: 1970-01-01T00:00:00Z to 1970-01-01T02:00:00Z and"):
        Timeline([(Span(0, 2 * HOUR), 1), (Span(HOUR, 3 * HOUR), 1)], what="prices")


def test_a_value_is_carried_into_the_hole_after_it_for_so_long_only():
    line = Timeline([(Span(0, 10), "a"), (Span(12, 20), "b"), (Span(50, 60), "c")]).carried(5)
    assert [span for span, _ in line.entries] == [Span(0, 12), Span(12, 25), Span(50, 65)]


def test_pieces_are_cut_at_edges_inside_only():
    assert list(pieces(Span(0, 10), [5, 5, 0, 10, 11, -1, 7])) == [Span(0, 5), Span(5, 7), Span(7, 10)]
    assert list(pieces(Span(3, 3), [3])) == []


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=12))
def test_a_union_covers_the_same_instants_without_overlaps(pairs: list[tuple[int, int]]):
    spans = [Span(start, start + length) for start, length in pairs]
    union = merged(spans)
    assert {t for span in union for t in range(span.start, span.end)} == {
        t for span in spans for t in range(span.start, span.end)
    }
    assert all(before.end < after.start for before, after in pairwise(union))


@pytest.mark.parametrize(
    ("day", "zone", "hours"),
    [
        ("2026-03-29", "Europe/Berlin", 23),
        ("2026-10-25", "Europe/Berlin", 25),
        ("2026-11-22", "Europe/Berlin", 24),
        ("2026-03-08", "America/New_York", 23),
        ("2026-11-01", "America/New_York", 25),
        ("2026-11-22", "Asia/Kolkata", 24),
        ("2018-11-04", "America/Sao_Paulo", 23),  # clocks skipped midnight itself
        ("2018-02-17", "America/Sao_Paulo", 25),  # and showed the hour before it twice
        ("2016-12-31", "UTC", 24),  # a leap second at its end: no clock counts it
    ],
)
def test_a_day_is_as_long_as_the_sites_clocks_make_it(day: str, zone: str, hours: int):
    whole = Span.of(at(f"{day}T00:00:00+00:00"), at(f"{day}T23:59:59+00:00"))
    around = Span(whole.start - 30 * HOUR, whole.end + 30 * HOUR)
    spans = {found: span for span, found in site_days(around, ZoneInfo(zone)).entries}
    assert spans[date.fromisoformat(day)].length == hours * HOUR


def test_a_day_that_a_site_skipped_does_not_exist():
    # Samoa went from 29 to 31 December 2011.
    around = Span.of(at("2011-12-28T00:00:00+00:00"), at("2012-01-02T00:00:00+00:00"))
    days = [day.day for _, day in site_days(around, ZoneInfo("Pacific/Apia")).entries]
    assert days == [27, 28, 29, 31, 1, 2]


@given(
    st.datetimes(datetime(2015, 1, 1), datetime(2030, 1, 1)),  # noqa: DTZ001
    st.integers(0, 100 * HOUR),
    st.sampled_from(["UTC", "Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe", "Pacific/Apia"]),
)
def test_days_cover_a_window_without_hole_or_overlap(start: datetime, length: int, zone: str):
    begin = instant(start.replace(tzinfo=UTC))
    whole = Span(begin, begin + length)
    days = site_days(whole, ZoneInfo(zone)).entries
    assert sum(span.length for span, _ in days) == length
    for span, day in days:
        assert moment(span.start).astimezone(ZoneInfo(zone)).date() == day
        assert moment(span.end - 1).astimezone(ZoneInfo(zone)).date() == day


def test_a_local_time_is_read_by_the_sites_clock():
    assert moment(local_instant(at("2026-07-01T12:00:00"), BERLIN)) == at("2026-07-01T10:00:00+00:00")


@pytest.mark.parametrize(
    ("text", "told"), [("2026-03-29T02:30:00", "does not exist"), ("2026-10-25T02:30:00", "happens twice")]
)
def test_a_local_time_that_clocks_skip_or_repeat_is_refused(text: str, told: str):
    with pytest.raises(IntervalError, match=told):
        local_instant(at(text), BERLIN)
