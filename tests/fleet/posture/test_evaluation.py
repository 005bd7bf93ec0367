"""Every recorded container gets the answer that was worked out by hand, and nothing passes unseen."""

from __future__ import annotations

import copy
import json
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.posture.catalogue import Severity, checks
from fleet.posture.container import Container
from fleet.posture.evaluation import evaluate, evaluate_container
from fleet.posture.evidence import Evidence, Image


def failures(findings, **wanted):
    return {
        (one.subject, one.check)
        for one in findings
        if one.result == "fail" and all(getattr(one, key) == value for key, value in wanted.items())
    }


def test_every_expected_answer_of_the_recordings_is_ours(recorded: ModuleType):
    table = recorded.rows()
    assert len(table) == 260
    assert [row for row in table if row[3] != row[4]] == []


def test_differences_to_docker_bench_are_only_those_explained_by_its_quirks(recorded: ModuleType):
    different = {
        (row[0], row[1]) for row in recorded.rows() if row[5] != "-" and (row[4] == "fail") != (row[5] == "flagged")
    }
    # 5.22 of docker-bench misses that privileged switches seccomp off.
    assert different == {("sec-privileged", "RUN-07")}


#: What each container was built to show, beside the checks that nearly all of them fail.
INTENDED = {
    "sec-privileged": {"RUN-01", "NET-01", "GPU-04", "RES-01", "RES-02", "RUN-09", "RES-03", "RUN-06", "OPS-02"},
    "sec-hostns": {"NET-01", "RUN-10", "RUN-11", "RUN-12", "RUN-02"},
    "sec-dockersock": {"MNT-01"},
    "rag/api/1": {"SEC-01", "RUN-15", "GPU-04", "GPU-05", "RUN-18", "OPS-01", "RUN-02"},
    "sec-llm:latest": {"SEC-02", "IMG-01", "IMG-11", "IMG-12"},
    "sec-etcro-modelrw": {"MNT-04", "MNT-02"},
    "sec-nohealth": {"OPS-01", "LOG-01", "RES-03"},
    "sec-ports": {"NET-02", "NET-03"},
    "sec-caps-admin": {"RUN-03"},
    "sec-gpus-all": {"GPU-01", "RUN-11"},
    "sec-gpus-ids": {"GPU-03"},
    "sec-doc-vllm": {"GPU-01", "RUN-11", "MNT-04", "SEC-03", "NET-02", "RES-01"},
    "sec-doc-triton": {"MNT-04", "GPU-02", "NET-02"},
}


@pytest.mark.parametrize("subject", INTENDED)
def test_what_a_container_was_built_to_show_is_found(recorded: ModuleType, subject: str):
    found = failures(evaluate(recorded.recorded_evidence(), include_low=True))
    assert {check for name, check in found if name == subject} >= INTENDED[subject]


def test_the_hardened_container_has_nothing_open_but_where_its_logs_go(recorded: ModuleType):
    findings = evaluate(recorded.recorded_evidence(log_agent=True), include_low=True)
    scored = [one for one in findings if one.subject == "sec-hardened" and one.counts and one.severity > Severity.INFO]
    assert scored == []


def test_no_check_passes_or_fails_on_an_empty_object():
    for inspect in ({}, {"Id": "a" * 64}, {"Config": None, "HostConfig": None}, {"HostConfig": {}, "Config": None}):
        found = evaluate_container(Evidence(), Container(inspect), include_low=True)
        assert {one.result for one in found} <= {"unknown", "not_applicable"}, inspect
        assert {one.check for one in found if one.check.startswith(("RUN", "RES", "MNT-0"))}
    images = evaluate(Evidence(images=[Image({}, None, reference="")]), include_low=True)
    assert "pass" not in {one.result for one in images if one.check not in {"IMG-01", "IMG-02"}}


#: Docker leaves these out when they are empty, so their absence is an answer.
LEFT_OUT_WHEN_EMPTY = {"Healthcheck", "Labels", "ExposedPorts", "Env", "User", "DeviceRequests", "Devices", "Health",
                       "CgroupnsMode", "Path", "Runtime", "OomKillDisable", "Source", "Name", "Propagation", "Type",
                       "Ulimits", "Config", "Networks", "HostIp", "HostPort", "MaximumRetryCount", "UsernsMode",
                       "max-size", "Test", "Status"}  # fmt: skip


