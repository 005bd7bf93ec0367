"""docker inspect -> facts: everything that may be stored, nothing that may not, no crash on odd shapes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.containers import (
    ImageFacts,
    facts_from_inspect,
    image_facts,
    listed,
    parse_time,
    place_from_inspect,
    with_gpus,
)
from fleet.inventory import ContainerFacts, HostGpu
from fleet.tenancy import Tenancy

AT = datetime(2026, 11, 22, 6, tzinfo=UTC)
ID = "ab" * 32
TOKEN = "hf_" + "a1B2c3D4e5" * 4


def facts(**changes: Any) -> ContainerFacts:
    inspect: dict[str, Any] = {
        "Id": ID,
        "Name": "/shop-api-2",
        "Created": "2026-11-22T06:13:31.353041472Z",
        "Image": "sha256:" + "c" * 64,
        "RestartCount": 4,
        "State": {
            "Status": "exited", "Pid": 0, "ExitCode": 137, "OOMKilled": True, "Error": f"bad --api-key {TOKEN}",
            "StartedAt": "2026-11-22T06:13:31.570574198Z", "FinishedAt": "2026-11-22T06:14:00Z",
            "Health": {"Status": "unhealthy"},
        },
        "Config": {
            "Image": "registry:5000/shop/api:1.2", "User": "10001", "Hostname": "api2", "Env": [f"HF_TOKEN={TOKEN}"],
            "Cmd": ["serve", "--api-key", TOKEN], "ExposedPorts": {"8000/tcp": {}, "53/udp": {}},
            "Labels": {
                "com.docker.compose.project": "shop", "com.docker.compose.service": "api",
                "com.docker.compose.container-number": "2", "token": "s3cr3t",
            },
        },
        "HostConfig": {
            "Memory": 67108864, "NanoCpus": 1500000000, "Privileged": True, "NetworkMode": "shop_default",
            "CgroupParent": "/foo", "DeviceRequests": [
                {"Driver": "", "Count": -1, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {}}
            ],
        },
        "NetworkSettings": {
            "Ports": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18000"}], "9000/tcp": None},
            "Networks": {"shop_default": {"IPAddress": "172.18.0.3", "Aliases": ["api", "ab12"], "DNSNames": ["x"]}},
        },
    }  # fmt: skip
    inspect.update(changes)
    image = ImageFacts(digest="sha256:dd", created_at=AT)
    return facts_from_inspect(inspect, host="h", tenancy=Tenancy(), image=image, seen_at=AT)


def test_the_row_holds_what_pages_show() -> None:
    row = facts().row
    assert (row.container_key, row.name, row.tenant, row.tenant_origin) == (
        "h:shop/api/2",
        "shop-api-2",
        "shop",
        "compose",
    )
    assert (row.state, row.health, row.exit_code, row.oom_killed, row.restart_count) == (
        "exited", "unhealthy", 137, True, 4,
    )  # fmt: skip
    assert (row.cpu_limit_cores, row.memory_limit_bytes, row.user, row.privileged) == (1.5, 67108864, "10001", True)
    assert (row.image, row.image_digest) == ("registry:5000/shop/api:1.2", "sha256:dd")
    assert row.started_at == datetime(2026, 11, 22, 6, 13, 31, 570574, tzinfo=UTC)
    assert (row.gpu_request, row.gpu_request_kind) == ("--gpus all", "all")
    assert (row.gpu_uuids, row.gpu_unresolved) == ((), ())


def test_a_request_is_resolved_on_the_hosts_list_and_unknown_without_one() -> None:
    found = with_gpus(facts(), (HostGpu(uuid="GPU-a", index=0), HostGpu(uuid="GPU-b", index=1)))
    assert (found.row.gpu_uuids, found.row.gpu_unresolved) == (("GPU-a", "GPU-b"), ())
    assert with_gpus(found, None) == facts()


def test_an_id_that_names_nothing_is_stored_inert_and_without_secrets() -> None:
    ids = ["\x1b[31m" + "x" * 500, f"GPU-{TOKEN}", "9"]
    request = [{"Driver": "", "Count": 0, "DeviceIDs": ids, "Capabilities": [["gpu"]], "Options": {}}]
    row = with_gpus(facts(HostConfig={"DeviceRequests": request}), (HostGpu(uuid="GPU-a", index=0),)).row
    assert row.gpu_request_kind == "ids"
    assert row.gpu_uuids == ()
    assert row.gpu_unresolved[1:] == ("GPU-[redacted]", "9")
    assert row.gpu_unresolved[0].startswith("\ufffd[31mxxx")
    assert len(row.gpu_unresolved[0]) == 128
    assert TOKEN not in repr(row)


def test_no_environment_command_or_secret_is_in_it() -> None:
    found = facts()
    assert TOKEN not in repr(found)
    assert "s3cr3t" not in repr(found)
    assert found.row.labels["token"] == "[redacted]"
    assert found.row.error == "bad --api-key [redacted]"


def test_joining_gets_addresses_names_and_ports() -> None:
    found = facts()
    assert found.network_addresses == {"shop_default": "172.18.0.3"}
    assert found.aliases == {"shop-api-2", ID[:12], "api", "api2", "ab12", "x"}
    assert found.published_ports == (("127.0.0.1", 18000, 8000),)
    assert found.exposed_ports == {8000, 9000}
    assert not found.host_network
    assert found.gpu.kind == "all"


@pytest.mark.parametrize(
    ("host_config", "cores"),
    [({}, None), ({"NanoCpus": 0}, None), ({"CpuQuota": 50000, "CpuPeriod": 0}, 0.5),
     ({"CpuQuota": 10000, "CpuPeriod": 100000}, 0.1), ({"CpuQuota": -1, "CpuPeriod": 100000}, None)],
)  # fmt: skip
def test_the_cpu_limit_is_in_cores(host_config: dict[str, int], cores: float | None) -> None:
    assert facts(HostConfig=host_config).row.cpu_limit_cores == cores


def test_a_running_container_has_no_exit_code() -> None:
    row = facts(State={"Status": "running", "ExitCode": 0, "Pid": 42}).row
    assert row.exit_code is None
    assert row.finished_at is None


def test_the_place_says_where_to_look() -> None:
    place = place_from_inspect({"HostConfig": {"CgroupParent": "/foo", "NetworkMode": "host"}})
    assert (place.cgroup_parent, place.network_mode) == ("/foo", "host")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-22T06:13:31.353041472Z", datetime(2026, 11, 22, 6, 13, 31, 353041, tzinfo=UTC)),
        ("2026-11-22T08:13:31+02:00", datetime(2026, 11, 22, 6, 13, 31, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
        ("2026-99-22T06:13:31Z", None),
        (None, None),
        (5, None),
    ],
)
def test_times_of_the_daemon_are_read_or_none(text: object, expected: datetime | None) -> None:
    assert parse_time(text) == expected


def test_the_digest_is_that_of_the_containers_own_repository() -> None:
    inspect = {
        "RepoDigests": ["other/app@sha256:1", "registry:5000/shop/api@sha256:2"],
        "Created": "2026-11-22T06:00:00Z",
    }
    assert image_facts(inspect, "registry:5000/shop/api:1.2") == ImageFacts(digest="sha256:2", created_at=AT)
    assert image_facts({"RepoDigests": ["b@sha256:1", "a@sha256:2"]}, "a:1").digest == "sha256:2"
    assert image_facts({"RepoDigests": None}, "a").digest == ""


def test_a_list_entry_changes_with_the_container_and_not_with_its_age() -> None:
    def entry(status: str, state: str = "running") -> dict[str, object]:
        return {"Id": ID, "State": state, "Status": status, "ImageID": "i", "Names": ["/a"]}

    young, old = listed(entry("Up 2 seconds (healthy)")), listed(entry("Up 3 hours (healthy)"))
    sick = listed(entry("Up 3 hours (unhealthy)"))
    ended = listed(entry("Exited (1) 2 seconds ago", "exited"))
    later, other = listed(entry("Exited (1) 2 hours ago", "exited")), listed(entry("Exited (0) 1 second ago", "exited"))
    assert young is not None
    assert old is not None
    assert sick is not None
    assert ended is not None
    assert later is not None
    assert other is not None
    assert young.fingerprint == old.fingerprint != sick.fingerprint
    assert (young.health, sick.health, ended.health) == ("healthy", "unhealthy", "")
    assert ended.fingerprint == later.fingerprint != other.fingerprint
    starting = listed(entry("Up 1 second (health: starting)"))
    assert starting is not None
    assert starting.health == "starting"
    assert listed({}) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


KEYS = ["Name", "Created", "Image", "State", "Config", "HostConfig", "NetworkSettings", "RestartCount"]


@given(st.dictionaries(st.sampled_from(KEYS), JSON))
def test_no_shape_of_an_inspect_object_breaks_the_reading(odd: dict[str, object]) -> None:
    found = facts(**odd)
    assert found.row.container_id == ID
