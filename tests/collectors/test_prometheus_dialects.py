"""Which dialect speaks where, and which queries read them: few, each name once, whatever the fleet."""

from __future__ import annotations

import re
from collections import Counter

from collectors.prometheus_dialects import Dialects, plan, selector
from collectors.prometheus_targets import Target, TargetIndex
from fleet.profiles import builtin_profiles

PROFILES = tuple(one for one in builtin_profiles() if one.table == "inference")


def profiles(*ids):
    return [one for one in PROFILES if one.id in ids]


def target(instance, job="j", **labels):
    return Target(job=job, instance=instance, labels={"job": job, "instance": instance, **labels})


def seen(instance, *names, job="j", **labels):
    return [({"__name__": name, "job": job, "instance": instance, **labels}, 1.0) for name in names]


def learnt(*samples, targets=(), now=0.0, up=frozenset()):
    dialects = Dialects(PROFILES)
    dialects.learn([each for one in samples for each in one], TargetIndex(targets), now, up)
    return dialects


def names_in(text):
    found = re.search(r'__name__=~?"([^"]+)"', text)
    return found[1].split("|") if found else []


def test_each_target_speaks_its_own_dialect_and_a_generic_one_only_where_no_other_does():
    dialects = learnt(
        seen("a", "vllm:num_requests_running", "http_request_duration_highr_seconds_count"),
        seen("b", "http_request_duration_highr_seconds_count"),
        seen("c", "num_requests_running"),  # unprefixed, without num_request_max: anybody's
        seen("d", "num_requests_running", "num_request_max"),
    )
    spoken = {key[1]: [one.id for one in found] for key, found in dialects.by_target.items()}
    assert spoken == {"a": ["vllm"], "b": ["fastapi"], "d": ["nim"]}


def test_the_detection_is_one_small_query_and_keeps_what_tells_targets_apart():
    alike = [target("a", zone="1"), target("a", zone="2"), target("b", rack="7")]
    text = Dialects(PROFILES).detection(TargetIndex(alike))
    assert text.startswith("group by (__name__, job, instance, zone) (")
    assert "vllm:num_requests_running" in text
    one, two = alike[:2]
    dialects = learnt(
        seen("a", "vllm:num_requests_running", zone="1"), seen("a", "tgi_queue_size", zone="2"), targets=alike
    )
    assert [[p.id for p in dialects.by_target[each.key]] for each in (one, two)] == [["vllm"], ["tgi"]]


def test_it_is_asked_again_when_a_target_comes_up_or_after_a_while():
    up = frozenset({target("a").key})
    dialects = Dialects(PROFILES, detect_seconds=60.0)
    assert dialects.due(0.0, up)
    dialects.learn([], TargetIndex([]), 0.0, up)
    assert not dialects.due(59.0, up)
    assert not dialects.due(59.0, frozenset())  # one that went speaks no more, and nobody needs to be asked
    assert dialects.due(59.0, up | {target("b").key})
    assert dialects.due(60.0, up)


def test_only_dialects_that_are_spoken_are_asked_for_and_only_of_the_jobs_that_speak_them():
    dialects = learnt(seen("a", "vllm:num_requests_running", job="llm (1)"))
    assert all(name.startswith(("vllm:", "process_start")) for q in dialects.queries for name in names_in(q.text))
    assert all(r'job=~"llm\\ \\(1\\)"' in query.text for query in dialects.queries)
    assert "job" not in selector(["a"], [f"job{n}" for n in range(51)])


def test_all_dialects_together_are_read_in_ten_queries_and_no_series_is_fetched_twice():
    queries = plan(PROFILES, ["j"])
    assert len([query for query in queries if query.text]) <= 10
    raw = Counter(name for query in queries if not query.text.startswith("sum") for name in names_in(query.text))
    assert max(raw.values()) == 1
    asked = {name for query in queries for name in names_in(query.text)}
    wanted = {name for one in PROFILES for each in one.fields for name in each.series_names()}
    assert wanted <= asked
    fields = Counter((p, f.key) for query in queries for p, found in query.fields.items() for f in found)
    assert fields == Counter((one.id, each.key) for one in PROFILES for each in one.fields)


def test_a_name_that_two_queries_need_is_kept_from_the_first():
    queries = plan(profiles("triton"), ["j"])
    first = next(query for query in queries if "requests" in query.subject)
    assert "nv_inference_request_success" in first.kept  # the count of its mean times


def test_what_a_gateway_counts_is_summed_by_the_server_over_all_but_model_and_tenant():
    queries = plan(profiles("litellm"), ["j"])
    sums = [query for query in queries if query.text.startswith("sum by")]
    assert [("le" in re.split(r"[(), ]+", query.text.partition("{")[0])) for query in sums] == [False, True]
    assert all("team_alias" in query.text and "client_ip" not in query.text for query in sums)
    assert len(queries) == 3  # and its one gauge
