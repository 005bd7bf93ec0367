"""`python -m fleet profiles FILE.prom`: which metric profiles match a saved /metrics text, and what they read in it."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from fleet.latency import Quantile
from fleet.profile import Profile, ProfileError
from fleet.profile_check import Check, FieldReading, check_exposition
from fleet.profiles import builtin_profiles, profiles_in
from fleet.tools import FINDINGS, FINE, ToolError, ToolParser

_SHOWN_REFUSED = 10
_SHOWN_UNMAPPED = 12


def main(arguments: Sequence[str]) -> int:
    """Run the tool: 0 a profile matches and every line was read, 1 otherwise. Raises ToolError."""
    parser = ToolParser(
        prog="python -m fleet profiles",
        description="Check a saved /metrics text against the metric profiles, or list the profiles.",
    )
    parser.add_argument("file", nargs="?", help="saved text, `-` for standard input; none = list the profiles")
    parser.add_argument("--profiles", type=Path, metavar="FOLDER", help="folder with profiles of your own")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    options = parser.parse_args(arguments)
    profiles = _profiles(options.profiles)
    if options.file is None:
        sys.stdout.write(_listing_json(profiles) if options.json else _listing(profiles))
        return FINE
    with _opened(options.file) as lines:
        try:
            found = check_exposition(lines, profiles)
        except OSError as error:
            raise ToolError(f"{options.file}: {error.strerror}; write the path of a saved /metrics text") from error
    if found.samples == 0:
        raise ToolError(f"{options.file}: {_no_samples(found)}; save it with curl -s http://SERVER/metrics > FILE.prom")
    sys.stdout.write(as_json(found) if options.json else as_text(found))
    return FINE if found.matched and not found.refused else FINDINGS


def _profiles(folder: Path | None) -> tuple[Profile, ...]:
    try:
        return builtin_profiles() if folder is None else profiles_in(folder, builtin_profiles())
    except ProfileError as error:
        raise ToolError("; ".join(error.mistakes)) from error


@contextmanager
def _opened(name: str) -> Generator[TextIO]:
    if name.startswith(("http://", "https://")):
        raise ToolError(f"{name}: is an address, this tool reads files; save it with curl -s {name} > FILE.prom")
    with ExitStack() as held:
        if name == "-":
            yield sys.stdin
            return
        try:
            # Bytes that are no UTF-8 spoil their own line only.
            file = held.enter_context(Path(name).open(encoding="utf-8", errors="replace"))
        except OSError as error:
            raise ToolError(f"{name}: {error.strerror}; write the path of a saved /metrics text") from error
        yield file


def _no_samples(found: Check) -> str:
    if found.refused:
        first = found.refused[0]
        return f"none of {found.lines} lines is a sample, line {first.number} is {_plain(first.text)!r}"
    return "no sample in it" if found.lines else "it is empty"


def as_text(found: Check) -> str:
    """The result for a person."""
    lines = [f"{found.samples} samples in {found.lines} lines"]
    for one in found.matched:
        lines += ["", f"{one.profile.id}  ({one.profile.title}, {one.profile.role})"]
        if one.models:
            lines.append(f"  models:  {_plain(', '.join(one.models[:8]))}{' …' if len(one.models) > 8 else ''}")
        if one.tenants:
            lines.append(f"  tenants: {_plain(', '.join(one.tenants[:8]))}{' …' if len(one.tenants) > 8 else ''}")
        lines += [_line(read) for read in one.fields]
    if not found.matched:
        lines += ["", "no profile matches: none of their anchor metrics is in the text"]
    rest = {name: why for name, why in found.unmapped.items() if "runtime" not in why and "began" not in why}
    if rest:
        lines += ["", f"not read by any field: {len(found.unmapped)} metrics, {len(rest)} of them not of the runtime"]
        lines += [f"  {_plain(name):54} {why}" for name, why in list(rest.items())[:_SHOWN_UNMAPPED]]
        lines += [f"  and {len(rest) - _SHOWN_UNMAPPED} more (--json lists all)"] * (len(rest) > _SHOWN_UNMAPPED)
    if found.refused:
        lines += ["", f"refused lines: {len(found.refused)}"]
        lines += [
            f"  line {one.number}: {_plain(one.text)}  ({_plain(one.why)})" for one in found.refused[:_SHOWN_REFUSED]
        ]
        lines += [f"  and {len(found.refused) - _SHOWN_REFUSED} more"] * (len(found.refused) > _SHOWN_REFUSED)
    return "\n".join(lines) + "\n"


def _line(read: FieldReading) -> str:
    name = (
        f"{read.name} ({'mean only' if read.type == 'mean' else 'distribution'})"
        if read.count is not None
        else read.name
    )
    if read.text:
        shown = read.text
    elif read.value is None:
        shown = "-"
    else:
        shown = f"{_number(read.value)} {read.unit}".rstrip()
    if read.count is not None and read.count:
        shown = f"mean {shown}, n {_number(read.count)}{_p95(read.p95, read.unit)}"
    note = f"  {read.metric}" if read.metric and not read.why else f"  {read.why}"
    return f"  {name:34} {_plain(shown):44}{_plain(note)}".rstrip()


def _p95(found: Quantile | None, unit: str) -> str:
    if found is None:
        return ""
    if found.state == "ok" and found.value is not None:
        return f", p95 {_number(found.value)} {unit} in ({_number(found.lower)}, {_number(found.upper)}]"
    if found.state == "beyond":
        return f", p95 >= {_number(found.lower)} {unit}"
    return ", p95: n too small" if found.state == "too_few" else ""


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 and value == round(value) else f"{value:.4g}"


def as_json(found: Check) -> str:
    """The result for a program."""
    document = {
        "lines": found.lines,
        "samples": found.samples,
        "matched": [
            {
                "profile": one.profile.id,
                "title": one.profile.title,
                "role": one.profile.role,
                "table": one.profile.table,
                "models": one.models,
                "tenants": one.tenants,
                "fields": [_field_json(read) for read in one.fields],
            }
            for one in found.matched
        ],
        "unmapped": [{"metric": name, "why": why} for name, why in found.unmapped.items()],
        "refused": [{"line": one.number, "text": one.text, "why": one.why} for one in found.refused],
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _field_json(read: FieldReading) -> dict[str, object]:
    quantile = read.p95
    return {
        "field": read.name,
        "type": read.type,
        "metric": read.metric,
        "series": read.series,
        "value": read.value,
        "unit": read.unit,
        "text": read.text,
        "count": read.count,
        "p95": None
        if quantile is None
        else {
            "state": quantile.state,
            "value": quantile.value,
            "lower": _finite(quantile.lower),
            "upper": _finite(quantile.upper),
        },
        "found": not read.why or read.value is not None,
        "why": read.why,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _listing(profiles: Sequence[Profile]) -> str:
    rows = [f"{one.id:22}{one.table:11}{one.role:9}{len(one.fields):3} fields  {one.title}" for one in profiles]
    return "\n".join(rows) + "\n"


def _listing_json(profiles: Sequence[Profile]) -> str:
    rows = [
        {
            "id": one.id, "title": one.title, "table": one.table, "role": one.role, "path": one.path,
            "source": one.source, "fields": sorted({read.name for read in one.fields}),
        }
        for one in profiles
    ]  # fmt: skip
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


def _plain(text: str) -> str:
    """The text without anything a terminal would obey: a saved text comes from elsewhere."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
