import csv
import io
import math

import pyarrow as pa
from streamlit.testing.v1 import AppTest

from dashboard import panels
from fleet.model import Gap


def test_csv_holds_what_is_shown_and_runs_nothing_in_a_spreadsheet():
    text = panels.as_csv({"name": ["=cmd|' /C calc'!A0", 'a,"b"\n'], "CPU": [-1.5, None], "@x": ["", "+1"]})
    assert list(csv.reader(io.StringIO(text))) == [
        ["name", "CPU", "'@x"],
        ["'=cmd|' /C calc'!A0", "-1.5", ""],
        ['a,"b"\n', "", "'+1"],
    ]


def test_sparklines_keep_spikes_and_never_grow():
    values = [0.0] * 500
    values[333] = 1.0
    line = panels.spark_array([values, None, [None] * 500, [None] * 400 + [0.5] + [None] * 99]).to_pylist()
    assert len(line[0]) == 24
    assert max(line[0]) == 100
    assert line[1:] == [None, None, [50] * 24]


def test_a_sparkline_bridges_what_was_not_seen_with_the_value_before():
    assert panels.spark_array([[None, 0.25, None, 0.75], None]).to_pylist() == [[25, 25, 25, 75], None]
    assert panels.spark_array([[1.4, -0.1]]).to_pylist() == [[100, 0]]  # a share cannot leave 0-100
    assert panels.spark_array([None, []]).to_pylist() == [None, None]
    assert panels.spark_array([]).to_pylist() == []


def test_a_number_whose_trend_has_a_gap_is_shown_with_the_gap():
    # Overview fell over as a whole when one minute of one trend had not been seen: st.metric refuses None.
    def page():
        from dashboard.panels import Card, cards

        cards([Card(label="p95 TTFT", value="0.6 s", spark=(0.5, None, 0.7))])

    app = AppTest.from_function(page).run()
    assert not app.exception
    first, gap, last = app.metric[0].proto.chart_data
    assert (first, last) == (0.5, 0.7)
    assert math.isnan(gap)


def test_a_gap_is_said_in_words_and_escaped():
    words = panels.gap_words([Gap(subject="<b>gpu</b>", reason="timeout", detail="")] * 5, 0.9, limit=2)
    assert words.startswith("▲ 90 % of the expected readings")
    assert "<b>" not in words.replace("\\<", "")
    assert words.endswith("and 3 more on the Status page")
    assert panels.gap_words([], 1.0) == ""


def test_a_click_opens_the_row_that_was_on_screen_even_if_the_order_changed_since():
    def page():
        import streamlit as st

        from dashboard import panels

        order = st.session_state.get("order", ["a", "b"])
        st.session_state["order"] = ["b", "a"]
        panels.table(
            {"name": order}, [panels.Column(name="name", label="name")], key="t", alt="t", ids=order,
            on_pick=lambda name: st.write(f"picked {name}"),
        )  # fmt: skip

    app = AppTest.from_function(page).run()
    app.session_state["t"] = {"selection": {"rows": [], "columns": [], "cells": [(0, "name")]}}
    app.run()
    assert [m.value for m in app.markdown] == ["picked a"]


def test_strings_are_sent_once_each():
    array = panels._array(["x", "x", None], panels.Column(name="a", label="a"))
    assert pa.types.is_dictionary(array.type)
    assert array.to_pylist() == ["x", "x", None]


def test_unknown_stays_unknown_in_every_kind_of_column():
    for kind in ("text", "number", "bar", "percent"):
        assert panels._array([None], panels.Column(name="a", label="a", kind=kind)).to_pylist() == [None]
