"""What one daemon runs, kept up to date with as few inspections as possible.

A container is inspected when it is new, when its line in the list changed, when an event names it, when events may
have been missed, and once in a long interval; one that asks for a GPU and waits for its first start more often, as
a failed start sends no event and changes no line. Everything else is remembered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from zlib import crc32

from collectors.containers import LIVE_STATES, Listed, Place, with_gpus
from collectors.docker_events import DockerMessage
from fleet.gpu_start import start_failure
from fleet.inventory import ContainerFacts, HostGpu
from fleet.model import Container, Event

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
_NO_LOOK = frozenset({"kill", "oom"})  # announced by a die or by nothing: the facts are the same
REPEAT_SECONDS = 3600.0
_START_CHECK_SECONDS = 30.0


@dataclass(slots=True)
class Life:
    """Restarts and OOM kills of one container, from two witnesses that may each miss some: the larger total counts.

    Both are totals since we know the container, so a restart that the inspection shows in one poll and the event
    announces in the next is counted once.
    """

    born_here: bool  # it appeared while we were looking: nothing of its past is unknown
    dead: bool = False
    restarts_by_events: int = 0
    restarts_by_inspect: int = 0
    restarts_base: int = 0
    restarts_told: int = 0
    ooms_by_events: int = 0
    ooms_by_cgroup: int = 0
    ooms_told: int = 0
    inspected: bool = False

    def hear(self, action: str) -> None:
        """Take in one event."""
        if action == "die":
            self.dead = True
        elif action == "start":
            self.restarts_by_events += self.dead
            self.dead = False
        elif action == "oom":
            self.ooms_by_events += 1

    def see(self, row: Container) -> None:
        """Take in one inspection."""
        if not self.inspected:
            self.inspected = True
            if not self.born_here:
                self.restarts_base = self.restarts_told = row.restart_count
                self.dead = self.dead or (row.state not in LIVE_STATES and row.finished_at is not None)
        self.restarts_by_inspect = row.restart_count

    @property
    def pending_restarts(self) -> int:
        """Restarts that no row has told yet."""
        total = max(self.restarts_base + self.restarts_by_events, self.restarts_by_inspect)
        return max(total - self.restarts_told, 0)

    @property
    def pending_ooms(self) -> int:
        """OOM kills that no row has told yet."""
        return max(max(self.ooms_by_events, self.ooms_by_cgroup) - self.ooms_told, 0)

    def tell(self) -> tuple[int, int]:
        """Restarts and OOM kills since the last call."""
        restarts, ooms = self.pending_restarts, self.pending_ooms
        self.restarts_told += restarts
        self.ooms_told += ooms
        return restarts, ooms


@dataclass(slots=True)
class Known:
    """One container as last seen."""

    listed: Listed
    life: Life
    facts: ContainerFacts | None = None
    place: Place = field(default_factory=Place)
    fingerprint: tuple[object, ...] = ()
    stored: Container | None = None
    stored_at_seconds: float = 0.0
    unstored: bool = False
    looked_at_seconds: float = 0.0

    @property
    def is_live(self) -> bool:
        """It has processes, or is about to have them again."""
        return self.listed.state in LIVE_STATES


class DockerInventory:
    """The containers of one daemon. Times in seconds are of one monotonic clock."""

    def __init__(
        self,
        host: str,
        *,
        inspect_interval_seconds: float = 3600.0,
        images_before: Mapping[str, str] | None = None,
    ) -> None:
        """images_before: container_key -> image id of an earlier run, so that a deploy during a stop is seen."""
        self._host = host
        self._inspect_interval_seconds = inspect_interval_seconds
        self._images = dict(images_before or {})
        self._known: dict[str, Known] = {}
        self._lives: dict[str, Life] = {}
        self._dirty: set[str] = set()
        self._gone: list[Known] = []
        self._before: dict[str, Container] = {}
        self._failures: dict[str, str] = {}
        self._gpus: Sequence[HostGpu] | None = None
        self._swept_at: float | None = None
        self._baseline_nanoseconds = 0

    def begin(self, baseline_nanoseconds: int) -> None:
        """Events up to this moment of the daemon's clock happened before we looked; they count for nothing here."""
        self._baseline_nanoseconds = baseline_nanoseconds

    def remember(self, before: Mapping[str, Container]) -> None:
        """What the store knew of this host before: what the next list lacks was removed while nobody looked."""
        self._before = dict(before)
        self._failures = {key: row.error for key, row in before.items() if row.error} | self._failures

    def resolve_gpus(self, gpus: Sequence[HostGpu] | None) -> None:
        """Resolve every request on the host's list; rows that change by it are stored again. None: no list yet."""
        if gpus == self._gpus:
            return
        self._gpus = gpus
        for known in self._known.values():
            if known.facts is not None:
                found = with_gpus(known.facts, gpus)
                known.unstored |= found.row != known.facts.row
                known.facts = found

    def observe(
        self, listing: Iterable[Listed], messages: Sequence[DockerMessage], *, missed: bool, now: float
    ) -> tuple[str, ...]:
        """Take in a list and the events since; ids to inspect now, live containers first."""
        first = self._swept_at is None
        current = {entry.container_id: entry for entry in listing}
        for message in messages:
            self._hear(message, first=first)
        for container_id in self._known.keys() - current.keys():
            self._bury(container_id)
        for container_id, entry in current.items():
            known = self._known.get(container_id)
            if known is None:
                life = self._lives.setdefault(container_id, Life(born_here=not first))
                self._known[container_id] = Known(listed=entry, life=life)
                self._dirty.add(container_id)
                continue
            known.listed = entry
            if entry.fingerprint != known.fingerprint or _may_have_failed(known, now):
                self._dirty.add(container_id)
        if first or missed or (self._swept_at or 0.0) + self._inspect_interval_seconds <= now:
            self._swept_at = now
            self._dirty.update(current)
        self._dirty.intersection_update(current)
        for container_id in self._dirty:
            self._known[container_id].looked_at_seconds = now
        for container_id in self._lives.keys() - current.keys():
            del self._lives[container_id]
        for container_id in self._failures.keys() - current.keys():
            del self._failures[container_id]
        return tuple(sorted(self._dirty, key=lambda key: (not self._known[key].is_live, key)))

    def look_again(self, container_id: str) -> None:
        """Inspect this container in the next poll."""
        self._dirty.add(container_id)

    def inspected(self, container_id: str, facts: ContainerFacts, place: Place) -> tuple[Event, ...]:
        """Take in one inspection; the events that it shows: a changed image, a start that failed for a GPU reason."""
        known = self._known[container_id]
        self._dirty.discard(container_id)
        known.facts, known.place = with_gpus(facts, self._gpus), place
        known.fingerprint, known.unstored = known.listed.fingerprint, True
        known.life.see(facts.row)
        return tuple(event for event in (self._image_change(facts.row), self._start_failure(facts.row)) if event)

    def vanished(self, container_id: str) -> None:
        """It was in the list and is not there any more."""
        self._dirty.discard(container_id)
        if container_id in self._known:
            self._bury(container_id)
        self._lives.pop(container_id, None)

    def containers(self) -> list[Known]:
        """All containers that were inspected at least once."""
        return [known for known in self._known.values() if known.facts is not None]

    def removed(self) -> list[Known]:
        """Containers that were removed since rows were last stored; `rows` forgets them."""
        return [known for known in self._gone if known.facts is not None]

    def waiting(self) -> list[Known]:
        """Live containers that could not be inspected yet."""
        return [known for known in self._known.values() if known.facts is None and known.is_live]

    def rows(self, at: datetime, now: float) -> list[Container]:
        """Container rows to store now: changed since they were last stored, due again, or removed."""
        rows: list[Container] = []
        for known in self._known.values():
            if known.facts is None or not (known.unstored or known.stored_at_seconds + REPEAT_SECONDS <= now):
                continue
            known.unstored = False
            row = replace(known.facts.row, seen_at=_NEVER)
            if row == known.stored and known.stored_at_seconds + REPEAT_SECONDS > now:
                continue
            known.stored, known.stored_at_seconds = row, now
            rows.append(replace(row, seen_at=at))
        gone, self._gone = self._gone, []
        rows += [replace(known.facts.row, seen_at=at, removed=True) for known in gone if known.facts is not None]
        for container_id in self._before.keys() - self._known.keys() - {known.listed.container_id for known in gone}:
            rows.append(replace(self._before[container_id], seen_at=at, removed=True))
        self._before = {}
        return rows

    def _bury(self, container_id: str) -> None:
        known = self._known.pop(container_id)
        known.listed = replace(known.listed, state="removed", health="")
        self._gone.append(known)

    def _hear(self, message: DockerMessage, *, first: bool) -> None:
        if message.at_nanoseconds <= self._baseline_nanoseconds:
            return  # history: whatever it did, the first inspection came after it
        if message.action not in _NO_LOOK:
            self._dirty.add(message.container_id)
        life = self._lives.get(message.container_id)
        if life is None:
            life = self._lives[message.container_id] = Life(born_here=not first or message.action == "create")
        life.hear(message.action)

    def _image_change(self, row: Container) -> Event | None:
        before = self._images.get(row.container_key)
        if row.state not in LIVE_STATES or not row.image_id or before == row.image_id:
            return None
        self._images[row.container_key] = row.image_id
        if before is None:
            return None
        return Event(
            at=row.started_at or row.created_at or row.seen_at,
            event_id=f"docker:{self._host}:image_change:{row.container_id[:16]}",
            host=self._host,
            tenant=row.tenant,
            container_key=row.container_key,
            container_id=row.container_id,
            source="docker",
            kind="image_change",
            title=f"{row.name} now runs {row.image}",
            detail=f"image {before[:19]} was replaced by {row.image_id[:19]}",
            attributes={"image": row.image, "image_id": row.image_id, "image_id_before": before},
        )

    def _start_failure(self, row: Container) -> Event | None:
        told = self._failures.get(row.container_id, "")
        if row.error:
            self._failures[row.container_id] = row.error
        else:
            self._failures.pop(row.container_id, None)
        failure = start_failure(row.error)
        if failure is None or row.error == told:
            return None
        return Event(
            at=row.seen_at,
            event_id=f"docker:{self._host}:gpu_start_failed:{row.container_id[:16]}:{crc32(row.error.encode()):08x}",
            host=self._host,
            tenant=row.tenant,
            container_key=row.container_key,
            container_id=row.container_id,
            source="docker",
            kind="gpu_start_failed",
            severity="warning",
            title=f"{row.name} could not start: {failure.what}",
            detail=failure.next_step,
            attributes={"image": row.image, "request": row.gpu_request, "error": row.error},
        )


def _may_have_failed(known: Known, now: float) -> bool:
    """It asks for a GPU and has never run: whether a start failed since can only be seen by inspecting it."""
    if known.facts is None or known.listed.state != "created" or known.facts.gpu.kind in {"none", "privileged"}:
        return False
    return known.looked_at_seconds + _START_CHECK_SECONDS <= now
