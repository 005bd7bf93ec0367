"""Whether an export of the GPU job ledger is what was made: chains, their ends, and every byte of its files.

ExportError      files that are no export; says which file, what was found, what belongs there
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from fleet.gpu_job_fields import FIELDS, KINDS
from fleet.gpu_jobs import Finding, Head, Line, Unreadable, Verification, by_chain, line_from, verify
from fleet.job_export import CONTENT, FORMAT, MANIFEST, Export, files_of
from fleet.model import Window


class ExportError(ValueError):
    """Files that are no export; says which file, what was found, what belongs there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportVerification:
    """What looking at an export showed. `findings`: of the files as such; those of a chain stand with the chain."""

    chains: tuple[Verification, ...]
    findings: tuple[Finding, ...]

    @property
    def all_findings(self) -> tuple[Finding, ...]:
        """Of chains and files, in this order."""
        return (*(finding for chain in self.chains for finding in chain.findings), *self.findings)


def verify_files(files: Mapping[str, bytes], *, heads: Iterable[str] = ()) -> ExportVerification:
    """Whether an export is what was made: chains, their ends, every byte. Raises ExportError: there is no export.

    heads: hashes that were written down elsewhere; each must be the hash of an entry here.
    """
    if MANIFEST not in files:
        raise ExportError(f"{MANIFEST} is missing: this folder is no export, or its manifest was taken away")
    manifest = _object(MANIFEST, files[MANIFEST])
    export, chains = _read_manifest(manifest)
    name = f"entries.{export.data_format}"
    if name not in files:
        raise ExportError(f"{name} is missing, the manifest names it")
    lines = read_lines(name, files[name])
    grouped = by_chain(lines)
    found = [
        verify(grouped.get(chain, ()), before=before, head=head) if grouped.get(chain) else _empty(chain, head)
        for chain, (before, head) in chains.items()
    ]
    findings = [
        Finding(chain, None, f"the manifest does not know chain {chain!r}") for chain in grouped if chain not in chains
    ]
    findings += _altered(files, lines, export, manifest)
    findings += _absent(heads, lines)
    return ExportVerification(chains=tuple(found), findings=tuple(findings))


def verify_file(name: str, data: bytes, *, heads: Iterable[str] = ()) -> ExportVerification:
    """Whether one entries file holds unbroken chains. Without a manifest what is missing at the ends is not seen.

    Raises ExportError when it is no such file.
    """
    lines = read_lines(name, data)
    found: list[Verification] = []
    for rows in by_chain(lines).values():
        first = next((row for row in rows if not isinstance(row, Unreadable)), None)
        before = None if first is None or first.sequence <= 1 else Head(first.sequence - 1, first.previous_hash)
        found.append(verify(rows, before=before))
    return ExportVerification(chains=tuple(found), findings=tuple(_absent(heads, lines)))


