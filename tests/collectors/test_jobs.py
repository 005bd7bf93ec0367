"""What the keeper writes down: hand-made looks at one host, a real store, real files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from collectors.job_energy import energy_from
from collectors.job_facts import GpuFacts, JobRules, gpu_facts, look_at
from collectors.job_ledger import JobLedger, read_entries
from collectors.jobs import Energy, EnergyUnknownError, JobKeeper
from fleet.gpu_jobs import fold, verify
from fleet.model import Batch, Container, ContainerGpuSample, Event, Gpu, GpuJob
from fleet.settings_table import JobSettings, TenancySettings
from store import Store
from tests.store.stores import embedded_store

T = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
RULES = JobRules(jobs=JobSettings(), tenancy=TenancySettings())
GPUS = {"GPU-1": GpuFacts(name="H100"), "GPU-2": GpuFacts(name="H100"), "MIG-1": GpuFacts(name="A100", share=3 / 7)}


def at(seconds: float) -> datetime:
    return T + timedelta(seconds=seconds)


def container(name: str = "llm", **changes: object) -> Container:
    """A running container that holds GPU-1, started at second 0."""
    values: dict[str, object] = {
        "seen_at": T, "host": "h1", "tenant": "acme", "team": "chat", "owner": "", "tenant_origin": "mapped",
        "container_key": f"h1:{name}", "container_id": f"{name}-id", "name": name, "image": "vllm:1",
        "image_id": "sha256:1", "image_digest": "sha256:2", "state": "running", "started_at": T, "user": "10001",
        "gpu_request": "--gpus device=0", "gpu_request_kind": "ids", "gpu_uuids": ("GPU-1",),
    }  # fmt: skip
    return Container(**(values | changes))  # type: ignore[arg-type]


def exited(seconds: float, code: int = 0, **changes: object) -> Container:
    return container(state="exited", finished_at=at(seconds), exit_code=code, **changes)


def died(seconds: float, code: int = 0, name: str = "llm") -> Event:
    return Event(
        at=at(seconds), event_id=f"{name}{seconds}", host="h1", container_id=f"{name}-id", source="docker", kind="die",
        title="", attributes={"exit_code": str(code)},
    )  # fmt: skip


class Machine:
    """A collector's ledger on one store; `restart` is a new process on the same files."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder, self.store = folder, store
        self.energy: Energy = lambda job, end: (None, "not asked")
        self.restart()

    def restart(self) -> None:
        self.ledger = JobLedger(self.folder, "h1", self.store)
        self.ledger.load()
        self.keeper = JobKeeper(self.ledger, lambda job, end: self.energy(job, end))

    def look(self, seconds: float, *containers: Container) -> None:
        used = self.keeper.used()
        self.keeper.look(look_at("h1", at(seconds), containers, GPUS, RULES, chain="h1", used=used))

    @property
    def entries(self) -> list[GpuJob]:
        lines = read_entries(self.store)
        found = verify(lines, head=self.ledger.head)
        assert found.findings == ()
        return [line for line in lines if isinstance(line, GpuJob)]

    @property
    def told(self) -> list[tuple[str, float, float | None, int | None, str]]:
        """(entry, start, end in seconds after T, exit code, end reason) of every entry."""
        return [
            (
                row.entry, (row.started_at - T).total_seconds(),
                None if row.ended_at is None else (row.ended_at - T).total_seconds(), row.exit_code, row.end_reason,
            )
            for row in self.entries
        ]  # fmt: skip


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with embedded_store() as opened:
        yield opened


@pytest.fixture
def machine(tmp_path: Path, store: Store) -> Iterator[Machine]:
    yield Machine(tmp_path, store)
    for table in ("gpu_jobs", "container_gpu_samples", "source_runs"):
        store.command(f"TRUNCATE TABLE {table}")


