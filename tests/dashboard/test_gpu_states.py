"""GPU time by state as bars: sums, words, thresholds, patterns."""

import json

from dashboard import gpu_states
from dashboard.theme import DARK, LIGHT


def seconds(**states):
    return {f"{state}_seconds": states.get(state, 0.0) for state in gpu_states.STATES}


def test_a_bar_adds_up_its_rows_and_says_its_shares():
    bar = gpu_states.bar_of("all", [seconds(busy=1800, low=900), seconds(busy=0, held_idle=900)])
    assert bar.whole == 3600
    assert gpu_states.words(bar) == "busy 50 %, low 25 %, held idle 25 %"


def test_what_a_scope_may_not_know_stays_out_of_its_bar():
    rows = [{**seconds(busy=60), "free_seconds": None, "gap_seconds": None}]
    bar = gpu_states.bar_of("mine", rows)
    assert (bar.seconds["free"], bar.whole) == (None, 60)
    assert gpu_states.words(gpu_states.bar_of("none", [])) == "nothing was seen"


def test_the_thresholds_stand_in_the_legend_and_no_state_goes_by_colour_alone():
    bars = [gpu_states.bar_of("all", [seconds(busy=10, low=10, held_idle=10, free=10, unknown=10, gap=10)])]
    for colours in (LIGHT, DARK):
        traces = gpu_states.figure(bars, colours, 0.05, 0.5)["data"]
        assert [trace["name"] for trace in traces] == [
            "busy ≥ 50 %", "low 5–50 %", "held idle < 5 %", "free", "unknown", "gap",
        ]  # fmt: skip
        looks = {(trace["marker"]["color"], str(trace["marker"].get("pattern"))) for trace in traces}
        assert len(looks) == 6
        for trace in traces:
            assert abs(trace["x"][0] - 100 / 6) < 0.01


def test_a_state_that_did_not_occur_is_not_in_the_legend():
    bars = [gpu_states.bar_of("all", [seconds(busy=10)])]
    assert [trace["name"] for trace in gpu_states.figure(bars, DARK, 0.05, 0.5)["data"]] == ["busy ≥ 50 %"]


def test_a_hostile_name_stays_text_in_a_bar():
    bars = [gpu_states.bar_of("<a href='x'>x</a>", [seconds(busy=10)])]
    assert "<a" not in json.dumps(gpu_states.figure(bars, DARK, 0.05, 0.5))