def read_lines(name: str, data: bytes) -> list[Line]:
    """The entries of entries.csv or entries.json. Raises ExportError when it is neither."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ExportError(f"{name}: byte {error.start} is not UTF-8; write the path of an export") from error
    return _read_json(name, data) if text.lstrip().startswith("{") else _read_csv(name, text)


def _read_json(name: str, data: bytes) -> list[Line]:
    document = _object(name, data)
    rows = document.get("entries")
    if document.get("format") != FORMAT or not isinstance(rows, list):
        raise ExportError(f'{name}: no "format": "{FORMAT}" with "entries"; write the path of an export')
    lines: list[Line] = []
    for number, row in enumerate(cast("list[object]", rows), 1):
        if isinstance(row, _Twice):
            lines.append(Unreadable(chain="", sequence=None, what=f"row {number}: field {row.key!r} stands twice"))
        elif isinstance(row, dict):
            lines.append(line_from(cast("dict[str, object]", row)))
        else:
            lines.append(Unreadable(chain="", sequence=None, what=f"row {number} is no object"))
    return lines


def _read_csv(name: str, text: str) -> list[Line]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns = (*FIELDS, CONTENT)
    lines: list[Line] = []
    try:
        header = next(rows, [])
        if tuple(header) != columns:
            raise ExportError(f"{name}: the first line is not {','.join(columns[:4])},…; write the path of an export")
        for number, cells in enumerate(rows, 1):
            if len(cells) != len(columns):
                what = f"row {number} has {len(cells)} cells, {len(columns)} belong there"
                lines.append(Unreadable(chain="", sequence=None, what=what))
                continue
            values = dict(zip(columns, cells, strict=True))
            content = values.pop(CONTENT)
            read = {key: _value(cell, KINDS[key]) for key, cell in values.items()}
            if content:  # withheld: every other cell is empty, and one that is not would be covered by no hash
                read = {key: value for key, value in read.items() if values[key] != ""} | {CONTENT: content}
            lines.append(line_from(read))
    except csv.Error as error:
        raise ExportError(f"{name}: line {rows.line_num} is no CSV ({error}); write the path of an export") from error
    return lines


def _value(cell: str, kind: str) -> object:
    """The value in a cell; a cell of another kind stays text, which `line_from` refuses."""
    if kind.endswith("?") and cell == "":
        return None
    match kind.removesuffix("?"):
        case "text":
            return cell[1:] if cell.startswith("'") else cell
        case "integer":
            return _number(cell, int)
        case "number":
            return _number(cell, float)
        case "texts" | "map":
            try:
                return json.loads(cell, object_pairs_hook=_pairs)
            except ValueError:
                return cell
        case _:
            return cell


def _number(cell: str, read: Callable[[str], float]) -> object:
    try:
        value = read(cell)
    except ValueError:
        return cell
    return value if repr(value) == cell else cell


@dataclass(frozen=True, slots=True)
class _Twice:
    """A JSON object with a key that stands twice: readers disagree about which one counts."""

    key: str


def _pairs(pairs: list[tuple[str, object]]) -> object:
    keys = [key for key, _ in pairs]
    return next((_Twice(key) for key in keys if keys.count(key) > 1), dict(pairs))


def _object(name: str, data: bytes) -> dict[str, object]:
    try:
        found: object = json.loads(data, object_pairs_hook=_pairs)
    except ValueError as error:
        raise ExportError(f"{name}: no JSON ({error}); write the path of an export") from error
    if isinstance(found, _Twice):
        raise ExportError(f"{name}: field {found.key!r} stands twice")
    if not isinstance(found, dict):
        raise ExportError(f"{name}: no JSON object; write the path of an export")
    return cast("dict[str, object]", found)


def _read_manifest(manifest: Mapping[str, object]) -> tuple[Export, dict[str, tuple[Head, Head]]]:
    """What was asked for, and of each chain (the entry before, the head). Raises ExportError."""
    try:
        period = cast("Mapping[str, str]", manifest["period"])
        tenants = cast("list[str] | None", manifest["tenants"])
        data_format = manifest["data_format"]
        if manifest["format"] != FORMAT or data_format not in ("csv", "json"):
            raise ExportError(f"{MANIFEST}: found format {manifest['format']!r}, this program reads {FORMAT}")
        export = Export(
            period=Window(start=_time(period["from"]), end=_time(period["to"])),
            data_format=data_format,
            generated_at=_time(cast("str", manifest["generated_at"])),
            version=str(manifest["version"]),
            tenants=None if tenants is None else frozenset(tenants),
        )
        chains = {
            str(chain["chain"]): (_head(chain["before"]), _head(chain["head"]))
            for chain in cast("list[dict[str, object]]", manifest["chains"])
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ExportError):
            raise
        raise ExportError(f"{MANIFEST}: not the manifest of an export ({type(error).__name__}: {error})") from error
    return export, chains


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _head(value: object) -> Head:
    found = cast("Mapping[str, object]", value)
    return Head(int(cast("int", found["sequence"])), str(found["hash"]))


def _empty(chain: str, head: Head) -> Verification:
    finding = Finding(chain, None, f"not one entry of this chain is here, the manifest ends it at {head.sequence}")
    return Verification(chain=chain, entries=0, withheld=0, first=None, last=None, findings=(finding,))


def _altered(
    files: Mapping[str, bytes], lines: Sequence[Line], export: Export, manifest: Mapping[str, object]
) -> list[Finding]:
    """Files whose bytes are not those that the manifest names, or that do not follow from the entries."""
    findings: list[Finding] = []
    named = {str(item.get("name")): item for item in _dicts(manifest.get("files"))}
    for name, item in named.items():
        if name not in files:
            findings.append(Finding("", None, f"{name} is missing, the manifest names it"))
        elif hashlib.sha256(files[name]).hexdigest() != item.get("sha256"):
            findings.append(Finding("", None, f"{name} was changed: its SHA-256 is not the one in the manifest"))
    readable = [line for line in lines if not isinstance(line, Unreadable)]
    if len(readable) == len(lines):
        for name, data in files_of(readable, export).items():
            if name in files and files[name] != data:
                findings.append(Finding("", None, f"{name} does not follow from the entries: it was changed"))
    return findings


def _dicts(value: object) -> list[dict[str, object]]:
    return [item for item in cast("list[object]", value) if isinstance(item, dict)] if isinstance(value, list) else []


def _absent(heads: Iterable[str], lines: Iterable[Line]) -> list[Finding]:
    known = {line.hash for line in lines if not isinstance(line, Unreadable)}
    return [
        Finding("", None, f"no entry here has the hash {head[:16]}… that was written down: this is another ledger")
        for head in heads
        if head not in known
    ]
