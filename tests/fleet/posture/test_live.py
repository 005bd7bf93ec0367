"""A real daemon's inspect output: each flag of `docker create` makes exactly the failures it stands for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from fleet.posture.container import Container
from fleet.posture.evaluation import evaluate, evaluate_container
from fleet.posture.evidence import Evidence, Image
from tests.services.dockerd import Dockerd, running_dockerd

pytestmark = pytest.mark.docker

NOW = datetime(2026, 11, 22, 5, tzinfo=UTC)
TAG = "app:1.0.0"
#: Nothing of medium or worse is wrong with this one.
GOOD = ("--user", "10001:10001", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only",
        "--memory", "64m", "--cpus", "0.5", "--pids-limit", "64", "--health-cmd", "true", "--network", "none",
        "--log-driver", "syslog", "--label", "tenant=acme")  # fmt: skip

#: (what is added to the good one, what it is then found to fail)
CASES: list[tuple[Sequence[str], set[str]]] = [
    ((), set()),
    (("--privileged",), {"RUN-01", "RUN-07", "RUN-16"}),
    (("--user", "0:0"), {"RUN-02"}),
    (("--cap-add", "SYS_ADMIN"), {"RUN-03", "RUN-04"}),
    (("--cap-add", "ALL"), {"RUN-03", "RUN-04"}),
    (("--cap-add", "IPC_LOCK"), {"RUN-04"}),
    (("--cap-add", "NET_RAW"), set()),
    (("--security-opt", "seccomp=unconfined"), {"RUN-07"}),
    (("--security-opt", "systempaths=unconfined"), {"RUN-16"}),
    (("--pid", "host"), {"RUN-10"}),
    (("--ipc", "host"), {"RUN-11"}),
    (("--uts", "host"), {"RUN-12"}),
    (("--network", "host"), {"NET-01"}),
    (("--pids-limit", "-1"), {"RES-03"}),
    (("--memory-swap", "-1"), {"RES-04"}),
    (("--shm-size", "128m"), {"RES-05"}),
    (("--no-healthcheck",), {"OPS-01"}),
    (("--log-driver", "none"), {"LOG-01"}),
    (("--log-driver", "json-file"), {"LOG-01", "LOG-02"}),
    (("--restart", "on-failure:9"), {"RUN-17"}),
    (("-v", "/var/run/docker.sock:/s:ro"), {"MNT-01"}),
    (("-v", "/etc:/host:ro"), {"MNT-02"}),
    (("-v", "/srv/models:/models"), {"MNT-04"}),
    (("-v", "/srv/models:/models:ro"), set()),
    (("-v", "/srv/data:/data:shared"), {"MNT-03"}),
    (("--device", "/dev/null:/dev/x"), {"MNT-07"}),
    (("-v", "/anonymous"), {"MNT-08"}),
    (("-e", "DB_PASSWORD=hunter2xyz"), {"SEC-01", "SEC-04"}),
    (("-e", "DB_PASSWORD_FILE=/run/secrets/db"), set()),
    (("--label", "com.acme.password=hunter2xyz"), {"SEC-03"}),
    (("-e", "FLASK_DEBUG=1"), {"RUN-18"}),
    (("--gpus", "all"), {"GPU-01", "GPU-08", "RES-05", "RES-06"}),
    (("--gpus", "1"), {"GPU-02", "GPU-08", "RES-06"}),
    (("--gpus", "device=GPU-1234"), {"GPU-08", "RES-06"}),
    (("--gpus", "device=0"), {"GPU-03", "GPU-08", "RES-06"}),
]  # fmt: skip
#: Hygiene that no flag of the good one sets.
ALWAYS = {"LOG-03"}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Dockerd]:
    with running_dockerd() as running:
        running.import_busybox(TAG)
        yield running


@pytest.fixture(scope="module")
def facts(daemon: Dockerd) -> dict[str, Any]:
    with contextlib.closing(daemon.client()) as client:
        steps = client.images.get(TAG).history()
    return {
        "images": [Image(json.loads(daemon.cli("image", "inspect", TAG))[0], steps)],
        "info": json.loads(daemon.cli("info", "--format", "{{json .}}")),
        "version": json.loads(daemon.cli("version", "--format", "{{json .Server}}")),
        "now": NOW,
    }


def good_without(flags: Sequence[str]) -> list[str]:
    """The good flags but for those that Docker refuses beside these."""
    refused = {"--network": "--network", "--no-healthcheck": "--health-cmd"}
    dropped = {refused[flag] for flag in flags if flag in refused}
    pairs = [(name, GOOD[at + 1 : at + 2]) for at, name in enumerate(GOOD) if name.startswith("--")]
    return [
        word
        for name, value in pairs
        if name not in dropped
        for word in (name, *(one for one in value if not one.startswith("--")))
    ]


@pytest.mark.parametrize(("flags", "expected"), CASES, ids=[" ".join(flags) or "good" for flags, _ in CASES])
def test_a_flag_makes_the_failures_it_stands_for(daemon: Dockerd, facts: dict[str, Any], flags, expected):
    identity = daemon.cli("create", *good_without(flags), *flags, TAG, "sleep", "10")
    try:
        inspect = json.loads(daemon.cli("inspect", identity))[0]
    finally:
        daemon.cli("rm", "-f", "-v", identity)
    found = evaluate_container(Evidence(**facts, tenants={identity: "acme"}), Container(inspect), include_low=True)
    assert {one.check for one in found if one.result == "fail"} - ALWAYS == expected


def test_what_a_real_daemon_says_of_itself_and_of_an_image_is_read(daemon: Dockerd, facts: dict[str, Any]):
    found = {one.check: one for one in evaluate(Evidence(**facts), include_low=True)}
    assert found["IMG-01"].result == "pass"
    assert found["SEC-02"].result == "pass"
    assert found["HST-01"].result == "pass"
    assert found["HST-02"].result == "pass"
    assert found["HST-05"].result in {"pass", "unknown"}  # a distribution's runc may be patched without a new number
    unread = [one.check for one in found.values() if one.result == "unknown" and "not a" in one.why]
    assert unread == []
