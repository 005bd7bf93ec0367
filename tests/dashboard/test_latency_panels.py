from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from dashboard import latency_panels as panels
from dashboard import token_panels
from dashboard.look import SourceState
from dashboard.streamlit_private import chart_json
from dashboard.theme import DARK, LIGHT, Status
from queries.answer import Answer

END = datetime(2026, 11, 22, 15, 0, tzinfo=UTC)


class Look:
    """What the words and figures need of a look."""

    def __init__(self, colours=DARK, prometheus=Status.OK):
        self.colours = colours
        self.sources = (SourceState(name="Prometheus", newest=END, status=prometheus),)
        self.window = type("Window", (), {"end": END})()


def quantile(state, value=None, lower=None, upper=None, **more):
    return {
        "ttft_p95_state": state, "ttft_p95_seconds": value, "ttft_p95_lower": lower, "ttft_p95_upper": upper,
        "ttft_mean_seconds": 0.4, "ttft_count": 12.0, **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "words", "between"),
    [
        (quantile("ok", 0.62, 0.5, 0.75), "0.62 s", "0.5 s to 0.75 s"),
        (quantile("ok", 0.05, 0.0, 0.3), "≤ 0.3 s", "0 s to 0.3 s"),
        (quantile("beyond", None, 30.0, None), "≥ 30 s", "> 30 s"),
        (quantile("beyond", None, None, None), "beyond", ""),
        (quantile("too_few"), "few (12)", ""),
        (quantile("no_traffic"), "no traffic", ""),
        (quantile("mean_only"), "mean 0.4 s", ""),
        (quantile("not_measured"), "–", ""),
    ],
)
def test_a_percentile_is_said_as_precisely_as_it_is_known(row, words, between):
    assert panels.quantile_words(row, "ttft", "p95") == words
    assert panels.interval_words(row, "ttft", "p95") == between


def test_a_change_is_marked_only_when_it_is_sure():
    now = {"ttft_p95_lower": 1.0}
    assert panels.before_words({**now, "ttft_before_seconds": 0.4, "ttft_changed": True}, "ttft") == "0.4 s ▲"
    assert panels.before_words({**now, "ttft_before_seconds": 4.0, "ttft_changed": True}, "ttft") == "4 s ▼"
    assert panels.before_words({**now, "ttft_before_seconds": 0.4, "ttft_changed": False}, "ttft") == "0.4 s"
    assert panels.before_words({**now, "ttft_before_seconds": None, "ttft_changed": None}, "ttft") == ""


def promise(level=0, words="met", ratio=0.99, **more):
    return {
        "level": level, "words": words, "met_ratio": ratio, "tenant": "acme", "model": "org/llama", "name": "fast",
        "since": None, "target_seconds": 2.0, "at_seconds": 2.0, "objective_ratio": 0.95, "window_days": 30.0,
        "field": "ttft_seconds", "assumed": False, **more,
    }  # fmt: skip


def test_the_sentence_says_who_breaks_a_promise_and_since_when():
    burning = promise(3, "burning 14x: budget gone in 2 h", since=END - timedelta(minutes=58))
    said = panels.sentence([burning, promise(2), promise()], Look())
    assert "✖" in said
    assert "acme · llama" in said.replace("\\", "")
    assert "burning 14x: budget gone in 2 h" in said.replace("\\", "")
    assert "since 14:02" in said.replace("\\", "")
    assert "and 1 more of 3" in said
    long = promise(3, "burning 14x, budget already gone")
    assert "since more than 6 h ago" in panels.sentence([long], Look()).replace("\\", "")


def test_the_sentence_is_green_only_when_something_was_counted():
    assert "green" in panels.sentence([promise(), promise(1, "not measured", None)], Look())
    assert "1 cannot be counted" in panels.sentence([promise(), promise(1, "not measured", None)], Look())
    for rows in ([promise(1, "not measured", None)], [promise(0, "no requests", None)], []):
        assert "green" not in panels.sentence(rows, Look())
    # What was kept until the readings stopped says nothing of now.
    silent = panels.sentence([promise()], Look(prometheus=Status.WARNING))
    assert "green" not in silent
    assert "1 promise kept as far as seen; Prometheus is silent" in silent


