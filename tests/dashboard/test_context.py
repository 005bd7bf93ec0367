from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard import context
from fleet.model import Window

NOW = datetime(2026, 11, 22, 14, 0, tzinfo=UTC)


def test_an_empty_address_is_the_whole_fleet_in_the_last_hour():
    view, wrong = context.read({}, NOW)
    assert view == context.Context()
    assert wrong == ()
    assert view.window(NOW) == Window(start=NOW - timedelta(hours=1), end=NOW)
    assert view.params() == {}


def test_a_view_reopens_from_its_own_link():
    view = context.Context(tenant="a&b=c", host="h/1", range_name="24h", refresh_seconds=60)
    link = view.link("container", id="h:proj/svc/1")
    params = dict(parse_qsl(urlsplit(link).query))
    again, wrong = context.read(params, NOW)
    assert wrong == ()
    assert (again.tenant, again.host, again.range_name, again.refresh_seconds) == ("a&b=c", "h/1", "24h", 60)
    assert again.subject == "h:proj/svc/1"


def test_a_shared_link_holds_the_absolute_window():
    frozen = context.Context(range_name="6h").absolute(NOW)
    again, wrong = context.read(frozen.params(), NOW)
    assert wrong == ()
    assert again.frozen == Window(start=NOW - timedelta(hours=6), end=NOW)
    assert not again.live


def test_from_and_to_may_be_written_as_times():
    view, wrong = context.read({"from": "2026-11-22T13:00Z", "to": "2026-11-22T14:00+01:00"}, NOW)
    assert wrong == ("from is not before to",)
    assert view.frozen is None
    view, wrong = context.read({"from": "2026-11-22 12:00", "to": "2026-11-22T13:00Z"}, NOW)
    assert wrong == ()
    assert view.window(NOW).seconds == 3600


@pytest.mark.parametrize(
    "params",
    [
        {"range": "<script>"},
        {"tenant": "x" * 201},
        {"host": "a\x00b"},
        {"every": "-1"},
        {"from": "1"},
        {"from": "yesterday", "to": "now"},
        {"from": "0001-01-01T00:00+14:00", "to": "9999-12-31T23:59-14:00"},
        {"from": "9999999999", "to": "99999999999"},
    ],
)
def test_values_that_cannot_be_used_are_named_and_replaced_by_the_default(params):
    view, wrong = context.read(params, NOW)
    assert len(wrong) == 1
    assert view == context.Context()
    assert not any(value in wrong[0] for value in params.values() if len(value) > 3)


@given(st.dictionaries(st.sampled_from([*context.SHARED, "id"]), st.text(max_size=60)))
def test_no_address_raises(params):
    view, _ = context.read(params, NOW)
    view.window(NOW)
    context.read(view.params(), NOW)
