"""The GPU job ledger: canonical bytes of an entry, the hash chain over them, jobs folded from entries, verification.

The hash has two steps, so that an entry can be withheld without breaking the chain: `content` is the SHA-256 of what
the entry says, `hash` that of (chain, sequence, previous_hash, content). Who is not to see an entry gets these four
(a `Stub`), and can still compute its hash; a stub with a bare hash could be put in the place of any entry.
The format is described for auditors in docs/ledger.md.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime

from fleet.gpu_job_fields import FIELDS, KINDS, LedgerError, read_value, storable, time_text, values_of
from fleet.model import GpuJob

#: `previous_hash` of entry 1.
GENESIS = "0" * 64
OPEN, CLOSE, GAP, PRUNED = "open", "close", "gap", "pruned"
#: Keys in `sources` of a "pruned" entry: up to which entry older ones were forgotten, and that entry's hash.
PRUNED_SEQUENCE, PRUNED_HASH = "pruned_sequence", "pruned_hash"
#: What the header covers; all other fields are content.
HEADER = ("chain", "sequence", "previous_hash", "hash")

_HASH = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Head:
    """An entry's place in its chain and its hash; `EMPTY` is the place before entry 1."""

    sequence: int
    hash: str


EMPTY = Head(0, GENESIS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stub:
    """An entry that is withheld: its header and the digest of its content, which suffice to compute its hash."""

    chain: str
    sequence: int
    previous_hash: str
    content: str
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A row of a file or table that is no entry. `sequence` as far as it could be read."""

    chain: str
    sequence: int | None
    what: str


Line = GpuJob | Stub | Unreadable


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with a chain, at which entry (None: with the chain as a whole), in words."""

    chain: str
    sequence: int | None
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What looking at one chain showed. No findings = every entry is there, unchanged and in its place."""

    chain: str
    entries: int
    withheld: int
    first: int | None
    last: Head | None
    findings: tuple[Finding, ...]


# --- bytes and hashes --------------------------------------------------------------------------------------------


def content_text(row: GpuJob) -> str:
    """Canonical JSON of what the entry says: every field but those of the header."""
    return _canonical({name: value for name, value in values_of(row).items() if name not in HEADER})


def header_text(chain: str, sequence: int, previous_hash: str, content: str) -> str:
    """Canonical JSON of the header, whose SHA-256 is the entry's hash. content: SHA-256 of the content, in hex."""
    return _canonical({"chain": chain, "sequence": sequence, "previous_hash": previous_hash, "content": content})


def _canonical(values: Mapping[str, object]) -> str:
    # Keys sorted, no blanks, text as it is (not \u-escaped), floats as their shortest decimal that reads back equal.
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(text: str) -> str:
    """SHA-256 of the text's UTF-8 bytes, in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def hash_of(line: GpuJob | Stub) -> str:
    """The hash that an entry with these values must have."""
    content = line.content if isinstance(line, Stub) else digest(content_text(line))
    return digest(header_text(line.chain, line.sequence, line.previous_hash, content))


def seal(row: GpuJob, after: Head) -> GpuJob:
    """The entry as the next one of its chain: values as the store will give them back, numbered and hashed."""
    changes: dict[str, object] = {}
    for name, kind in KINDS.items():
        value = getattr(row, name)
        if value is not None:
            changes[name] = storable(value, kind.removesuffix("?"), nullable=kind.endswith("?"))
    changes |= {"sequence": after.sequence + 1, "previous_hash": after.hash}
    placed = replace(row, **changes)  # type: ignore[arg-type]
    return replace(placed, hash=hash_of(placed))


def head_of(row: GpuJob | Stub) -> Head:
    """The chain's head when this entry is its last one."""
    return Head(row.sequence, row.hash)


def stub_of(row: GpuJob) -> Stub:
    """What remains of an entry for who may not see it."""
    return Stub(
        chain=row.chain, sequence=row.sequence, previous_hash=row.previous_hash, content=digest(content_text(row)),
        hash=row.hash,
    )  # fmt: skip


# --- reading rows back -------------------------------------------------------------------------------------------


def entry_from(values: Mapping[str, object]) -> GpuJob:
    """The entry with these values (of the store, or of a JSON file). Raises LedgerError; its hash is not checked."""
    missing = [name for name in FIELDS if name not in values]
    if missing:
        raise LedgerError(f"field {missing[0]!r} is missing")
    extra = sorted(set(values) - set(FIELDS))
    if extra:
        raise LedgerError(f"field {extra[0]!r} is no field of an entry")
    read = {name: read_value(name, kind, values[name]) for name, kind in KINDS.items()}
    return GpuJob(**read)  # type: ignore[arg-type]


def stub_from(values: Mapping[str, object]) -> Stub:
    """The withheld entry with these values. Raises LedgerError, also for one that tells more than its hash covers."""
    extra = sorted(set(values) - {field.name for field in fields(Stub)})
    if extra:
        raise LedgerError(f"field {extra[0]!r} does not belong into a withheld entry")
    read = {
        name: read_value(name, "integer" if name == "sequence" else "text", values.get(name))
        for name in (field.name for field in fields(Stub))
    }
    return Stub(**read)  # type: ignore[arg-type]


def line_from(values: Mapping[str, object]) -> Line:
    """Entry, withheld entry (it has `content`), or what is wrong with the row."""
    try:
        return stub_from(values) if "content" in values else entry_from(values)
    except LedgerError as error:
        sequence, chain = values.get("sequence"), values.get("chain")
        return Unreadable(
            chain=chain if isinstance(chain, str) else "",
            sequence=sequence if isinstance(sequence, int) else None,
            what=str(error),
        )


# --- verification ------------------------------------------------------------------------------------------------


def verify(lines: Iterable[Line], *, before: Head | None = None, head: Head | None = None) -> Verification:
    """Whether the lines of one chain, in the order given, are that chain without an edit, hole or exchange.

    before: the entry that goes before the first line, as somebody trusted recorded it; None = the chain begins here,
    with entry 1 or after what a "pruned" entry of the chain itself says was forgotten.
    head: the chain's last entry as recorded elsewhere; None = entries missing at the end cannot be noticed.
    """
    found = tuple(lines)
    chain = next((line.chain for line in found), "")
    findings: list[Finding] = []
    at = before
    for line in found:
        if isinstance(line, Unreadable):
            findings.append(Finding(line.chain, line.sequence, f"not an entry: {line.what}"))
            continue
        at = at or _beginning(line, found, findings)
        findings += [Finding(line.chain, line.sequence, what) for what in _faults(line, at, chain)]
        # Go on from what the entry says itself: one fault is one finding, not one for each entry after it.
        if line.sequence >= at.sequence:
            at = head_of(line)
    last = max((line for line in found if not isinstance(line, Unreadable)), key=lambda x: x.sequence, default=None)
    if head is not None:
        findings += _at_the_end(chain, None if last is None else head_of(last), head, before or EMPTY)
    readable = [line for line in found if not isinstance(line, Unreadable)]
    return Verification(
        chain=chain,
        entries=len(found),
        withheld=sum(isinstance(line, Stub) for line in found),
        first=readable[0].sequence if readable else None,
        last=None if last is None else head_of(last),
        findings=tuple(findings),
    )


def _faults(line: GpuJob | Stub, at: Head, chain: str) -> list[str]:
    faults: list[str] = []
    if line.chain != chain:
        faults.append(f"belongs to chain {line.chain!r}, not to {chain!r}")
    if hash_of(line) != line.hash:
        faults.append("was edited: its content does not give its hash")
    expected = at.sequence + 1
    if line.sequence > expected:
        hole = f"entry {expected}" if line.sequence == expected + 1 else f"entries {expected} to {line.sequence - 1}"
        faults.append(f"{hole} before it: removed")
    elif line.sequence < expected:
        faults.append(f"comes after entry {at.sequence}: inserted, repeated or moved")
    elif line.previous_hash != at.hash:
        faults.append(f"does not follow entry {at.sequence}: one of the two was edited or exchanged")
    return faults


def _beginning(first: GpuJob | Stub, lines: Sequence[Line], findings: list[Finding]) -> Head:
    if first.sequence == 1 or first.sequence < 1:
        return EMPTY
    forgotten = [
        Head(int(line.sources[PRUNED_SEQUENCE]), line.sources.get(PRUNED_HASH, ""))
        for line in lines
        if isinstance(line, GpuJob) and line.entry == PRUNED and line.sources.get(PRUNED_SEQUENCE, "").isdecimal()
    ]
    known = next((head for head in forgotten if head.sequence == first.sequence - 1), None)
    if known is not None:
        return known
    what = f"entries 1 to {first.sequence - 1} before it: removed, and no entry says that they were forgotten"
    findings.append(Finding(first.chain, first.sequence, what))
    return Head(first.sequence - 1, first.previous_hash)


def _at_the_end(chain: str, last: Head | None, head: Head, before: Head) -> list[Finding]:
    found = last or before
    if found.sequence < head.sequence:
        hole = (
            f"entry {head.sequence}"
            if found.sequence == head.sequence - 1
            else f"entries {found.sequence + 1} to {head.sequence}"
        )
        return [
            Finding(chain, found.sequence + 1, f"{hole} at the end: removed (the recorded head is {head.sequence})")
        ]
    if found.sequence > head.sequence:
        return [Finding(chain, head.sequence + 1, f"goes beyond the recorded head, entry {head.sequence}: added")]
    if found.hash != head.hash:
        return [Finding(chain, head.sequence, f"has hash {found.hash[:16]}…, the recorded head is {head.hash[:16]}…")]
    return []


def by_chain(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """The lines of each chain, in the order given."""
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line.chain, []).append(line)
    return found


def is_hash(text: str) -> bool:
    """Whether it is written like a SHA-256 in hex."""
    return _HASH.fullmatch(text) is not None


# --- jobs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One container run and its set of GPUs, from its entries.

    row: the newest entry, which repeats all facts; `ended_at` None = no close entry yet. sequences: its entries.
    verified: each of its entries has the hash that its values give (its place in the chain is not looked at).
    """

    row: GpuJob
    sequences: tuple[int, ...]
    verified: bool

    def hours_until(self, now: datetime) -> tuple[float, float]:
        """(seconds, GPU-hours) of the job, up to now while it runs; never below 0."""
        end = self.row.ended_at or max(now, self.row.started_at)
        seconds = max(0.0, (end - self.row.started_at).total_seconds())
        return seconds, seconds / 3600.0 * self.row.gpu_count


def fold(entries: Iterable[GpuJob]) -> list[Job]:
    """Jobs by their start, newest first; "gap" and "pruned" entries are no jobs."""
    by_job: dict[tuple[str, str], list[GpuJob]] = {}
    for entry in entries:
        if entry.entry in (OPEN, CLOSE):
            by_job.setdefault((entry.chain, entry.job_id), []).append(entry)
    jobs: list[Job] = []
    for found in by_job.values():
        found.sort(key=lambda entry: entry.sequence)
        newest = next((entry for entry in reversed(found) if entry.entry == CLOSE), found[-1])
        jobs.append(
            Job(
                row=newest,
                sequences=tuple(entry.sequence for entry in found),
                verified=all(hash_of(entry) == entry.hash for entry in found),
            )
        )
    return sorted(jobs, key=lambda job: (job.row.started_at, job.row.job_id), reverse=True)


def overlaps(row: GpuJob, start: datetime, end: datetime) -> bool:
    """Whether the span that an entry tells of touches [start, end); without an end it goes on."""
    return row.started_at < end and (row.ended_at is None or row.ended_at > start)


def job_id(host: str, container_id: str, started_at: datetime, gpu_uuids: Sequence[str]) -> str:
    """Name of a job: the same run on the same GPUs has the same one, whoever sees it, however often."""
    text = _canonical({"host": host, "container": container_id, "start": time_text(started_at), "gpus": [*gpu_uuids]})
    return f"{container_id[:12]}-{started_at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{digest(text)[:8]}"
