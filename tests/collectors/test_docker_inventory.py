"""When a container is inspected, when its row is stored, and how restarts and OOM kills are counted once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from collectors.containers import Listed, Place
from collectors.docker_events import DockerMessage
from collectors.docker_inventory import DockerInventory, Life
from fleet.inventory import ContainerFacts, GpuRequest, HostGpu
from fleet.model import Container

AT = datetime(2026, 11, 22, 6, tzinfo=UTC)
NO_RUNTIME = 'could not select device driver "" with capabilities: [[gpu]]'
GPUS = (HostGpu(uuid="GPU-a", index=0), HostGpu(uuid="GPU-b", index=1))


def entry(name: str, state: str = "running", mark: int = 0) -> Listed:
    return Listed(container_id=name, state=state, health="", fingerprint=(state, mark))


def message(name: str, action: str, at: int = 1_000) -> DockerMessage:
    return DockerMessage(at_nanoseconds=at, container_id=name, action=action, detail="", attributes={"name": name})


def facts(name: str, **changes: object) -> ContainerFacts:
    row = Container(
        seen_at=AT, host="h", tenant="t", team="", owner="", tenant_origin="none", container_key=f"h:{name}",
        container_id=name, name=name, image="i", image_id="sha256:1", image_digest="", state="running", started_at=AT,
    )  # fmt: skip
    return ContainerFacts(row=replace(row, **changes))  # type: ignore[arg-type]


def started(*names: str, **options: object) -> DockerInventory:
    """An inventory after its first poll."""
    inventory = DockerInventory("h", **options)  # type: ignore[arg-type]
    inventory.begin(500)
    for name in inventory.observe([entry(name) for name in names], [], missed=False, now=0):
        inventory.inspected(name, facts(name), Place())
    inventory.rows(AT, 0)
    return inventory


def test_the_first_poll_inspects_everything_and_the_next_nothing() -> None:
    inventory = DockerInventory("h")
    assert inventory.observe([entry("a"), entry("b", "exited")], [], missed=False, now=0) == ("a", "b")
    for name in "ab":
        inventory.inspected(name, facts(name), Place())
    assert inventory.observe([entry("a"), entry("b", "exited")], [], missed=False, now=5) == ()


def test_a_new_line_a_changed_line_and_an_event_each_ask_for_an_inspection() -> None:
    inventory = started("a", "b", "c")
    listing = [entry("a"), entry("b", mark=1), entry("c"), entry("d")]
    assert inventory.observe(listing, [message("c", "rename")], missed=False, now=5) == ("b", "c", "d")


def test_a_signal_or_an_oom_kill_asks_for_none() -> None:
    inventory = started("a")
    assert inventory.observe([entry("a")], [message("a", "kill"), message("a", "oom")], missed=False, now=5) == ()


def test_history_before_the_first_look_asks_for_none_and_counts_nothing() -> None:
    inventory = started("a")
    told = [message("a", "die", at=400), message("a", "start", at=450), message("a", "oom", at=460)]
    assert inventory.observe([entry("a")], told, missed=False, now=5) == ()
    (known,) = inventory.containers()
    assert known.life.tell() == (0, 0)


def test_missed_events_and_a_long_time_ask_for_all() -> None:
    assert started("a", "b").observe([entry("a"), entry("b")], [], missed=True, now=5) == ("a", "b")
    assert started("a").observe([entry("a")], [], missed=False, now=3_599) == ()
    assert started("a").observe([entry("a")], [], missed=False, now=3_600) == ("a",)


def test_live_containers_are_inspected_before_dead_ones() -> None:
    listing = [entry("a", "exited"), entry("b"), entry("c", "created"), entry("d", "paused")]
    assert DockerInventory("h").observe(listing, [], missed=False, now=0) == ("b", "d", "a", "c")


def test_what_could_not_be_inspected_is_asked_for_again() -> None:
    inventory = DockerInventory("h")
    assert inventory.observe([entry("a")], [], missed=False, now=0) == ("a",)
    assert [known.listed.container_id for known in inventory.waiting()] == ["a"]
    assert inventory.observe([entry("a")], [], missed=False, now=5) == ("a",)


def test_a_row_is_stored_when_it_changed_and_once_an_hour() -> None:
    inventory = started("a")
    inventory.observe([entry("a")], [message("a", "update")], missed=False, now=5)
    inventory.inspected("a", facts("a"), Place())
    assert inventory.rows(AT, 5) == []
    inventory.observe([entry("a")], [message("a", "update")], missed=False, now=10)
    inventory.inspected("a", facts("a", memory_limit_bytes=5), Place())
    assert [row.memory_limit_bytes for row in inventory.rows(AT, 10)] == [5]
    later = AT + timedelta(hours=1)
    assert [row.seen_at for row in inventory.rows(later, 3_610)] == [later]


def test_a_removed_container_gets_a_last_row() -> None:
    inventory = started("a", "b")
    inventory.observe([entry("b")], [message("a", "destroy")], missed=False, now=5)
    assert [(row.name, row.removed) for row in inventory.rows(AT, 5)] == [("a", True)]
    assert inventory.rows(AT, 6) == []


def test_an_image_change_is_told_when_the_new_container_runs() -> None:
    inventory = started("a")
    inventory.observe([entry("b")], [], missed=False, now=5)
    created = facts("b", container_key="h:a", image_id="sha256:2", image="app:2", state="created")
    assert inventory.inspected("b", created, Place()) == ()
    (event,) = inventory.inspected("b", replace(created, row=replace(created.row, state="running")), Place())
    assert (event.kind, event.container_key, event.at) == ("image_change", "h:a", AT)
    assert inventory.inspected("b", replace(created, row=replace(created.row, state="running")), Place()) == ()


def test_a_deploy_while_we_were_not_looking_is_told_from_the_images_of_before() -> None:
    inventory = DockerInventory("h", images_before={"h:a": "sha256:0"})
    inventory.observe([entry("a")], [], missed=False, now=0)
    (event,) = inventory.inspected("a", facts("a"), Place())
    assert event.attributes["image_id_before"] == "sha256:0"


def test_a_restart_seen_by_inspection_and_then_by_event_counts_once() -> None:
    life = Life(born_here=True)
    life.see(facts("a", restart_count=0).row)
    life.hear("die")
    life.see(facts("a", restart_count=1).row)
    assert life.tell() == (1, 0)
    life.hear("start")
    assert life.tell() == (0, 0)


def test_restarts_from_before_we_looked_do_not_count() -> None:
    life = Life(born_here=False)
    life.see(facts("a", restart_count=40).row)
    assert life.tell() == (0, 0)
    life.see(facts("a", restart_count=42).row)
    assert life.tell() == (2, 0)


def test_a_restart_by_hand_counts_although_the_daemon_resets_its_count() -> None:
    life = Life(born_here=False)
    life.see(facts("a", restart_count=5).row)
    life.hear("die")
    life.hear("start")
    life.see(facts("a", restart_count=0).row)
    assert life.tell() == (1, 0)


def test_a_container_that_was_down_and_starts_counts_as_restarted() -> None:
    life = Life(born_here=False)
    life.see(facts("a", state="exited", finished_at=AT).row)
    life.hear("start")
    assert life.tell() == (1, 0)


def test_the_first_start_is_no_restart() -> None:
    life = Life(born_here=True)
    for action in ("create", "start"):
        life.hear(action)
    life.see(facts("a").row)
    assert life.tell() == (0, 0)


def test_an_oom_kill_that_only_one_witness_saw_counts() -> None:
    life = Life(born_here=True)
    life.hear("oom")
    assert life.tell() == (0, 1)
    life.ooms_by_cgroup = 1
    assert life.tell() == (0, 0)
    life.ooms_by_cgroup = 3
    assert life.tell() == (0, 2)


def wants(name: str, request: GpuRequest, **changes: object) -> ContainerFacts:
    """A container that asks for GPUs."""
    return replace(facts(name, gpu_request_kind=request.kind, **changes), gpu=request)


def test_requests_are_resolved_when_the_hosts_gpus_become_known_and_rows_are_sent_again() -> None:
    inventory = DockerInventory("h")
    inventory.observe([entry("a"), entry("b")], [], missed=False, now=0)
    inventory.inspected("a", wants("a", GpuRequest(kind="ids", ids=("1", "7"))), Place())
    inventory.inspected("b", facts("b"), Place())
    inventory.resolve_gpus(None)
    assert [(row.gpu_uuids, row.gpu_unresolved) for row in inventory.rows(AT, 0)] == [((), ()), ((), ())]
    inventory.resolve_gpus(GPUS)
    assert [(row.name, row.gpu_uuids, row.gpu_unresolved) for row in inventory.rows(AT, 5)] == [
        ("a", ("GPU-b",), ("7",))
    ]
    inventory.resolve_gpus(GPUS)
    assert inventory.rows(AT, 10) == []
    # One inspected later is resolved at once, and what others are told of it is resolved too.
    inventory.observe([entry("a"), entry("b"), entry("c")], [], missed=False, now=15)
    inventory.inspected("c", wants("c", GpuRequest(kind="count", count=1)), Place())
    assert [row.gpu_uuids for row in inventory.rows(AT, 15)] == [("GPU-a",)]
    assert {known.facts.row.gpu_uuids for known in inventory.containers() if known.facts} == {
        ("GPU-b",), (), ("GPU-a",),
    }  # fmt: skip


def test_a_changed_gpu_list_changes_only_the_rows_it_concerns() -> None:
    inventory = DockerInventory("h")
    inventory.resolve_gpus(GPUS)
    inventory.observe([entry("a"), entry("b")], [], missed=False, now=0)
    inventory.inspected("a", wants("a", GpuRequest(kind="all")), Place())
    inventory.inspected("b", wants("b", GpuRequest(kind="ids", ids=("0",))), Place())
    inventory.rows(AT, 0)
    inventory.resolve_gpus(GPUS[:1])  # GPU 1 fell off the bus
    assert [(row.name, row.gpu_uuids) for row in inventory.rows(AT, 5)] == [("a", ("GPU-a",))]


def test_a_start_that_failed_for_a_gpu_is_told_once_with_what_to_do() -> None:
    inventory = DockerInventory("h")
    request = GpuRequest(kind="all", text="--gpus all")
    failed = wants("a", request, state="created", error=NO_RUNTIME, gpu_request="--gpus all", started_at=None)
    inventory.observe([entry("a", "created")], [], missed=False, now=0)
    assert inventory.inspected("a", wants("a", request, state="created"), Place()) == ()
    (event,) = inventory.inspected("a", failed, Place())
    assert (event.kind, event.severity, event.at) == ("gpu_start_failed", "warning", AT)
    assert event.title == "a could not start: no NVIDIA runtime"
    assert "nvidia-container-toolkit" in event.detail
    assert event.attributes["request"] == "--gpus all"
    assert inventory.inspected("a", failed, Place()) == ()
    # It ran in between: the same failure is a new one.
    inventory.inspected("a", wants("a", request), Place())
    assert len(inventory.inspected("a", failed, Place())) == 1


def test_a_start_that_failed_before_this_start_is_not_told_again() -> None:
    failed = wants("a", GpuRequest(kind="all"), state="created", error=NO_RUNTIME)
    inventory = DockerInventory("h")
    inventory.remember({"a": failed.row})
    inventory.observe([entry("a", "created")], [], missed=False, now=0)
    assert inventory.inspected("a", failed, Place()) == ()


def test_a_start_that_failed_for_another_reason_is_no_gpu_event() -> None:
    inventory = DockerInventory("h")
    inventory.observe([entry("a", "created")], [], missed=False, now=0)
    failed = wants("a", GpuRequest(kind="all"), error="driver failed programming external connectivity: port in use")
    assert inventory.inspected("a", failed, Place()) == ()


def test_only_a_container_that_waits_for_its_first_start_with_a_gpu_is_looked_at_again() -> None:
    inventory = DockerInventory("h")
    listing = [entry("a", "created"), entry("b", "created"), entry("c"), entry("d", "created")]
    inventory.observe(listing, [], missed=False, now=0)
    inventory.inspected("a", wants("a", GpuRequest(kind="count", count=1)), Place())
    inventory.inspected("b", facts("b"), Place())
    inventory.inspected("c", wants("c", GpuRequest(kind="all")), Place())
    inventory.inspected("d", wants("d", GpuRequest(kind="privileged")), Place())
    assert inventory.observe(listing, [], missed=False, now=29) == ()
    assert inventory.observe(listing, [], missed=False, now=30) == ("a",)
    inventory.inspected("a", wants("a", GpuRequest(kind="count", count=1)), Place())
    assert inventory.observe(listing, [], missed=False, now=35) == ()


def test_what_the_store_knew_and_the_first_list_lacks_was_removed() -> None:
    inventory = DockerInventory("h")
    inventory.remember({"a": facts("a").row, "gone": facts("gone", gpu_uuids=("GPU-a",)).row})
    inventory.observe([entry("a"), entry("b")], [], missed=False, now=0)
    later = AT + timedelta(minutes=5)
    rows = inventory.rows(later, 0)  # nothing is inspected yet, and "a" is not taken for removed
    assert [(row.name, row.removed, row.seen_at, row.gpu_uuids) for row in rows] == [("gone", True, later, ("GPU-a",))]
    assert inventory.rows(later, 5) == []


def test_what_was_removed_between_a_late_memory_and_now_is_told_once() -> None:
    inventory = started("a", "b")
    inventory.remember({"a": facts("a").row, "old": facts("old").row})
    inventory.observe([entry("b")], [], missed=False, now=5)
    assert sorted((row.name, row.removed) for row in inventory.rows(AT, 5)) == [("a", True), ("old", True)]
