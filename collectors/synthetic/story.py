"""What goes wrong in the demo, and when: every scenario as a pure function of time.

All moments hang on `origin`, the instant the demo was first started, so that they lie where a person looks first and
stay there while the demo runs on. Recurring trouble (leak, noisy neighbour, crash loop) recurs for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from collectors.synthetic.layout import MEMBERS, Identities, member_index
from collectors.synthetic.noise import Floats
from fleet.gpu_words import xid
from fleet.model import Event, Severity

Flags = NDArray[np.bool_]
HOUR = 3600.0
DAY = 24 * HOUR

LEAK = member_index("gpu-a02:acme-rag/retriever/1")
NOISY = member_index("gpu-a01:initech-index/nightly-batch/1")
VICTIM = member_index("gpu-a01:acme-chat/llm-fast/1")
HOLDER = member_index("gpu-a02:research-nb")
DRIFTER = member_index("gpu-c01:initech-docs/summarizer/1")
DEPLOYED = member_index("gpu-b01:hooli-copilot/llm-code/2")
CRASHER = member_index("gpu-b01:hooli-copilot/worker/1")
UNHEALTHY = member_index("gpu-c01:hooli-voice/api/1")
TRAINER = member_index("gpu-b01:umbrella-train/finetune/1")
PLAYGROUND = member_index("gpu-a01:umbrella-lab/playground/1")
JOB = member_index("gpu-a01:acme-eval/eval-job/1")
TRANSCODE = member_index("gpu-c01:hooli-voice/transcode/1")
LOST_GPU = member_index("gpu-a02:acme-rag/reranker/1")
FAILED = member_index("gpu-b01:initech-index/reindex/1")
#: Containers that are not there all the time, and then have no sample, as from the Docker source.
PASSING = frozenset({NOISY, JOB, HOLDER, FAILED})
HOT_GPU = ("gpu-c01", 1)
XID_GPU = ("gpu-b01", 2)
#: Number and seconds after the first: a contained memory error, then the row is remapped (until a reset: pending).
XIDS = ((94, 0.0), (63, 95.0))
STRAY_GPU = ("gpu-b01", 3)  # a host process outside any container uses a little of it

LEAK_PERIOD = 9.5 * HOUR
CRASH_PERIOD = 300.0
CRASH_UP = 240.0
NOISY_PERIOD = 6 * HOUR
NOISY_LENGTH = 1.5 * HOUR
JOB_PERIOD = 2.8 * HOUR
OLD_IMAGE = "vllm/vllm-openai:v0.32.1"
FAILED_ERROR = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: "
    "unable to start container process: error during container init: error running prestart hook #0: exit status 1, "
    "stdout: , stderr: Auto-detected mode as 'legacy'\nnvidia-container-cli: device error: 7: unknown device"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """The scenarios of one demo. `origin`: seconds since 1970 of its first start. Times are arrays of such seconds."""

    origin: float

    @property
    def leak_born(self) -> float:
        """When the leaking container started: at `origin` it is 6.7 h into a cycle."""
        return self.origin - 6.7 * HOUR - 20 * LEAK_PERIOD

    def leak_fill(self, at: Floats) -> Floats:
        """How much of the free memory the leak has eaten, 0-1."""
        return np.mod((at - self.leak_born) / LEAK_PERIOD, 1.0)

    def leak_kills(self, at: Floats, interval: float) -> NDArray[np.int64]:
        """OOM kills in the interval before each instant."""
        after = np.floor((at - self.leak_born) / LEAK_PERIOD)
        return (after - np.floor((at - interval - self.leak_born) / LEAK_PERIOD)).astype(np.int64)

    @property
    def drift_at(self) -> float:
        """When one tenant's prompts became longer."""
        return self.origin - 2 * DAY

    @property
    def deploy_at(self) -> float:
        """When one replica was recreated from a new image."""
        return self.origin - 26 * HOUR

    @property
    def xid_at(self) -> float:
        """When one GPU reported an uncorrectable error and its training job died."""
        return self.origin - 40 * HOUR

    @property
    def crash_from(self) -> float:
        """Since when the worker crashes every five minutes."""
        return self.origin - 20 * HOUR

    @property
    def unhealthy_from(self) -> float:
        """Since when the voice API fails its health check."""
        return self.origin - 5 * HOUR

    @property
    def gap(self) -> tuple[float, float]:
        """The hour in which Prometheus could not be read."""
        return self.origin - 75 * HOUR, self.origin - 74 * HOUR

    def in_gap(self, at: Floats) -> Flags:
        """Whether Prometheus could not be read."""
        start, end = self.gap
        return (at >= start) & (at < end)

    def noisy(self, at: Floats) -> Flags:
        """Whether the batch job runs on the chat model's GPU: 90 minutes of every 6 hours, also at `origin`."""
        return np.mod(at - self.origin + 25 * 60.0, NOISY_PERIOD) < NOISY_LENGTH

    @property
    def hold_from(self) -> float:
        """When the notebook was started that holds two GPUs and hardly uses them."""
        return self.origin - 6 * DAY - 5 * HOUR

    @property
    def failed_at(self) -> float:
        """When a container could not be started."""
        return self.origin - 7 * HOUR

    def job_cycle(self, at: Floats) -> NDArray[np.int64]:
        """Number of the evaluation job that runs or ran last; at `origin` number 0 is 20 minutes old."""
        return np.floor((at - self.origin + 1200.0) / JOB_PERIOD).astype(np.int64)

    def job_start(self, cycle: int) -> float:
        """When an evaluation job was started."""
        return self.origin - 1200.0 + cycle * JOB_PERIOD

    @staticmethod
    def job_length(cycle: NDArray[np.int64]) -> Floats:
        """How long an evaluation job runs, seconds: 30 to 79 minutes."""
        return 1800.0 + 60.0 * np.mod(cycle * 7919, 50)

    @staticmethod
    def job_exit(cycle: int) -> int:
        """Exit code of an evaluation job: most are fine, some fail, a few are killed."""
        return 137 if cycle % 17 == 5 else 1 if cycle % 9 == 4 else 0

    def job_runs(self, at: Floats) -> Flags:
        """Whether an evaluation job runs."""
        cycle = self.job_cycle(at)
        return at - (self.origin - 1200.0 + cycle * JOB_PERIOD) < self.job_length(cycle)

    def transcodes(self, at: Floats) -> Flags:
        """Whether the transcoder has work: ten hours of each day, also at `origin`."""
        return np.mod(at - self.origin + 3 * HOUR, DAY) < 10 * HOUR

    def training(self, at: Floats) -> Flags:
        """Whether the training job runs: always but for 12 minutes after the XID."""
        return (at < self.xid_at) | (at >= self.xid_at + 720.0)

    def crashed(self, at: Floats) -> Flags:
        """Whether the worker waits for its next restart."""
        return (at >= self.crash_from) & (np.mod(at - self.crash_from, CRASH_PERIOD) >= CRASH_UP)

    def crash_starts(self, at: Floats, interval: float) -> NDArray[np.int64]:
        """Restarts of the worker in the interval before each instant."""
        cycles = np.maximum(np.floor((at - self.crash_from) / CRASH_PERIOD), 0.0)
        before = np.maximum(np.floor((at - interval - self.crash_from) / CRASH_PERIOD), 0.0)
        return (cycles - before).astype(np.int64)

    def running(self, at: Floats) -> Flags:
        """Whether each container (column) runs at each instant (row)."""
        flags = np.ones((at.size, len(MEMBERS)), dtype=np.bool_)
        flags[:, CRASHER] = ~self.crashed(at)
        flags[:, TRAINER] = self.training(at)
        flags[:, JOB] = self.job_runs(at)
        flags[:, HOLDER] = at >= self.hold_from
        flags[:, FAILED] = False
        return flags

    def events(self, start: float, end: float, identities: Identities, broken_uuid: str) -> list[Event]:
        """Everything that happened in [start, end), oldest first. broken_uuid: of XID_GPU."""
        teller = _Teller(start, end, identities)
        first = int(np.ceil((start - self.leak_born) / LEAK_PERIOD))
        last = int(np.ceil((end - self.leak_born) / LEAK_PERIOD))
        for cycle in range(max(first, 1), last):
            at = self.leak_born + cycle * LEAK_PERIOD
            teller.tell(at, LEAK, "oom", "critical", "{} ran out of memory; the kernel killed a process in it")
            teller.tell(at + 0.2, LEAK, "die", "warning", "{} ended with exit code 137", exit_code="137")
            teller.tell(at + 1.4, LEAK, "start", "info", "{} was started")
        first, last = (max(0, int(np.ceil((edge - self.crash_from) / CRASH_PERIOD))) for edge in (start - 300, end))
        for cycle in range(first, last):
            at = self.crash_from + cycle * CRASH_PERIOD
            if cycle:
                teller.tell(at, CRASHER, "start", "info", "{} was started")
            teller.tell(at + CRASH_UP, CRASHER, "die", "warning", "{} ended with exit code 1", exit_code="1")
        first = int(np.floor((start - self.origin + 1500.0) / NOISY_PERIOD))
        for cycle in range(first, int(np.ceil((end - self.origin + 1500.0) / NOISY_PERIOD))):
            at = self.origin - 1500.0 + cycle * NOISY_PERIOD
            teller.tell(at, NOISY, "start", "info", "{} was started")
            teller.tell(at + NOISY_LENGTH, NOISY, "die", "info", "{} ended with exit code 0", exit_code="0")
        begin, until = (int(edge) for edge in self.job_cycle(np.array([start - 2 * HOUR, end])))
        for cycle in range(begin, until + 1):
            at, code = self.job_start(cycle), self.job_exit(cycle)
            who = identities.container_id(MEMBERS[JOB].key, cycle)
            ended = at + float(self.job_length(np.array([cycle]))[0])
            teller.tell(at, JOB, "start", "info", "{} was started", container_id=who)
            teller.tell(
                ended, JOB, "die", "warning" if code else "info", f"{{}} ended with exit code {code}",
                container_id=who, exit_code=str(code),
            )  # fmt: skip
        self._single_events(teller, broken_uuid)
        return sorted(teller.events, key=lambda event: (event.at, event.event_id))

    def _single_events(self, teller: _Teller, broken_uuid: str) -> None:
        old_id, image = teller.identities.container_id(MEMBERS[DEPLOYED].key), MEMBERS[DEPLOYED].image
        teller.tell(
            self.deploy_at, DEPLOYED, "die", "info", "{} ended with exit code 0", container_id=old_id, exit_code="0"
        )
        was = f"image {OLD_IMAGE} was replaced by {image}"
        teller.tell(self.deploy_at + 4.0, DEPLOYED, "image_change", "info", "{} now runs " + image, was, image=image)
        teller.tell(self.deploy_at + 5.0, DEPLOYED, "start", "info", "{} was started")
        sick = "{} is unhealthy"
        teller.tell(self.unhealthy_from, UNHEALTHY, "health_status", "warning", sick, "unhealthy")
        teller.tell(self.xid_at + 2.0, TRAINER, "die", "warning", "{} ended with exit code 1", exit_code="1")
        teller.tell(self.xid_at + 720.0, TRAINER, "start", "info", "{} was started")
        teller.tell(self.hold_from, HOLDER, "start", "info", "{} was started")
        teller.tell(self.failed_at, FAILED, "create", "info", "{} was created")
        for number, later in XIDS:
            words = xid(number)
            teller.add(
                at=self.xid_at + later, source="nvml", kind="xid", severity=words.severity, detail=words.next_step,
                title=f"XID {number}: {words.words}", host=XID_GPU[0], gpu_uuid=broken_uuid,
                attributes={"xid": str(number)},
            )  # fmt: skip
        start, end = self.gap
        silent = "prometheus prometheus-main cannot be read (unreachable)"
        back = "prometheus prometheus-main is read again after 3600 s"
        where = {"target": "prometheus-main"}
        teller.add(at=start, source="prometheus", kind="gap", severity="warning", title=silent, attributes=where)
        teller.add(at=end, source="prometheus", kind="recovered", severity="info", title=back, attributes=where)


