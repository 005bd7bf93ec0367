"""Figures of the container's page."""

import numpy as np

from dashboard import charts, container_panels
from dashboard.theme import DARK


def test_throttling_lies_over_the_cpu_on_an_axis_of_its_own():
    axis = charts.Axis(start_ms=0.0, step_ms=1000.0, points=3)
    figure = charts.series("CPU", axis, [charts.Line(name="cores", values=np.ones(3, np.float32))], DARK, unit="cores")
    nothing = np.array([0.0, np.nan, 0.0], np.float32)
    container_panels.overlay_share(figure, axis, "throttled periods", nothing, DARK)
    assert len(figure["data"]) == 1
    container_panels.overlay_share(figure, axis, "throttled periods", np.array([0, 0.25, np.nan], np.float32), DARK)
    trace = figure["data"][1]
    assert (trace["yaxis"], list(trace["y"])[:2]) == ("y2", [0.0, 25.0])
    assert np.isnan(trace["y"][2])
    assert figure["layout"]["yaxis2"]["range"] == [0, 100]