def test_a_run_is_opened_with_its_facts_and_where_each_comes_from(machine: Machine):
    labels = {"aifleet.user": "ada", "aifleet.job": "eval-7"}
    machine.look(5, container(labels=labels, gpu_uuids=("GPU-1", "MIG-1")))
    machine.look(10, container(labels=labels, gpu_uuids=("GPU-1", "MIG-1")))
    (row,) = machine.entries
    assert (row.entry, row.tenant, row.team, row.user, row.workload) == ("open", "acme", "chat", "ada", "eval-7")
    assert (row.gpu_uuids, row.gpu_names, row.gpu_count) == (("GPU-1", "MIG-1"), ("H100", "A100"), 1.428571)
    assert (row.started_at, row.ended_at, row.at) == (T, None, at(5))
    assert row.sources == {
        "tenant": "operator's rule", "team": "operator's rule", "user": "label aifleet.user",
        "workload": "label aifleet.job", "gpu_uuids": "--gpus device=0, resolved on the host's list",
        "started_at": "docker inspect", "image_digest": "docker image inspect",
        "run_started_at": "2026-11-20T08:00:00.000Z",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "key", "value", "source"),
    [
        ({}, "user", "10001", "user of the container"),
        ({"user": ""}, "user", "", "not set: the image's default user"),
        ({}, "workload", "llm", "container name"),
        ({"labels": {"com.docker.compose.service": "web"}}, "workload", "web", "label com.docker.compose.service"),
        (
            {"tenant_origin": "label", "labels": {"aifleet.tenant": "acme"}},
            "tenant", "acme", "label aifleet.tenant",
        ),
        ({"tenant_origin": "compose"}, "tenant", "acme", "compose project"),
        ({"tenant_origin": "none", "tenant": "unassigned"}, "tenant", "unassigned", "nobody named"),
    ],
)  # fmt: skip
def test_a_fact_tells_its_source(machine: Machine, changes: dict[str, object], key: str, value: str, source: str):
    machine.look(5, container(**changes))
    (row,) = machine.entries
    assert (getattr(row, key), row.sources[key]) == (value, source)


def test_containers_without_gpus_or_with_unknown_ones_are_no_jobs(machine: Machine):
    machine.look(
        5,
        container("web", gpu_uuids=(), gpu_request_kind="none", gpu_request=""),
        container("root", gpu_uuids=(), gpu_request_kind="privileged"),
        container("early", gpu_uuids=()),
        container("slice", gpu_uuids=("MIG-unheard",)),
        container("stopped", state="exited", finished_at=at(1)),
    )
    assert machine.entries == []
    assert machine.keeper.waiting() == ("early", "slice")


def test_an_event_tells_the_end_before_an_inspection_does(machine: Machine):
    machine.look(5, container())
    machine.keeper.hear([died(7.5, 137)])
    machine.look(10, exited(8, 137))
    assert len(machine.entries) == 1  # its last samples are still on their way
    machine.look(20, exited(8, 137))
    assert machine.told[1] == ("close", 0, 7.5, 137, "ended with exit code 137 (killed)")
    row = machine.entries[1]
    assert (row.sources["ended_at"], row.sources["exit_code"]) == ("docker event", "docker event")
    assert (row.duration_seconds, row.gpu_hours) == (7.5, round(7.5 / 3600, 6))
    machine.look(25, exited(8, 137))
    assert len(machine.entries) == 2


def test_an_inspection_tells_the_end_when_no_event_was_heard(machine: Machine):
    machine.look(5, container())
    machine.look(10, exited(8, 137, oom_killed=True))
    machine.look(20, exited(8, 137, oom_killed=True))
    assert machine.told[1] == ("close", 0, 8, 137, "ended with exit code 137 (out of memory)")
    assert machine.entries[1].sources["ended_at"] == "docker inspect"


def test_a_removed_container_ends_by_its_event_or_when_it_was_last_seen(machine: Machine):
    machine.look(5, container(), container("batch"))
    machine.keeper.hear([died(6, 0, "batch")])
    machine.look(10)
    machine.look(20)
    assert machine.told[2:] == [("close", 0, 6, 0, "ended with exit code 0")]
    machine.look(71)
    assert machine.told[3:] == [("close", 0, 5, None, "its end was not seen")]
    assert machine.entries[3].sources["ended_at"] == "last seen"


def test_one_that_was_missing_for_a_moment_goes_on(machine: Machine):
    machine.look(5, container())
    machine.look(10)
    machine.look(15, container())
    machine.look(80, container())
    assert [row.entry for row in machine.entries] == ["open", "gap"]


