"""Single predicates at their edges: networks, mounts, GPUs, images and the host's engine."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import pytest

from fleet.posture.catalogue import Severity
from fleet.posture.container import Container, normalised
from fleet.posture.evaluation import evaluate, evaluate_container, evaluate_groups, evaluate_host, evaluate_images
from fleet.posture.evidence import Evidence, Image, ScanSummary, Signature

NOW = datetime(2026, 11, 22, 5, tzinfo=UTC)
NVIDIA = {"SecurityOptions": ["name=seccomp,profile=default"], "DefaultRuntime": "nvidia", "Runtimes": {"nvidia": {}}}


@pytest.fixture
def made(recorded: ModuleType):
    """A hardened container with some parts of it changed: made(HostConfig={...}, Config={...}, Mounts=[...])."""
    base = recorded.inspected("containers/sec-hardened.json")

    def make(**change: Any) -> dict[str, Any]:
        one = copy.deepcopy(base)
        for key, value in change.items():
            one[key] = {**one[key], **value} if isinstance(value, dict) and isinstance(one.get(key), dict) else value
        return one

    return make


def judge(inspect: dict[str, Any], check: str, **evidence: Any):
    found = evaluate_container(Evidence(**evidence), Container(inspect), include_low=True)
    return [one for one in found if one.check == check]


def result(inspect: dict[str, Any], check: str, **evidence: Any) -> str:
    (one,) = judge(inspect, check, **evidence)
    return one.result


def mount(source: str, target: str = "/x", *, writable: bool = True, kind: str = "bind", **more: Any) -> dict[str, Any]:
    return {"Type": kind, "Source": source, "Destination": target, "RW": writable, "Propagation": "rprivate", **more}


# --- runtime -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", "fail"),
        ("0", "fail"),
        ("0:0", "fail"),
        ("00", "fail"),
        ("root:root", "fail"),
        ("1000", "pass"),
        ("app", "pass"),
    ],
)
def test_root_is_root_however_it_is_written(made, user: str, expected: str):
    assert result(made(Config={"User": user}), "RUN-02", info=NVIDIA) == expected


def test_root_that_is_mapped_to_another_user_is_no_question(made):
    rootless = {"SecurityOptions": ["name=seccomp,profile=default", "name=rootless"]}
    root = made(Config={"User": "0"})
    assert result(root, "RUN-02", info=rootless) == "not_applicable"
    remapped = {"SecurityOptions": ["name=userns"]}
    assert result(made(Config={"User": "0"}, HostConfig={"UsernsMode": "host"}), "RUN-02", info=remapped) == "fail"


@pytest.mark.parametrize(
    ("option", "expected"),
    [("no-new-privileges", "pass"), ("no-new-privileges:true", "pass"), ("no-new-privileges=true", "pass"),
     ("no-new-privileges:false", "fail"), ("no-new-privileges=false", "fail"), ("label=disable", "fail")],
)  # fmt: skip
def test_no_new_privileges_in_all_spellings(made, option: str, expected: str):
    assert result(made(HostConfig={"SecurityOpt": [option]}), "RUN-06", info=NVIDIA) == expected


def test_the_daemons_default_for_new_privileges_counts_and_is_unknown_unseen(made):
    plain = made(HostConfig={"SecurityOpt": None})
    assert result(plain, "RUN-06", info={"SecurityOptions": ["name=no-new-privileges"]}) == "pass"
    assert result(plain, "RUN-06") == "unknown"


def test_apparmor_and_selinux_hosts(made):
    apparmor, selinux = {"SecurityOptions": ["name=apparmor"]}, {"SecurityOptions": ["name=selinux"]}
    assert result(made(AppArmorProfile="docker-default"), "RUN-08", info=apparmor) == "pass"
    assert result(made(AppArmorProfile="unconfined"), "RUN-08", info=apparmor) == "fail"
    assert result(made(AppArmorProfile="", State={"Status": "created"}), "RUN-08", info=apparmor) == "unknown"
    disabled = {"SecurityOpt": ["label=disable"]}
    (own,) = judge(made(HostConfig=disabled), "RUN-08", info=selinux)
    (engines,) = judge(made(HostConfig={**disabled, "PidMode": "host"}), "RUN-08", info=selinux)
    assert (own.result, own.cause, engines.cause) == ("fail", "", "RUN-10")


def test_capabilities_are_told_apart_by_how_far_they_lead(made):
    def severity(*names: str) -> Severity:
        (one,) = judge(made(HostConfig={"CapAdd": list(names)}), "RUN-03")
        return one.severity

    assert severity("CAP_NET_ADMIN") == Severity.HIGH
    assert severity("net_admin", "sys_admin") == Severity.CRITICAL
    assert result(made(HostConfig={"CapAdd": ["ALL"]}), "RUN-03") == "fail"
    assert result(made(HostConfig={"CapAdd": ["NET_RAW", "CAP_KILL"]}), "RUN-04") == "pass"
    assert result(made(HostConfig={"CapAdd": ["IPC_LOCK"]}), "RUN-04") == "fail"


def test_a_crash_loop_is_a_rate_not_a_count(made):
    loop = {"HostConfig": {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 0}}, "RestartCount": 60}
    created = (NOW - timedelta(hours=10)).isoformat()
    assert result(made(**loop, Created=created), "RUN-17", now=NOW) == "fail"
    assert result(made(**loop, Created=(NOW - timedelta(days=10)).isoformat()), "RUN-17", now=NOW) == "pass"
    assert result(made(**loop, Created=created), "RUN-17") == "unknown"


# --- network -------------------------------------------------------------------------------------------------------


def ports(address: str, port: str = "8000") -> dict[str, Any]:
    return {"Ports": {"8000/tcp": [{"HostIp": address, "HostPort": port}], "9000/tcp": None}}


@pytest.mark.parametrize(
    ("address", "expected"),
    [("", "fail"), ("0.0.0.0", "fail"), ("::", "fail"), ("127.0.0.1", "pass"), ("10.0.0.5", "pass")],
)
def test_all_interfaces_in_all_spellings(made, address: str, expected: str):
    assert result(made(NetworkSettings=ports(address)), "NET-02") == expected


@pytest.mark.parametrize(
    ("image", "words", "more", "expected"),
    [
        ("ollama/ollama:0.5", ["serve"], [], "fail"),
        ("vllm/vllm-openai:v0.9", ["--model", "m"], [], "fail"),
        ("vllm/vllm-openai:v0.9", ["--api-key", "k"], [], "pass?"),
        ("vllm/vllm-openai:v0.9", ["--model", "m"], ["VLLM_API_KEY=k"], "pass?"),
        ("jupyter/base:1", ["--ServerApp.token=''"], [], "fail"),
        ("jupyter/base:1", ["--ServerApp.token=abc"], [], "pass?"),
        ("nvcr.io/nvidia/tritonserver:24.12-py3", ["tritonserver"], [], "fail"),
        ("rayproject/ray:2", ["ray", "start"], [], "fail"),
        ("ghcr.io/mlflow/mlflow:2", ["mlflow", "server"], [], "fail"),
        ("nginx:1.27", ["nginx"], [], "pass?"),
    ],
)  # fmt: skip
def test_ai_servers_without_a_login_must_not_be_published(made, image, words, more, expected):
    config = {"Image": image, "Env": more}
    open_one = made(Config=config, Args=words, Path="", NetworkSettings=ports("0.0.0.0"))
    assert result(open_one, "NET-06") == ("fail" if expected == "fail" else "not_applicable")
    if expected == "fail":
        assert result(made(Config=config, Args=words, NetworkSettings=ports("127.0.0.1")), "NET-06") == "pass"
        assert result(made(Config=config, Args=words, HostConfig={"NetworkMode": "host"}), "NET-06") == "fail"


def test_a_network_of_two_tenants_is_one_finding(made):
    network = {"Name": "shared", "Driver": "bridge", "Containers": {"a": {}, "b": {}}}
    tenants = {"a": "acme", "b": "globex"}

    def judged(**more):
        evidence = Evidence(**{"networks": [network], "tenants": tenants, **more})
        return [(f.subject, f.result) for f in evaluate_groups(evidence) if f.check == "NET-05"]

    assert judged() == [("shared", "fail")]
    assert judged(tenants={"a": "acme", "b": "acme"}) == [("shared", "pass")]
    assert judged(tenants={"a": "acme"}) == [("shared", "unknown")]
    assert judged(shared_networks=["shared"]) == [("shared", "not_applicable")]
    assert judged(networks=None) == []


# --- mounts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "clean"),
    [("/var/run/docker.sock", "/run/docker.sock"), ("//etc/../etc/", "/etc"), ("/", "/"), ("/var/run", "/run"),
     ("/var/running", "/var/running"), ("name", "name")],
)  # fmt: skip
def test_host_paths_have_one_form(path: str, clean: str):
    assert normalised(path) == clean


@pytest.mark.parametrize(
    "source",
    ["/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock", "/run", "/var/run/", "/"],
)
def test_the_engines_socket_is_found_read_only_and_by_its_folder(made, source: str):
    assert result(made(Mounts=[mount(source, writable=False)]), "MNT-01") == "fail"


@pytest.mark.parametrize(
    ("source", "writable", "expected"),
    [("/etc", True, "critical"), ("/etc", False, "high"), ("/etc/passwd", False, "high"), ("/usr/lib", False, "medium"),
     ("/etc/localtime", False, None), ("/etc/localtime", True, "critical"), ("/srv/data", True, None),
     ("/etcetera", True, None), ("/var/lib/docker/volumes", False, "high"), ("/dev/shm", True, None),
     ("/sys/../etc", True, "critical")],
)  # fmt: skip
def test_host_folders_are_judged_mount_by_mount(made, source: str, writable: bool, expected: str | None):
    (one,) = judge(made(Mounts=[mount("/srv/ok", "/ok"), mount(source, writable=writable)]), "MNT-02")
    assert (one.severity.word if one.result == "fail" else None) == expected


def test_a_socket_folder_is_counted_once(made):
    found = evaluate_container(Evidence(), Container(made(Mounts=[mount("/run")])))
    assert {(one.check, one.cause) for one in found if one.result == "fail" and one.check.startswith("MNT")} == {
        ("MNT-01", ""), ("MNT-02", "MNT-01"),
    }  # fmt: skip


def test_a_writable_cache_is_less_than_a_writable_model_folder(made):
    (cache,) = judge(made(Mounts=[mount("/srv/hf", "/data/.cache/huggingface")]), "MNT-04")
    (models,) = judge(made(Mounts=[mount("/srv/models", "/data")]), "MNT-04")
    assert (cache.severity, models.severity) == (Severity.LOW, Severity.MEDIUM)
    assert result(made(Mounts=[mount("/srv/x", "/y")]), "MNT-04") == "not_applicable"


def test_model_folders_shared_by_tenants(made):
    def judged(*uses: tuple[str, bool]):
        containers = [
            Container({**made(Mounts=[mount("/srv/models", writable=writes)]), "Id": str(number)})
            for number, (_, writes) in enumerate(uses)
        ]
        tenants = {str(number): tenant for number, (tenant, _) in enumerate(uses) if tenant}
        return [
            f.result for f in evaluate_groups(Evidence(containers=containers, tenants=tenants)) if f.check == "MNT-05"
        ]

    assert judged(("acme", True), ("globex", False)) == ["fail"]
    assert judged(("acme", False), ("globex", False)) == ["pass"]
    assert judged(("acme", True), ("acme", False)) == ["pass"]
    assert judged(("acme", True), ("", False)) == ["unknown"]
    assert judged(("acme", True)) == []


@pytest.mark.parametrize(
    ("device", "expected"), [("/dev/sda1", "critical"), ("/dev/fuse", "medium"), ("/dev/nvidia0", None)]
)
def test_devices(made, device: str, expected: str | None):
    devices = [{"PathOnHost": device, "PathInContainer": device, "CgroupPermissions": "rwm"}]
    (one,) = judge(made(HostConfig={"Devices": devices}), "MNT-07")
    assert (one.severity.word if one.result == "fail" else None) == expected


# --- GPUs ----------------------------------------------------------------------------------------------------------


def gpus(count: int = 0, ids: list[str] | None = None) -> dict[str, Any]:
    return {"DeviceRequests": [{"Driver": "", "Count": count, "DeviceIDs": ids, "Capabilities": [["gpu"]]}]}


def test_all_gpus_are_low_only_where_there_is_one_card_and_one_tenant(made):
    one = made(HostConfig=gpus(-1))

    def severity(**evidence: Any) -> str:
        return judge(one, "GPU-01", **evidence)[0].severity.word

    assert severity() == severity(gpu_count=1) == severity(gpu_count=8, tenants={"a": "x"}) == "high"
    assert severity(gpu_count=1, tenants={"a": "x"}) == "low"
    assert result(made(HostConfig=gpus(0, ["GPU-1"])), "GPU-01") == "pass"
    assert result(made(HostConfig=gpus(2)), "GPU-02") == "fail"
    assert result(made(HostConfig=gpus(0, ["0"])), "GPU-03") == "fail"


@pytest.mark.parametrize(
    ("value", "expected"), [("all", "fail"), ("0,1", "fail"), ("none", "pass"), ("void", "pass"), ("", "pass")]
)
def test_gpus_by_environment_count_under_the_nvidia_runtime(made, value: str, expected: str):
    config = {"Env": [f"NVIDIA_VISIBLE_DEVICES={value}"]}
    (one,) = judge(made(Config=config, HostConfig={"Runtime": "nvidia"}), "GPU-04")
    assert (one.result, one.severity) == (expected, Severity.HIGH)
    (by_default,) = judge(made(Config=config, HostConfig={"Runtime": ""}), "GPU-04", info=NVIDIA)
    assert by_default.result == expected
    if expected == "fail":
        assert judge(made(Config=config), "GPU-04")[0].severity == Severity.INFO  # runc
        assert result(made(Config=config, HostConfig={"Runtime": ""}), "GPU-04") == "unknown"


def test_gpus_shared_by_tenants_need_nvml(made):
    containers = [Container(made(HostConfig=gpus(1)))]

    def judged(gpu_tenants):
        found = evaluate_groups(Evidence(containers=containers, gpu_tenants=gpu_tenants))
        return [(f.subject, f.result) for f in found if f.check == "GPU-07"]

    assert judged(None) == [("all", "unknown")]
    assert judged({"GPU-1": ["a", "b"], "GPU-2": ["a"]}) == [("GPU-1", "fail"), ("GPU-2", "pass")]


# --- images --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "expected"),
    [("x", "fail"), ("x:latest", "fail"), ("x:1.2", "pass"), ("r.example.com:5000/x", "fail"),
     ("r.example.com:5000/x:1", "pass"), ("x@sha256:" + "a" * 64, "pass"), ("b" * 64, "unknown"),
     ("sha256:" + "b" * 64, "unknown")],
)  # fmt: skip
def test_tags(made, reference: str, expected: str):
    found = evaluate_images(Evidence(containers=[Container(made(Config={"Image": reference}))]))
    assert next(one.result for one in found if one.check == "IMG-01") == expected


def image_results(image: Image, **evidence: Any) -> dict[str, tuple[str, str]]:
    found = evaluate_images(Evidence(images=[image], now=NOW, **evidence), include_low=True)
    return {one.check: (one.result, one.severity.word) for one in found}


def test_scans_and_signatures(recorded: ModuleType):
    inspect = recorded.inspected("images/sec-good_1.0.2.inspect.json")
    image, identity = Image(inspect), inspect["Id"]
    bare = image_results(image)
    assert {bare[check][0] for check in ("IMG-04", "IMG-05", "IMG-06", "IMG-07")} == {"unknown"}
    assert image_results(image, scans={}, signatures={})["IMG-04"][0] == "fail"
    old = ScanSummary(scanned_at=NOW - timedelta(days=8), high_fixable=2, end_of_life=True)
    found = image_results(image, scans={identity: old}, signatures={identity: []})
    assert found["IMG-04"] == ("fail", "medium")
    assert found["IMG-05"] == ("fail", "high")
    assert found["IMG-06"] == ("fail", "high")
    assert found["IMG-07"] == ("fail", "medium")
    fresh = ScanSummary(scanned_at=NOW, critical_fixable=1, end_of_life=False)
    signed = {identity: [Signature(signer="ci@example.com")]}
    found = image_results(image, scans={identity: fresh}, signatures=signed, expected_signers=["ci@example.com"])
    assert (found["IMG-04"][0], found["IMG-05"], found["IMG-07"][0]) == ("pass", ("fail", "critical"), "pass")
    other = image_results(image, signatures=signed, expected_signers=["boss@example.com"])
    assert other["IMG-07"] == ("fail", "high")
    unnamed = image_results(image, signatures={identity: [Signature()]}, expected_signers=["boss@example.com"])
    assert unnamed["IMG-07"][0] == "unknown"


def test_build_steps(recorded: ModuleType):
    inspect = recorded.inspected("images/sec-good_1.0.2.inspect.json")

    def steps(*own: str) -> dict[str, tuple[str, str]]:
        history = [{"CreatedBy": step, "Size": 1} for step in (*reversed(own), "/bin/sh -c #(nop) ADD file:1 in / ")]
        return image_results(Image(inspect, history))

    assert steps("COPY . /app # buildkit")["IMG-11"][0] == "pass"  # the base image's ADD is nobody's here
    assert steps("ADD x.tar /app # buildkit")["IMG-11"] == ("fail", "low")
    assert steps("ADD https://example.com/x /x # buildkit")["IMG-11"] == ("fail", "medium")
    assert steps("RUN /bin/sh -c curl -fsSL https://example.com/i | sh # buildkit")["IMG-11"] == ("fail", "medium")
    assert steps("RUN /bin/sh -c apt-get update # buildkit")["IMG-12"][0] == "fail"
    assert steps("RUN /bin/sh -c apt-get update && apt-get install -y gcc # buildkit")["IMG-12"][0] == "pass"
    assert steps("RUN /bin/sh -c apt-get update && apt-get install -y gcc # buildkit")["IMG-10"][0] == "fail"
    assert steps("RUN /bin/sh -c apk add gcc && make && apk del gcc # buildkit")["IMG-10"][0] == "pass"


def test_an_image_that_was_replaced_under_its_tag(recorded: ModuleType):
    evidence = recorded.recorded_evidence()
    inspect = recorded.inspected("containers/sec-dockersock.json")
    inspect["Image"] = "sha256:" + "9" * 64
    assert {one.check: one.result for one in evaluate_container(evidence, Container(inspect))}["IMG-03"] == "fail"
    same = recorded.inspected("containers/sec-dockersock.json")
    assert {one.check: one.result for one in evaluate_container(evidence, Container(same))}["IMG-03"] == "pass"


# --- the host ------------------------------------------------------------------------------------------------------


def host(**evidence: Any) -> dict[str, tuple[str, str]]:
    found = evaluate_host(Evidence(**{"host": "h", "now": NOW, **evidence}), include_low=True)
    return {one.check: (one.result, one.severity.word) for one in found}


@pytest.mark.parametrize(
    ("version", "expected"),
    [("1.1.11", "fail"), ("1.1.12", "pass"), ("1.2.5", "pass"), ("1.1.5+ds1", "unknown"), ("v1.0.0", "fail"),
     ("", "unknown"), ("new", "unknown")],
)  # fmt: skip
def test_runc(version: str, expected: str):
    components = {"Components": [{"Name": "runc", "Version": version}]}
    assert host(version=components)["HST-05"][0] == expected
    assert host(version=components, now=NOW + timedelta(days=100))["HST-05"][0] == "unknown"  # the table is old


@pytest.mark.parametrize(
    ("version", "cdi", "expected"),
    [("1.16.1", False, ("fail", "critical")), ("1.17.0", False, ("fail", "critical")),
     ("1.17.8", False, ("fail", "high")), ("1.18.2", False, ("pass", "critical")),
     ("1.17.8", True, ("fail", "high"))],
)  # fmt: skip
def test_toolkit(version: str, cdi: bool, expected: tuple[str, str]):
    assert host(info=NVIDIA, toolkit_version=version, toolkit_in_cdi_mode=cdi)["GPU-09"] == expected


def test_without_its_version_the_toolkit_is_unknown_where_there_are_gpus():
    assert host(info=NVIDIA)["GPU-09"][0] == "unknown"
    assert host(info={"Runtimes": {"runc": {}}})["GPU-09"][0] == "not_applicable"
    assert host()["GPU-09"][0] == "unknown"


def test_the_daemons_own_settings():
    warned = {"Warnings": ["WARNING: API is accessible on http://0.0.0.0:2375 without encryption."]}
    assert host(info=warned)["HST-01"] == ("fail", "critical")
    assert host(info={"Warnings": None})["HST-01"][0] == "pass"
    assert host(info={"Warnings": None}, endpoint="tcp://10.0.0.1:2375")["HST-01"][0] == "fail"
    registries = {"InsecureRegistryCIDRs": ["127.0.0.0/8", "::1/128"], "IndexConfigs": {"docker.io": {"Secure": True}}}
    assert host(info={"RegistryConfig": registries})["HST-02"][0] == "pass"
    registries["IndexConfigs"]["reg.example.com"] = {"Secure": False}
    assert host(info={"RegistryConfig": registries})["HST-02"][0] == "fail"
    assert host(info={})["HST-02"][0] == "unknown"


def test_nothing_of_the_host_given_is_no_finding_about_it():
    assert evaluate(Evidence()) == ()
