"""From the API's JSON to sorted series: targets, aliases, damaged histograms, and what may not leak."""

from __future__ import annotations

import math

import pytest

from collectors.prometheus_dialects import plan
from collectors.prometheus_reading import PollReadings
from collectors.prometheus_targets import Target, TargetIndex, clean_error, targets_from_api, with_up
from fleet.profiles import builtin_profiles

VLLM = next(profile for profile in builtin_profiles() if profile.id == "vllm")
BASE = {"job": "j", "instance": "i:1", "model_name": "m"}


def query(key):
    """The query that answers one field of vLLM."""
    return next(each for each in plan([VLLM], ["j"]) if any(f.key == key for f in each.fields["vllm"]))


def read(key, *samples):
    """The reading of the one target after one field's query was answered with these (name, labels, value)."""
    vector = [({"__name__": name, **BASE, **labels}, value) for name, labels, value in samples]
    return sorted_alone(key, vector)


def sorted_alone(key, vector):
    index = TargetIndex([])
    filed = PollReadings({index.find(labels).key: (VLLM,) for labels, _ in vector}, index)
    filed.take(query(key), vector)
    (reading,) = filed.readings
    return reading


def ttft(*pairs, engine="0"):
    return [("vllm:time_to_first_token_seconds_bucket", {"le": le, "engine": engine}, value) for le, value in pairs]


def test_where_old_and_new_names_are_both_exposed_only_the_new_one_counts():
    reading = read(
        "cached_tokens",
        ("vllm:gpu_prefix_cache_hits_total", {}, 5.0),
        ("vllm:prompt_tokens_cached_total", {}, 7.0),
    )
    assert [each.value for each in reading.counters["cached_tokens"]["m", ""]] == [7.0]


def test_bounds_are_sorted_as_numbers_however_they_are_written():
    reading = read("ttft_seconds distribution", *ttft(("+Inf", 9.0), ("10", 8.0), ("1.0", 3.0), ("2.5e0", 5.0)))
    (histogram,) = reading.histograms["ttft_seconds"]["m", ""]
    assert histogram.buckets.bounds == (1.0, 2.5, 10.0, math.inf)
    assert histogram.buckets.cumulative == (3.0, 5.0, 8.0, 9.0)
    assert histogram.sum_value is None


@pytest.mark.parametrize(
    ("pairs", "problem"),
    [
        ((("1", 3.0), ("2", 5.0)), "no +Inf bucket"),
        ((("1", 5.0), ("2", 3.0), ("+Inf", 6.0)), "fall from one bound to the next"),
        ((("1", math.nan), ("+Inf", 6.0)), "no numbers"),
        ((("1", 1.0), ("+Inf", math.inf)), "infinite"),
        ((("1", 1.0), ("1.0", 1.0), ("+Inf", 2.0)), "twice"),
        ((("one", 1.0), ("+Inf", 2.0)), "bound is not a number"),
        ((("NaN", 1.0), ("+Inf", 2.0)), "bound is not a number"),
    ],
)
def test_a_damaged_histogram_is_left_out_with_what_is_wrong(pairs, problem):
    reading = read("ttft_seconds distribution", *ttft(*pairs))
    assert reading.histograms["ttft_seconds"] == {}
    assert problem in reading.problems["ttft_seconds distribution"]


def test_engines_keep_their_own_histograms_until_they_are_counted():
    reading = read("ttft_seconds distribution", *ttft(("1", 1.0), ("+Inf", 2.0)), *ttft(("+Inf", 4.0), engine="1"))
    assert sorted(h.buckets.bounds for h in reading.histograms["ttft_seconds"]["m", ""]) == [
        (1.0, math.inf),
        (math.inf,),
    ]


def test_tritons_model_label_is_taken_where_vllms_is_missing():
    vector = [({"__name__": "vllm:num_requests_running", "job": "j", "instance": "i", "model": "t"}, 1.0)]
    assert sorted_alone("requests_running", vector).subjects == {("t", "")}


def test_targets_are_read_with_their_discovered_labels_and_damage_is_left_out():
    payload = {
        "activeTargets": [
            {
                "labels": {"job": "j", "instance": "i"},
                "discoveredLabels": {"__meta_docker_container_id": "abc"},
                "scrapeUrl": "http://i/metrics",
                "health": "down",
                "lastError": "boom",
                "scrapeInterval": "1m30s",
            },
            "nonsense",
            {"labels": 3, "health": "unknown"},
        ]
    }
    first, second = targets_from_api(payload)
    assert (first.up, first.error, first.discovered["__meta_docker_container_id"]) == (False, "boom", "abc")
    assert (second.up, second.job) == (None, "")
    assert (first.scrape_seconds, second.scrape_seconds) == (90.0, 60.0)
    assert targets_from_api({"activeTargets": None}) == []
    for useless in (None, [], {}, {"activeTargets": 3}):
        with pytest.raises(ValueError, match="activeTargets"):
            targets_from_api(useless)


def test_the_up_series_gives_state_and_scrape_time_and_stands_in_for_a_missing_targets_api():
    labels = {"job": "j", "instance": "i"}
    (target,) = with_up(
        [Target(job="j", instance="i", labels=labels)], [({"__name__": "up", **labels}, 1.0)], [(labels, 99.5)]
    )
    assert (target.up, target.scraped_at) == (True, 99.5)
    (alone,) = with_up([], [({"__name__": "up", **labels}, 0.0)], [(labels, 99.5)])
    assert (alone.up, alone.scraped_at, alone.endpoint) == (False, 99.5, "j/i")


def test_targets_that_share_job_and_instance_are_told_apart_by_their_labels():
    one = Target(job="j", instance="i", labels={"job": "j", "instance": "i", "zone": "a"})
    two = Target(job="j", instance="i", labels={"job": "j", "instance": "i", "zone": "b"})
    index = TargetIndex([one, two])
    assert index.find({"job": "j", "instance": "i", "zone": "b", "model_name": "m"}) is two
    assert index.find({"job": "other", "instance": "i"}).labels == {"job": "other", "instance": "i"}


def test_a_scrape_error_loses_what_a_url_may_hide_and_its_length():
    text = 'Get "http://user:hush@10.0.0.1:8000/metrics?token=hush": dial\ntcp: refused ' + "x" * 1000
    cleaned = clean_error(text)
    assert "hush" not in cleaned
    assert cleaned.startswith('Get "http://10.0.0.1:8000/metrics": dial tcp: refused')
    assert len(cleaned) == 300


def test_a_broken_connection_reads_the_same_whichever_port_was_ours():
    text = 'Get "http://10.0.0.2:8000/metrics": read tcp 10.0.0.1:{}->10.0.0.2:8000: connection reset by peer'
    assert clean_error(text.format(43210)) == clean_error(text.format(51515))
    assert "10.0.0.2:8000: connection reset" in clean_error(text.format(43210))