def test_names_of_the_fleet_stay_inert_in_the_sentence():
    said = panels.sentence([promise(3, model="[x](http://evil.example)")], Look())
    assert "](http" not in said


def test_a_promise_says_where_it_is_really_counted():
    assert panels.promise_words(promise()) == "fast: 95 % in 2 s, 30 d"
    assert panels.promise_words(promise(at_seconds=2.5)) == "fast: 95 % in 2 s ≈ 2.5 s, 30 d"
    assert panels.promise_words(promise(objective_ratio=0.999)) == "fast: 99.9 % in 2 s, 30 d"


def test_the_tightest_target_of_a_duration_is_drawn():
    rows = [promise(), promise(target_seconds=0.5), promise(target_seconds=9.0, field="e2e_seconds")]
    assert panels.limit_of(rows, "ttft_seconds") == (0.5, "promise 0.5 s, tightest of 2")
    assert panels.limit_of(rows, "itl_seconds") is None


def test_different_ladders_are_said_with_whose_they_are():
    row = {"ttft_ladders": 2, "ttft_odd": ["h:old", "h:older", "h:oldest"]}
    assert panels.ladder_words(row, "ttft") == "2 ladders: old, older…"
    assert panels.ladder_words({**row, "ttft_ladders": 1}, "ttft") == ""


def heat(*rows, ladders=1):
    names = ("t", "lower", "upper", "count", "share", "ladders")
    table = pa.table({name: [row.get(name, ladders) for row in rows] for name in names})
    return Answer(rows=table, as_of=None, coverage=1.0)


@pytest.mark.parametrize("colours", [DARK, LIGHT])
def test_the_heatmap_has_slow_on_top_counts_on_hover_and_nothing_where_nobody_was(colours):
    import plotly.graph_objects as go

    cells = [
        {"t": minute * 60_000.0, "lower": lower, "upper": upper, "count": count, "share": 0.5}
        for minute, counts in ((0, (3.0, 1.0, 0.0)), (2, (0.0, 2.0, 4.0)))
        for (lower, upper), count in zip(((0.0, 0.1), (0.1, 0.5), (0.5, None)), counts, strict=True)
    ]
    figure = panels.heat_figure(Look(colours), heat(*cells), "First token")
    trace = figure["data"][0]
    assert list(figure["layout"]["yaxis"]["ticktext"]) == ["> 0.5 s", "≤ 0.5 s", "≤ 0.1 s"]
    assert trace["customdata"].shape == (3, 2)  # steps of two minutes
    assert trace["customdata"][0][1] == 4.0
    assert math.isnan(trace["customdata"][0][0])
    assert np.nanmax(trace["z"]) == pytest.approx(100.0)
    go.Figure(figure)
    assert chart_json(figure)


def test_only_events_of_what_serves_are_marked():
    rows = [
        {"kind": "start", "container_key": "h:a"}, {"kind": "start", "container_key": "h:crash"},
        {"kind": "xid", "container_key": ""}, {"kind": "exec", "container_key": "h:a"},
    ]  # fmt: skip
    assert panels.marked(rows, [{"container_key": "h:a"}]) == [rows[0], rows[2]]


def test_the_pace_of_one_user_is_said_as_precisely_as_it_is_known():
    known = {"user_tokens_per_second": 33.3, "user_tokens_lower": 25.0, "user_tokens_upper": 50.0, "user_state": "ok"}
    assert token_panels.speed_words(known) == "33.3"
    assert token_panels.between_words(known) == "25 to 50"
    slow = {"user_tokens_per_second": None, "user_tokens_lower": None, "user_tokens_upper": 0.5, "user_state": "beyond"}
    assert token_panels.speed_words(slow) == "≤ 0.5"
    assert token_panels.between_words(slow) == ""
    assert token_panels.speed_words({**slow, "user_state": "not_measured"}) == "–"