def test_taking_any_fact_away_never_turns_a_failure_into_a_pass(recorded: ModuleType):
    evidence = recorded.recorded_evidence()
    for one in recorded.recorded_containers():
        before = evaluate_container(evidence, one, include_low=True)
        failing = {finding.check for finding in before if finding.result == "fail"}
        for section in (None, "HostConfig", "Config", "NetworkSettings"):
            keys = one.inspect if section is None else one.inspect[section]
            for key in set(keys) - LEFT_OUT_WHEN_EMPTY:
                poorer = copy.deepcopy(dict(one.inspect))
                del (poorer if section is None else poorer[section])[key]
                after = evaluate_container(evidence, Container(poorer), include_low=True)
                passing = {f.check for f in after} - {f.check for f in after if f.result != "pass"}
                assert not failing & passing, (one.name, section, key)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_json_makes_it_raise(recorded: ModuleType, data: st.DataObject):
    inspect = copy.deepcopy(dict(data.draw(st.sampled_from(recorded.recorded_containers())).inspect))
    for _ in range(data.draw(st.integers(1, 4))):
        at = inspect
        while True:
            key = data.draw(st.sampled_from(sorted(at)))
            if isinstance(at[key], dict) and at[key] and data.draw(st.booleans()):
                at = at[key]
                continue
            at[key] = data.draw(json_values)
            break
    junk = data.draw(json_values)
    info = junk if isinstance(junk, dict) else {"SecurityOptions": junk, "Runtimes": junk}
    evidence = recorded.recorded_evidence(
        containers=[Container(inspect)], info=info, images=[Image(inspect, [inspect])], version={"Components": junk},
        networks=[{"Name": "n", "Containers": junk}], volumes=[{"Name": junk, "Labels": junk}],
    )  # fmt: skip
    findings = evaluate(evidence, include_low=True)
    assert {one.result for one in findings} <= {"pass", "fail", "unknown", "not_applicable"}


def test_one_root_cause_is_one_finding(recorded: ModuleType):
    found = evaluate(recorded.recorded_evidence(), include_low=True)
    privileged = {one.check: one.cause for one in found if one.subject == "sec-privileged" and one.result == "fail"}
    assert {check for check, cause in privileged.items() if cause == "RUN-01"} == {
        "RUN-05",
        "RUN-07",
        "RUN-16",
        "GPU-06",
    }
    capabilities = {one.check: one.cause for one in found if one.subject == "sec-caps-admin" and one.result == "fail"}
    assert capabilities["RUN-03"] == ""
    assert capabilities["RUN-04"] == capabilities["RUN-05"] == "RUN-03"


def test_context_moves_the_severity_and_is_written_down(recorded: ModuleType):
    inspect = recorded.inspected("containers/sec-etcro-modelrw.json")
    inspect["NetworkSettings"]["Ports"] = {"8000/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8000"}]}
    evidence = Evidence(info=recorded.load("host/info.json"))

    def root(**labels: str):
        inspect["Config"]["Labels"] = labels
        found = evaluate_container(evidence, Container(inspect))
        return next(one for one in found if one.check == "RUN-02")

    assert (root().base_severity, root().severity, root().modifiers) == (
        Severity.HIGH, Severity.CRITICAL, ("+1 published",),
    )  # fmt: skip
    both = root(env="dev")
    assert (both.severity, set(both.modifiers)) == (Severity.HIGH, {"+1 published", "-1 development"})


def test_a_namespace_is_followed_through_other_containers(recorded: ModuleType):
    host = recorded.inspected("containers/sec-hostns.json")
    guest = recorded.inspected("containers/sec-etcro-modelrw.json")
    guest["HostConfig"]["NetworkMode"] = f"container:{host['Id']}"
    evidence = Evidence(containers=[Container(host), Container(guest)], info=recorded.load("host/info.json"))
    found = {one.check: one for one in evaluate_container(evidence, evidence.containers[1])}
    assert (found["NET-01"].result, found["NET-01"].observed) == ("fail", "host through container sec-hostns")
    assert found["RUN-14"].cause == "NET-01"
    alone = {one.check: one for one in evaluate_container(Evidence(), Container(guest))}
    assert alone["NET-01"].result == alone["RUN-14"].result == "unknown"  # the other one is not in the data


def test_every_check_has_a_predicate_and_every_predicate_a_check(recorded: ModuleType):
    found = {one.check for one in evaluate(recorded.recorded_evidence(), include_low=True)}
    # Subjects that the recordings do not have: a network of their own, and a model folder with several users is there.
    assert set(checks()) - found == {"NET-05"}


def test_low_checks_are_behind_a_toggle(recorded: ModuleType):
    short = {one.check for one in evaluate(recorded.recorded_evidence())}
    assert short == {identity for identity, check in checks().items() if check.in_short_list} - {"NET-05"}


def test_findings_can_be_written_as_json(recorded: ModuleType):
    for one in evaluate(recorded.recorded_evidence(), include_low=True):
        json.dumps([one.observed, one.path, one.why, dict(one.details)])
