"""Words and figures of the GPUs page, worked out by hand."""

from dashboard import gpu_panels
from dashboard.theme import LIGHT


def test_the_funnel_names_the_threshold_of_each_stage():
    hours = [
        {"stage": stage, "gpu_hours": value, "share": value / 16, "idle_below": 0.05, "busy_from": 0.5}
        for stage, value in (("total", 16.0), ("allocated", 12.0), ("active", 8.0), ("effective", 4.0))
    ]
    figure = gpu_panels.funnel_figure(hours, ["a", "b", "c", "<d>"], LIGHT)
    trace = figure["data"][0]
    assert trace["x"] == [100.0, 75.0, 50.0, 25.0]
    assert ["≥ 5 % SM" in name for name in trace["y"]] == [False, False, True, False]
    assert ["≥ 50 % SM" in name for name in trace["y"]] == [False, False, False, True]
    assert trace["textposition"] == ["inside", "inside", "inside", "outside"]
    assert trace["text"][3] == "&lt;d&gt;"


def test_code_of_a_finding_is_code_and_the_rest_of_it_is_inert():
    said = gpu_panels.with_code('x_y did not start. Write `device_ids: ["GPU-1"]` under deploy, or *not*.')
    assert said == 'x\\_y did not start\\. Write `device_ids: ["GPU-1"]` under deploy, or \\*not\\*\\.'
    assert gpu_panels.with_code("a stray ` in a name") == "a stray in a name"
    assert "`" not in gpu_panels.with_code("`" * 3)


def test_what_slowed_a_gpu_comes_with_its_share_of_the_time():
    span = {"throttle_words": ["power cap reached", "too hot"], "throttle_ratios": [0.37, 0.004]}
    assert gpu_panels.slowed_words(span) == "power cap reached 37 %, too hot < 1 %"
    assert gpu_panels.slowed_words({}) == ""


def test_errors_are_told_with_the_next_step_and_the_judgement_only_without_them():
    row = {"why": "row remapping pending"}
    span = {"xid_words": ["XID 94: contained. Restart it."], "ecc_uncorrected": 2, "recovery_words": ""}
    assert gpu_panels.error_words(row, span) == "XID 94: contained. Restart it.; 2 uncorrectable memory errors (ECC)"
    assert gpu_panels.error_words(row, {}) == "row remapping pending"
    assert gpu_panels.error_words({"why": ""}, {}) == ""


def test_reasons_name_metrics_as_the_pages_do():
    reason = "SM activity needs Hopper or newer (GPM): sm_active_ratio, tensor_active_ratio; no permission"
    assert gpu_panels.reason_words(reason) == ["SM activity needs Hopper or newer (GPM): SM, tensor", "no permission"]
    assert gpu_panels.reason_words(None) == []
    told = gpu_panels.untold_words([{"unknown_reason": "a: busy_ratio"}, {"unknown_reason": "a: busy_ratio"}])
    assert "busy (2 devices)" in told
    assert gpu_panels.untold_words([{"unknown_reason": ""}]) == ""


def test_power_stands_against_its_limit_and_is_empty_where_nobody_tells_it():
    assert gpu_panels.power_words(553.4, 700.0) == "553 / 700 W"
    assert gpu_panels.power_words(53.0, None) == "53 W"
    assert gpu_panels.power_words(None, 700.0) == ""
