"""A GPU host for tests: stub driver, a /proc of its own, an inventory, and the source that reads all three."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from collectors.base import Reading
from collectors.nvml_process import NvmlProcess
from collectors.sources.nvml import NvmlSource
from fleet.inventory import ContainerFacts, GpuRequest, HostInventory, Inventory
from fleet.model import Container, ContainerGpuSample, GpuSample
from fleet.settings_table import NvmlSettings
from tests.fakes.nvml_stub import NvmlStub

A = "GPU-aaaaaaaa-0000-0000-0000-000000000000"
B = "GPU-bbbbbbbb-0000-0000-0000-000000000000"
T0 = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HOST = "gpu-box"


def container_id(name: str) -> str:
    """The full id of a container: a letter 64 times, or the digest of a longer name."""
    return name * 64 if len(name) == 1 else hashlib.sha256(name.encode()).hexdigest()


def facts(name: str, pid: int, gpu: GpuRequest | None = None, tenant: str = "acme") -> ContainerFacts:
    row = Container(
        seen_at=T0, host=HOST, tenant=tenant, team="", owner="", tenant_origin="label",
        container_key=f"{HOST}:{name}", container_id=container_id(name), name=name, image="i", image_id="",
        image_digest="", state="running",
    )  # fmt: skip
    return ContainerFacts(row=row, pid=pid, gpu=gpu or GpuRequest())


class GpuHost:
    """`poll(seconds)` moves the clock and reads once."""

    def __init__(self, folder: Path, stub: NvmlStub, *, proc_root: Path | None = None, **settings: object) -> None:
        self.stub = stub
        self.proc = proc_root or folder / "proc"
        if proc_root is None:
            self.proc.mkdir()
            (self.proc / "self").symlink_to(str(os.getpid()))
        self.inventory = Inventory()
        self.settings = NvmlSettings(proc_root=str(self.proc), **{"call_timeout_seconds": 5.0, **settings})
        self.process = NvmlProcess(
            call_timeout_seconds=self.settings.call_timeout_seconds,
            library=str(stub.library),
            environment=stub.environment,
        )
        self.at = T0
        self.monotonic = 1000.0
        self.wall = T0.timestamp()
        self.source = self.restart()

    def restart(self) -> NvmlSource:
        """A new source, as after a restart of the collector; the child process stays."""
        self.source = NvmlSource(
            self.settings,
            self.inventory,
            host=HOST,
            process=self.process,
            monotonic=lambda: self.monotonic,
            wall=lambda: self.wall,
        )
        return self.source

    def run(self, pid: int, cgroup: str, started: int = 100, name: str = "a b) c") -> None:
        """A process of this /proc; brackets and spaces in its name are as good as letters."""
        folder = self.proc / str(pid)
        folder.mkdir(exist_ok=True)
        before = " ".join(["0"] * 18)
        (folder / "stat").write_text(f"{pid} ({name}) S {before} {started} 0 0\n")
        (folder / "cgroup").write_text(f"0::{cgroup}\n")

    def end(self, pid: int) -> None:
        for name in ("stat", "cgroup"):
            (self.proc / str(pid) / name).unlink()
        (self.proc / str(pid)).rmdir()

    def publish(self, *containers: ContainerFacts) -> None:
        """The Docker source's answer; the first process of each container appears in /proc."""
        for one in containers:
            if self.proc.name != "proc" or self.proc.parent != Path("/"):
                self.run(one.pid, f"/docker/{one.row.container_id}")
        self.inventory.publish(HostInventory(host=HOST, at=self.at, local=True, containers=tuple(containers)))

    def poll(self, seconds: float = 5.0) -> Reading:
        self.at += timedelta(seconds=seconds)
        self.monotonic += seconds
        self.wall += seconds
        return self.source.collect(self.at)


def gpus(rows: Iterable[object]) -> dict[str, GpuSample]:
    return {row.gpu_uuid: row for row in rows if isinstance(row, GpuSample)}


def parts(rows: Iterable[object]) -> dict[tuple[str, str], ContainerGpuSample]:
    """By (name of the container or "", device)."""
    return {
        (row.container_key.rpartition(":")[2], row.gpu_uuid): row for row in rows if isinstance(row, ContainerGpuSample)
    }
