"""Each request form as `docker inspect` shows it (Engine 20.10 and 28.2), and what it comes to on a host."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fleet.allocation import Allocation, request_from_inspect, resolve
from fleet.inventory import GpuRequest, HostGpu
from tests.services.dockerd import running_dockerd

#: Every form, as a real daemon shows it, and what it comes to on HOST.
RECORDED = json.loads((Path(__file__).parent.parent / "recorded" / "docker_gpu_requests.json").read_text())["forms"]

A = "GPU-aaaaaaaa-0000-0000-0000-000000000000"
B = "GPU-bbbbbbbb-0000-0000-0000-000000000000"
C = "GPU-cccccccc-0000-0000-0000-000000000000"
M0 = "MIG-11111111-0000-0000-0000-000000000000"
M1 = "MIG-22222222-0000-0000-0000-000000000000"

# GPU 1 is in MIG mode with two devices; minor numbers run against the index, as they may.
HOST = (
    HostGpu(uuid=A, index=0, minor_number=2),
    HostGpu(uuid=B, index=1, minor_number=1, mig_enabled=True),
    HostGpu(uuid=M0, index=1, parent_uuid=B, mig_index=0, gpu_instance=1, compute_instance=0),
    HostGpu(uuid=M1, index=1, parent_uuid=B, mig_index=1, gpu_instance=2, compute_instance=0),
    HostGpu(uuid=C, index=2, minor_number=0),
)


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded["form"])
def test_every_recorded_form_comes_to_its_devices(recorded):
    request = request_from_inspect(recorded["inspect"])
    found = resolve(request, HOST)
    assert (request.kind, list(found.uuids), list(found.unresolved)) == (
        recorded["kind"], recorded["uuids"], recorded["unresolved"],
    )  # fmt: skip


@pytest.mark.docker
@pytest.mark.timeout(180)
def test_a_real_daemon_shows_every_form_as_it_was_recorded():
    runtimes = {"nvidia": {"path": shutil.which("runc")}}  # create looks at the name only
    with running_dockerd(settings={"runtimes": runtimes}) as daemon:
        for number, recorded in enumerate(RECORDED):
            if recorded["arguments"] is None:
                continue
            name = f"c{number}"
            daemon.cli("create", "--name", name, "--network", "none", *recorded["arguments"], "busybox:latest", "true")
            (shown,) = json.loads(daemon.cli("inspect", name))
            for key, value in recorded["inspect"]["HostConfig"].items():
                if key != "Mounts":  # the daemon adds what it filled in
                    assert shown["HostConfig"][key] == value, recorded["form"]
            assert request_from_inspect(shown) == request_from_inspect(recorded["inspect"]), recorded["form"]


def inspect(
    *requests: dict[str, object],
    runtime: str = "runc",
    env: tuple[str, ...] = (),
    devices: tuple[str, ...] = (),
    privileged: bool = False,
    **host_config: object,
) -> dict[str, object]:
    return {
        "Config": {"Env": list(env)},
        "HostConfig": {
            "DeviceRequests": list(requests) or None,
            "Runtime": runtime,
            "Devices": [{"PathOnHost": node, "PathInContainer": node, "CgroupPermissions": "rwm"} for node in devices],
            "Privileged": privileged,
            **host_config,
        },
    }


def gpus(
    count: int = 0, ids: list[str] | None = None, capabilities: tuple[str, ...] = ("gpu",), driver: str = ""
) -> dict[str, object]:
    return {
        "Driver": driver, "Count": count, "DeviceIDs": ids, "Capabilities": [list(capabilities)], "Options": {},
    }  # fmt: skip


def cdi(*names: str) -> dict[str, object]:
    return {"Driver": "cdi", "Count": 0, "DeviceIDs": list(names), "Capabilities": None, "Options": None}


@pytest.mark.parametrize(
    ("request_", "kind", "count", "ids", "text"),
    [
        (gpus(-1), "all", 0, (), "--gpus all"),
        (gpus(2), "count", 2, (), "--gpus 2"),
        (gpus(ids=["0", "1"]), "ids", 0, ("0", "1"), "--gpus device=0,1"),
        (gpus(ids=[A]), "ids", 0, (A,), f"--gpus device={A}"),
        (gpus(ids=[M0]), "ids", 0, (M0,), f"--gpus device={M0}"),
        (gpus(-1, capabilities=("compute", "utility", "gpu")), "all", 0, (), "--gpus all,capabilities=compute,utility"),
        (cdi("nvidia.com/gpu=0"), "ids", 0, ("nvidia.com/gpu=0",), "--device nvidia.com/gpu=0"),
        (cdi("nvidia.com/gpu=all"), "all", 0, (), "--device nvidia.com/gpu=all"),
        (gpus(-1, driver="nvidia"), "all", 0, (), "--gpus all,driver=nvidia"),  # compose
        (gpus(1, driver="nvidia"), "count", 1, (), "--gpus 1,driver=nvidia"),
        (gpus(0), "none", 0, (), "--gpus 0"),
        (gpus(-1, driver="amd"), "none", 0, (), "--gpus all,driver=amd"),
        (cdi("amd.com/gpu=0"), "none", 0, (), "--device amd.com/gpu=0"),
        (gpus(-1, capabilities=("tpu",)), "none", 0, (), "--gpus all,capabilities=tpu"),
    ],
)
def test_every_device_request_form_is_read_as_the_person_typed_it(request_, kind, count, ids, text):
    assert request_from_inspect(inspect(request_)) == GpuRequest(kind=kind, count=count, ids=ids, text=text)


def test_the_variable_of_a_cuda_image_means_nothing_under_runc():
    assert request_from_inspect(inspect(env=("NVIDIA_VISIBLE_DEVICES=all",))).kind == "none"


@pytest.mark.parametrize(
    ("value", "kind", "ids"),
    [
        ("all", "all", ()),
        ("0,2", "ids", ("0", "2")),
        ("GPU-aaaaaaaa", "ids", ("GPU-aaaaaaaa",)),
        ("1:0", "ids", ("1:0",)),
        ("nvidia.com/gpu=1", "ids", ("nvidia.com/gpu=1",)),
        ("nvidia.com/gpu=all", "all", ()),
        ("none", "none", ()),
        ("void", "none", ()),
        ("", "none", ()),
    ],
)
def test_the_variable_counts_under_an_nvidia_runtime(value, kind, ids):
    found = request_from_inspect(inspect(runtime="nvidia", env=("A=b", f"NVIDIA_VISIBLE_DEVICES={value}")))
    assert (found.kind, found.ids) == (kind, ids)


def test_the_last_of_two_variables_wins_and_an_unset_one_gives_nothing():
    both = inspect(runtime="nvidia", env=("NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=1"))
    assert request_from_inspect(both).ids == ("1",)
    assert request_from_inspect(inspect(runtime="nvidia")).kind == "none"


def test_a_device_request_wins_over_the_variable():
    found = request_from_inspect(inspect(gpus(1), runtime="nvidia", env=("NVIDIA_VISIBLE_DEVICES=all",)))
    assert (found.kind, found.count) == ("count", 1)


def test_mounts_annotations_and_swarm_resources_are_read_under_an_nvidia_runtime():
    mounts = inspect(runtime="nvidia", Binds=["/dev/null:/var/run/nvidia-container-devices/2", "/a:/b"])
    assert request_from_inspect(mounts).ids == ("2",)
    annotated = inspect(runtime="nvidia", Annotations={"cdi.k8s.io/gpus": "nvidia.com/gpu=0,nvidia.com/gpu=1"})
    assert request_from_inspect(annotated).ids == ("nvidia.com/gpu=0", "nvidia.com/gpu=1")
    annotated = inspect(runtime="nvidia", Annotations={"cdi.k8s.io/gpus": "nvidia.com/gpu=all"})
    assert request_from_inspect(annotated).kind == "all"
    swarm = inspect(runtime="nvidia", env=("NVIDIA_VISIBLE_DEVICES=all", "DOCKER_RESOURCE_GPU=GPU-bbbbbbbb"))
    assert request_from_inspect(swarm).ids == ("GPU-bbbbbbbb",)


def test_device_nodes_are_minor_numbers_and_control_nodes_are_no_gpu():
    found = request_from_inspect(inspect(devices=("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm")))
    assert found == GpuRequest(kind="device_nodes", ids=("0",), text="--device /dev/nvidia0")
    assert request_from_inspect(inspect(devices=("/dev/nvidiactl",))).kind == "none"
    # Minor 0 is the GPU with index 2 here.
    assert resolve(found, HOST) == Allocation(uuids=(C,))


def test_a_privileged_container_can_reach_all_but_holds_none():
    found = request_from_inspect(inspect(privileged=True))
    assert found.kind == "privileged"
    assert resolve(found, HOST) == Allocation()


@pytest.mark.parametrize("broken", [{}, {"HostConfig": None}, {"HostConfig": {"DeviceRequests": [None, 3, {}]}}])
def test_an_inspect_of_another_shape_asks_for_nothing(broken):
    assert request_from_inspect(broken).kind == "none"


def test_several_requests_add_up():
    found = request_from_inspect(inspect(gpus(1), cdi("nvidia.com/gpu=2")))
    assert (found.kind, found.ids) == ("ids", ("0", "nvidia.com/gpu=2"))
    assert resolve(found, HOST).uuids == (A, C)


def test_a_long_request_is_cut_for_display_but_not_for_resolving():
    found = request_from_inspect(inspect(gpus(ids=[f"GPU-{n:036d}" for n in range(16)])))
    assert len(found.text) == 200
    assert len(found.ids) == 16


def test_all_means_whole_gpus_outside_mig_mode_and_every_mig_device():
    assert resolve(GpuRequest(kind="all"), HOST).uuids == (A, M0, M1, C)
    empty_mig = (HostGpu(uuid=A, index=0), HostGpu(uuid=B, index=1, mig_enabled=True))
    assert resolve(GpuRequest(kind="all"), empty_mig).uuids == (A,)


def test_a_count_means_the_first_indices_so_two_counts_overlap():
    two = resolve(GpuRequest(kind="count", count=2), HOST)
    one = resolve(GpuRequest(kind="count", count=1), HOST)
    assert two.uuids == (A, B)
    assert set(one.uuids) <= set(two.uuids)
    assert resolve(GpuRequest(kind="count", count=4), HOST) == Allocation(uuids=(A, B, C), unresolved=("3",))


@pytest.mark.parametrize(
    ("name", "uuid"),
    [
        ("0", A), ("gpu2", C), (A, A), (A.lower(), A), ("GPU-cccccccc", C), (M1, M1), ("MIG-1111", M0),
        ("1:1", M1), ("mig1:0", M0), (f"MIG-{B}/2/0", M1),
        ("nvidia.com/gpu=2", C), ("nvidia.com/gpu=mig1:1", M1), ("management.nvidia.com/gpu=0", A),
    ],
)  # fmt: skip
def test_every_way_to_name_a_device_finds_it(name, uuid):
    assert resolve(GpuRequest(kind="ids", ids=(name,)), HOST) == Allocation(uuids=(uuid,))


@pytest.mark.parametrize("name", ["7", "GPU-dddddddd", "GPU-", "0:0", "nonsense", "amd.com/gpu=0", "GPU-aa"])
def test_a_name_that_is_not_on_this_host_stays_unresolved(name):
    assert resolve(GpuRequest(kind="ids", ids=("2", name)), HOST) == Allocation(uuids=(C,), unresolved=(name,))


def test_an_ambiguous_prefix_names_nothing():
    twins = (HostGpu(uuid="GPU-1234aaaa", index=0), HostGpu(uuid="GPU-1234bbbb", index=1))
    assert resolve(GpuRequest(kind="ids", ids=("GPU-1234",)), twins).unresolved == ("GPU-1234",)


def test_an_absurd_request_costs_nothing():
    found = request_from_inspect(inspect(gpus(10**9), gpus(ids=[f"GPU-{n:036d}" for n in range(5_000)])))
    assert len(found.ids) == 256
    assert len(resolve(GpuRequest(kind="count", count=10**9), HOST).unresolved) == 253


def test_a_list_that_says_void_anywhere_gives_nothing_and_none_beside_a_device_is_left_out():
    assert request_from_inspect(inspect(gpus(ids=["0", "void"]))).kind == "none"
    assert request_from_inspect(inspect(gpus(ids=["none", "2"]))).ids == ("2",)