def test_one_that_was_given_up_and_is_seen_again_is_another_job(machine: Machine):
    machine.look(5, container())
    for seconds in (10, 40, 71):
        machine.look(seconds)
    machine.look(80, container())
    assert machine.told == [
        ("open", 0, None, None, ""),
        ("close", 0, 5, None, "its end was not seen"),
        ("open", 80, None, None, ""),
    ]
    assert len(fold(machine.entries)) == 2


def test_a_restart_is_a_new_job_and_the_old_one_ends_where_inspect_says(machine: Machine):
    machine.look(5, container())
    machine.look(10, container(started_at=at(8), finished_at=at(7)))
    machine.look(20, container(started_at=at(8), finished_at=at(7)))
    assert machine.told == [
        ("open", 0, None, None, ""),
        ("open", 8, None, None, ""),
        ("close", 0, 7, None, "ended"),
    ]
    assert machine.entries[2].sources["ended_at"] == "docker inspect of the next run"
    machine.keeper.hear([died(30, 1)])
    machine.look(40, container(started_at=at(32), finished_at=at(30)))
    machine.look(51, container(started_at=at(32), finished_at=at(30)))
    assert machine.told[3:] == [("open", 32, None, None, ""), ("close", 8, 30, 1, "ended with exit code 1")]


def test_another_set_of_gpus_is_another_job_and_an_unknown_one_is_not(machine: Machine):
    machine.look(5, container())
    machine.look(10, container(gpu_uuids=()))
    machine.look(15, container(gpu_uuids=("GPU-2",)))
    machine.look(20, container(gpu_uuids=("GPU-2",)))
    machine.look(25, container(gpu_uuids=("GPU-1",)))
    assert machine.told == [
        ("open", 0, None, None, ""),
        ("close", 0, 15, None, "its set of GPUs changed"),
        ("open", 15, None, None, ""),
        ("close", 15, 25, None, "its set of GPUs changed"),
        ("open", 25, None, None, ""),
    ]
    assert len(fold(machine.entries)) == 3


def test_after_downtime_a_job_that_still_runs_stays_open_and_the_gap_is_a_row(machine: Machine):
    machine.look(5, container())
    machine.ledger.save()
    machine.restart()
    machine.look(3605, container(gpu_uuids=()))  # its GPUs are not listed yet
    machine.look(3610, container())
    assert machine.told == [
        ("open", 0, None, None, ""),
        ("gap", 5, 3605, None, "the collector was not running"),
    ]
    assert machine.entries[1].duration_seconds == 3600.0


def test_after_downtime_an_end_is_what_inspect_says_or_when_it_was_last_seen(machine: Machine):
    machine.look(5, container(), container("gone"))
    machine.ledger.save()
    machine.restart()
    for seconds in (3605, 3616, 3670):
        machine.look(seconds, exited(1800, 3))
    assert machine.told[2:] == [
        ("gap", 5, 3605, None, "the collector was not running"),
        ("close", 0, 1800, 3, "ended with exit code 3"),
        ("close", 0, 5, None, "not seen since the collector was down"),
    ]


def test_a_daemon_that_did_not_answer_leaves_a_gap(machine: Machine):
    machine.look(5, container())
    machine.look(65, container())
    machine.look(200, container())
    assert machine.told[1:] == [("gap", 65, 200, None, "the Docker daemon could not be read")]


def test_a_clock_that_went_back_keeps_the_chain_and_says_so(machine: Machine):
    machine.look(100, container())
    machine.look(40, container(), container("batch", started_at=at(39)))
    first, second = machine.entries
    assert second.at == first.at
    assert second.sources["at"] == "a clock went back to 2026-11-20T08:00:40.000Z"
    # The container was restarted under a clock that is an hour behind: another run all the same, and no negative time.
    machine.look(45, container(started_at=at(-3600), finished_at=at(-3601)), container("batch", started_at=at(39)))
    for seconds in (60, 130):
        machine.look(
            seconds, container(started_at=at(-3600), finished_at=at(-3601)), container("batch", started_at=at(39))
        )
    assert [row.duration_seconds for row in machine.entries if row.entry == "close"] == [40.0]
    assert len([job for job in fold(machine.entries) if job.row.ended_at is None]) == 2