class _Teller:
    """Collects the events that lie inside one span, in the words of the real sources."""

    def __init__(self, start: float, end: float, identities: Identities) -> None:
        self.start, self.end, self.identities = start, end, identities
        self.events: list[Event] = []

    def add(
        self, *, at: float, source: str, kind: str, severity: Severity, title: str, attributes: dict[str, str],
        detail: str = "", host: str = "", tenant: str = "", container_key: str = "", container_id: str = "",
        gpu_uuid: str = "",
    ) -> None:  # fmt: skip
        """An event of any source."""
        if self.start <= at < self.end:
            identity = self.identities.digest("event", kind, container_key, gpu_uuid, round(at * 1000))
            self.events.append(
                Event(
                    at=datetime.fromtimestamp(round(at, 3), UTC), event_id=f"synthetic:{identity[:32]}", host=host,
                    tenant=tenant, container_key=container_key, container_id=container_id, gpu_uuid=gpu_uuid,
                    source=source, kind=kind, severity=severity, title=title, detail=detail,
                    attributes={**attributes, "synthetic": "true"},
                )
            )  # fmt: skip

    def tell(
        self, at: float, index: int, kind: str, severity: Severity, title: str, detail: str = "", *,
        container_id: str = "", **attributes: str,
    ) -> None:  # fmt: skip
        """An event of one container; `{}` in the title is its name."""
        member = MEMBERS[index]
        # Only the deployed replica ever changes its id; the event of its old life passes the old one itself.
        identity = container_id or self.identities.container_id(member.key, 1 if index == DEPLOYED else 0)
        self.add(
            at=at, source="docker", kind=kind, severity=severity, title=title.format(member.name), detail=detail,
            host=member.host, tenant=member.tenant, container_key=member.key, container_id=identity,
            attributes={"name": member.name, "image": member.image, **attributes},
        )  # fmt: skip
