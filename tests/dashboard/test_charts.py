import json
import math
from datetime import UTC, datetime, timedelta

import numpy as np

from dashboard import charts
from dashboard.streamlit_private import chart_json
from dashboard.theme import DARK, LIGHT
from fleet.model import Window

START = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)
WINDOW = Window(start=START, end=START + timedelta(minutes=10))
AXIS = charts.Axis.over(WINDOW, 60)


def line(*values, **more):
    return charts.Line(name="a", values=np.array(values, dtype=np.float32), **more)


def test_the_grid_covers_the_window_in_steps_aligned_to_the_epoch():
    assert (AXIS.points, AXIS.step_ms, AXIS.start_ms) == (10, 60_000, START.timestamp() * 1000)
    ragged = charts.Axis.over(Window(start=START + timedelta(seconds=30), end=START + timedelta(seconds=90)), 60)
    assert (ragged.points, ragged.start_ms) == (2, START.timestamp() * 1000)


def test_a_step_without_a_value_is_a_gap_and_never_zero():
    grid = AXIS.place([START, START + timedelta(minutes=2), None], [1.0, None, 5.0])
    assert grid[0] == 1.0
    assert np.isnan(grid[1:]).all()
    spec = charts.series("x", AXIS, [charts.Line(name="a", values=grid)], DARK)
    assert spec["data"][0]["connectgaps"] is False


def test_values_outside_the_window_are_left_out():
    grid = AXIS.place([START - timedelta(minutes=5), START + timedelta(hours=1)], [1.0, 1.0])
    assert np.isnan(grid).all()


def test_numbers_travel_as_typed_arrays_and_the_figure_is_valid_json():
    spec = charts.series("Memory", AXIS, [line(*[3e9] * 10)], LIGHT, unit="B")
    sent = json.loads(chart_json(spec))
    assert sent["data"][0]["y"]["dtype"] == "f4"
    assert "GiB" in sent["layout"]["title"]["text"]
    assert math.isclose(spec["data"][0]["y"][0], 3e9 / 2**30, rel_tol=1e-6)
    assert len(chart_json(spec)) < 3_000


def test_plotly_itself_accepts_every_figure():
    import plotly.graph_objects as go

    marks = [charts.Mark(at=START + timedelta(minutes=1), label="deploy")]
    lines = [line(*range(10), stacked=True), line(*range(10), stacked=True), line(*range(10), band=True)]
    spec = charts.series("x", AXIS, lines, DARK, unit="%", marks=marks, limit=(5.0, "limit"), ceiling=1.0)
    go.Figure(spec)
    go.Figure(charts.heatmap("x", AXIS, ["a", "b"], np.zeros((2, 10), dtype=np.float32), DARK))


def test_names_of_the_fleet_cannot_bring_html_into_a_figure():
    hostile = '<a href="javascript:alert(1)">x</a>'
    marks = [charts.Mark(at=START + timedelta(minutes=1), label=hostile)]
    spec = charts.series(
        "x", AXIS, [charts.Line(name=hostile, values=np.ones(10, dtype=np.float32))], DARK, marks=marks
    )
    assert "<a" not in chart_json({"data": spec["data"], "notes": spec["layout"]["annotations"]})


def test_labels_of_marks_do_not_run_into_one_another_but_every_mark_has_its_line():
    marks = [charts.Mark(at=START + timedelta(minutes=5, seconds=s), label="m") for s in range(5)]
    layout = charts.series("x", AXIS, [line(*[1] * 10)], DARK, marks=marks)["layout"]
    assert len(layout["shapes"]) == 5
    assert len(layout["annotations"]) == 1


def test_time_that_a_stack_did_not_see_is_covered_not_bridged():
    values = [1, 1, math.nan, math.nan, 1, 1, 1, 1, 1, 1]
    layout = charts.series("x", AXIS, [line(*values, stacked=True)], DARK)["layout"]
    covers = [shape for shape in layout["shapes"] if shape["type"] == "rect"]
    assert [(c["x0"] - AXIS.start_ms, c["x1"] - AXIS.start_ms) for c in covers] == [(60_000, 240_000)]


def test_a_figure_without_any_value_still_has_an_axis():
    spec = charts.series("x", AXIS, [line(*[math.nan] * 10)], DARK)
    assert spec["layout"]["yaxis"]["range"] == [0, 1]