def test_energy_is_summed_over_the_run_with_the_share_that_was_sampled(machine: Machine, store: Store):
    rows = [
        ContainerGpuSample(
            at=at(second), host="h1", tenant="acme", container_key="h1:llm", container_id="llm-id", gpu_uuid=gpu,
            interval_seconds=10.0, held=True, energy_joules=None if second == 60 else 1000.0,
        )
        for second in range(10, 210, 10)
        for gpu in ("GPU-1", "GPU-2")
    ]  # fmt: skip
    store.append(Batch(token=f"energy-{machine.folder}", rows=tuple(rows)))
    machine.energy = energy_from(store.query)
    machine.look(5, container())
    machine.look(125, exited(100))
    machine.look(140, exited(100))
    row = machine.entries[-1]
    # Ten samples end within the 100 s, one of them unknown; the other GPU is not this job's.
    assert row.energy_joules == 9000.0
    assert row.sources["energy_joules"] == (
        "energy counter, shared by SM time (single samples; 90% of the run was sampled)"
    )  # fmt: skip
    job = replace(machine.entries[0], container_id="nobody")
    assert energy_from(store.query)(job, at(100)) == (None, "not known: no energy was sampled")
    minutes = energy_from(store.query)(replace(machine.entries[0], started_at=T - timedelta(hours=7)), at(180))
    assert minutes[0] == 16000.0  # the sample stamped with the very end is in the minute after it
    assert "(1-minute sums; less than 1% of" in minutes[1]


def test_a_close_waits_for_the_store_that_knows_its_energy_but_not_for_ever(machine: Machine):
    def away(job: GpuJob, end: datetime) -> tuple[float | None, str]:
        raise EnergyUnknownError("away")

    machine.energy = away
    machine.look(5, container())
    for seconds in range(10, 600, 50):
        machine.look(seconds, exited(8))
    assert len(machine.entries) == 1
    machine.look(615, exited(8))
    assert machine.entries[1].sources["energy_joules"] == "not known: the store was away"


def test_gpus_are_named_and_sized_by_what_the_gpu_source_brought(machine: Machine):
    whole = Gpu(seen_at=T, host="h1", gpu_uuid="GPU-9", gpu_index=0, name="A100")
    part = replace(whole, gpu_uuid="MIG-9", parent_uuid="GPU-9", mig_profile="1g.10gb", slice_ratio=1 / 7)
    assert gpu_facts(part) == GpuFacts(name="A100 MIG 1g.10gb", share=1 / 7)
    machine.keeper.hear([whole, part])
    assert machine.keeper.gpus() == {"GPU-9": GpuFacts(name="A100"), "MIG-9": gpu_facts(part)}


def using(gpu: str, name: str = "root", *, held: bool = False) -> ContainerGpuSample:
    return ContainerGpuSample(
        at=T, host="h1", tenant="acme", container_key=f"h1:{name}", container_id=f"{name}-id", gpu_uuid=gpu,
        interval_seconds=5.0, held=held, memory_bytes=1 << 30,
    )  # fmt: skip


def test_one_that_uses_a_gpu_it_does_not_hold_is_a_job_and_says_so(machine: Machine):
    root = container("root", gpu_uuids=(), gpu_request_kind="privileged", gpu_request="--privileged")
    machine.look(5, root, container())
    machine.keeper.hear([using("GPU-1"), using("GPU-2", "llm"), using("GPU-1", "llm", held=True)])
    machine.look(10, root, container())
    assert machine.told == [("open", 0, None, None, ""), ("open", 10, None, None, "")]
    row = machine.entries[1]
    assert (row.container_name, row.gpu_uuids, row.started_at) == ("root", ("GPU-1",), at(10))
    assert row.sources["gpu_uuids"] == "used, not declared: its processes are on them"
    assert row.sources["started_at"] == "first seen using them"
    # A restart of the collector forgets what was used; hearing of it again, or of less, is no change.
    machine.restart()
    machine.look(15, root, container())
    machine.keeper.hear([using("GPU-1")])
    machine.look(20, root, container())
    assert len(machine.entries) == 2
    machine.keeper.hear([using("GPU-2")])
    machine.look(25, root, container())
    assert machine.told[2:] == [
        ("close", 10, 25, None, "its set of GPUs changed"), ("open", 25, None, None, ""),
    ]  # fmt: skip
    assert machine.entries[3].gpu_uuids == ("GPU-1", "GPU-2")
