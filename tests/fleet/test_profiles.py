"""Profiles are data: what the shipped one finds in recorded texts, and how every mistake in a file is reported."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fleet.model import InferenceSample
from fleet.profiles import SAMPLE_FIELDS, ProfileError, builtin_profiles, load_profile

RECORDED = Path(__file__).parents[1] / "recorded"
GOOD = """
id = "mine"
title = "Mine"
source = "our own server"
anchors = ["my_running"]
[labels]
model = ["model"]
[fields.requests]
metric = "my_requests_total"
type = "counter"
[fields.e2e_seconds]
metric = "my_latency_ms"
type = "histogram"
scale = 0.001
"""


def vllm():
    return next(profile for profile in builtin_profiles() if profile.id == "vllm")


def names_in(text):
    return set(re.findall(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)", text, flags=re.MULTILINE))


def found_in(recording, profile):
    names = names_in((RECORDED / recording).read_text())
    ends = {"counter": "", "gauge": "", "histogram": "_bucket"}
    return {
        (field.type, field.name): next((m for m in field.metrics if m + ends[field.type] in names), None)
        for field in (*profile.samples, *profile.histograms)
    }


def test_every_field_of_vllm_is_found_in_a_recording_of_its_present_names():
    found = found_in("vllm_0.33_synth_from_source.prom", vllm())
    assert None not in found.values()
    assert len(found) == 14


def test_old_vllm_is_found_through_aliases_and_lacks_only_what_it_never_had():
    found = found_in("vllm_v0_june2024_opt125m.prom", vllm())
    assert found["gauge", "kv_cache_ratio"] == "vllm:gpu_cache_usage_perc"
    assert found["histogram", "itl_seconds"] == "vllm:time_per_output_token_seconds"
    missing = {key for key, metric in found.items() if metric is None}
    assert missing == {("counter", "cached_tokens"), ("histogram", "queue_seconds")}


def test_both_recordings_carry_an_anchor():
    for recording in ("vllm_0.33_synth_from_source.prom", "vllm_v0_june2024_opt125m.prom"):
        assert set(vllm().anchors) & names_in((RECORDED / recording).read_text())


def test_every_sample_field_is_a_column():
    assert SAMPLE_FIELDS.keys() <= InferenceSample.__dataclass_fields__.keys()


def test_errors_take_only_the_finished_reasons_that_are_errors():
    errors = next(field for field in vllm().samples if field.name == "errors")
    assert [errors.accepts({"finished_reason": r}) for r in ("stop", "length", "abort", "error", "error2")] == [
        False, False, True, True, False,
    ]  # fmt: skip
    assert not errors.accepts({})


def test_a_good_file_is_read_with_its_scale_and_model_label():
    profile = load_profile(GOOD, origin="mine.toml")
    assert profile.model({"model": "llama"}) == "llama"
    assert profile.model({}) == ""
    assert profile.histograms[0].scale == 0.001
    assert profile.samples[0].metrics == ("my_requests_total",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('type = "counter"', 'type = "count"'), "fields.requests.type is 'count'; write one of counter"),
        (('type = "counter"', 'type = "gauge"'), "fields.requests is a gauge stored as 'requests'; a gauge can fill"),
        (('metric = "my_requests_total"', ""), "fields.requests.metric is missing"),
        (("my_requests_total", 'x{a=\\"b\\"}'), "labels go into match"),
        (("scale = 0.001", "scale = 0"), "fields.e2e_seconds.scale is 0; write a number above 0"),
        (("[fields.e2e_seconds]", "[fields.latency]"), "fields.latency would be stored as 'latency'"),
        (('anchors = ["my_running"]', "anchors = []"), "anchors is missing or empty"),
        (('id = "mine"', 'id = "My Server"'), "id is 'My Server'; use small letters"),
        (('title = "Mine"', 'titel = "Mine"'), "titel is not known"),
        (('model = ["model"]', 'gpu = ["t"]'), "labels.gpu is not known; for inference, use one of model, tenant"),
        (("scale = 0.001", 'combine = "max"'), "only gauges take the maximum"),
        (("scale = 0.001", 'match = { code = "(" }'), "no regular expression"),
        (("scale = 0.001", "match = 3"), "fields.e2e_seconds.match is 3"),
        (("scale = 0.001", "aliases = 3"), "fields.e2e_seconds.aliases is 3"),
        (('id = "mine"', "id = "), "mine.toml: not TOML"),
    ],
)
def test_a_mistake_names_file_field_and_fix(change, message):
    with pytest.raises(ProfileError) as caught:
        load_profile(GOOD.replace(*change), origin="mine.toml")
    assert any(line.startswith("mine.toml: ") and message in line for line in caught.value.mistakes), caught.value


def test_all_mistakes_are_reported_at_once():
    with pytest.raises(ProfileError) as caught:
        load_profile('id = "X"\nfields = 3\n', origin="bad.toml")
    assert len(caught.value.mistakes) >= 5
