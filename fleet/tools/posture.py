"""`python -m fleet posture`: the posture checks on saved `docker inspect` output or a compose file, anywhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import fleet
from fleet.model import UNASSIGNED
from fleet.posture import compose, report
from fleet.posture.catalogue import Severity, severity_named
from fleet.posture.container import Container
from fleet.posture.evaluation import Finding, evaluate
from fleet.posture.evidence import Evidence, Image
from fleet.posture.reading import Json
from fleet.posture.verdicts import Unread
from fleet.settings_table import TenancySettings
from fleet.tenancy import Tenancy
from fleet.tools import FINDINGS, FINE, ToolError, ToolParser

#: 2,000 containers are about 20 MB; more than this is no inspect output of one host.
_MOST_BYTES = 256 * 2**20
_SAVE = {
    "--inspect": "docker inspect $(docker ps -aq) > FILE",
    "--image": "docker image inspect NAME > FILE",
    "--history": "curl --unix-socket /var/run/docker.sock http://localhost/images/NAME/history > FILE",
    "--info": "docker info --format '{{json .}}' > FILE",
    "--version": "docker version --format '{{json .Server}}' > FILE",
    "--networks": "docker network inspect $(docker network ls -q) > FILE",
    "--volumes": "docker volume inspect $(docker volume ls -q) > FILE",
    "--compose": "docker compose config --format json > FILE",
}


def main(arguments: Sequence[str]) -> int:
    """Run the tool: 0 clean, 1 failures at or above --fail-on. Raises ToolError."""
    options = _parser().parse_args(arguments)
    if options.list:
        sys.stdout.write(report.listing())
        return FINE
    if not (options.inspect or options.compose or options.image or options.info):
        raise ToolError("nothing to judge; write --inspect FILE or --compose FILE")
    try:
        fail_on = severity_named(options.fail_on)
    except ValueError as error:
        raise ToolError(f"--fail-on: {error}") from None
    evidence, files = _evidence(
        inspects=options.inspect, images=options.image, histories=options.history, info=options.info,
        version=options.version, networks=options.networks, volumes=options.volumes, composes=options.compose,
        tenant_labels=options.tenant_label,
    )  # fmt: skip
    findings = evaluate(evidence, include_low=options.all)
    if options.sarif:
        sys.stdout.write(report.as_sarif(findings, files=_places(evidence, files, findings), version=fleet.__version__))
    else:
        sys.stdout.write(report.as_json(findings) if options.json else report.as_text(findings))
    return FINDINGS if _worst(findings) >= fail_on else FINE


def _parser() -> ToolParser:
    parser = ToolParser(
        prog="python -m fleet posture",
        description="Judge containers, images and a host by the posture checks, from saved JSON. What no file tells is"
        " unknown, never a pass. Exit status: 0 clean, 1 failures at or above --fail-on, 2 input that cannot be read.",
    )
    for option, what in (
        ("--inspect", "docker inspect of containers"),
        ("--image", "docker image inspect of their images"),
        ("--history", "history of images: the API's, docker history --no-trunc --format json, or an image config"),
        ("--compose", "docker compose config --format json"),
    ):
        parser.add_argument(option, nargs="+", action="extend", default=[], metavar="FILE", help=what)
    for option, what in (
        ("--info", "docker info as JSON"),
        ("--version", "docker version as JSON"),
        ("--networks", "docker network inspect"),
        ("--volumes", "docker volume inspect"),
    ):
        parser.add_argument(option, metavar="FILE", help=what)
    parser.add_argument(
        "--tenant-label", action="append", default=[], metavar="KEY", help="label that names the tenant"
    )
    parser.add_argument("--list", action="store_true", help="print the checks and end")
    parser.add_argument("--all", action="store_true", help="low and info checks too")
    parser.add_argument("--fail-on", default="high", metavar="SEVERITY", help="critical, high (default), medium, low")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print JSON, every result")
    output.add_argument("--sarif", action="store_true", help="print SARIF 2.1.0")
    return parser


def _worst(findings: Sequence[Finding]) -> Severity:
    # Context is never a reason to fail, so that `--fail-on info` means every real failure.
    return max((one.severity for one in findings if one.counts and one.severity > Severity.INFO), default=Severity(0))


def _evidence(
    *,
    inspects: Sequence[str],
    images: Sequence[str],
    histories: Sequence[str],
    info: str | None,
    version: str | None,
    networks: str | None,
    volumes: str | None,
    composes: Sequence[str],
    tenant_labels: Sequence[str],
) -> tuple[Evidence, dict[int, str]]:
    """The evidence, and the file each container came from by its position."""
    known = _images(images, histories)
    containers: list[Container] = []
    files: dict[int, str] = {}
    for name in inspects:
        for one in _objects("--inspect", name):
            if "HostConfig" not in one and "Config" not in one:
                raise ToolError(f"{name}: found no container; write the output of {_SAVE['--inspect']}")
            files[len(containers)] = name
            containers.append(Container(one))
    lookup = Evidence(images=known)
    for name in composes:
        try:
            services = compose.services(_document("--compose", name), lookup.image_tagged)
        except compose.ComposeError as error:
            raise ToolError(f"{name}: {error}") from error
        for one in services:
            files[len(containers)] = name
            containers.append(one)
    engine = None if version is None else _object("--version", version)
    if engine is not None and isinstance(engine.get("Server"), dict):
        engine = cast("Json", engine["Server"])
    evidence = Evidence(
        containers=containers,
        images=known,
        info=None if info is None else _object("--info", info),
        version=engine,
        networks=None if networks is None else _objects("--networks", networks),
        volumes=None if volumes is None else _volumes(volumes),
        tenants=_tenants(containers, tenant_labels),
        now=datetime.now(UTC),
    )
    return evidence, files


def _tenants(containers: Sequence[Container], labels: Sequence[str]) -> dict[str, str]:
    defaults = TenancySettings()
    tenancy = Tenancy(settings=TenancySettings(tenant_labels=(*labels, *defaults.tenant_labels)))
    found: dict[str, str] = {}
    for one in containers:
        try:
            tenant = tenancy.resolve(one.name, one.image_subject, one.labels).tenant
        except Unread:
            continue
        if one.id and tenant != UNASSIGNED:
            found[one.id] = tenant
    return found


def _images(images: Sequence[str], histories: Sequence[str]) -> list[Image]:
    inspections = [(name, one) for name in images for one in _objects("--image", name)]
    by_place: dict[int, Sequence[Json]] = {}
    for name in histories:
        steps = _steps(name)
        names = {value for step in steps for value in (step.get("Id"), step.get("ID")) if isinstance(value, str)}
        names |= {tag for step in steps for tag in _texts(step.get("Tags"))}
        fits = [
            number
            for number, (_, one) in enumerate(inspections)
            if one.get("Id") in names or names & set(_texts(one.get("RepoTags")))
        ]
        if not fits and len(inspections) == 1:
            fits = [0]
        if not fits:
            raise ToolError(
                f"{name}: belongs to none of {len(inspections)} images; write --image FILE of its image too"
            )
        by_place.update(dict.fromkeys(fits, steps))
    return [Image(one, by_place.get(number)) for number, (_, one) in enumerate(inspections)]


def _steps(name: str) -> list[Json]:
    """Newest first, as the API has it; an image config has them oldest first and in other words."""
    document = _document("--history", name)
    if isinstance(document, dict) and isinstance(document.get("history"), list):
        steps = [one for one in document["history"] if isinstance(one, dict)]
        return [
            {"CreatedBy": one.get("created_by", ""), "Size": 0 if one.get("empty_layer") else 1}
            for one in reversed(steps)
        ]
    steps = _objects("--history", name)
    if steps and not any("CreatedBy" in one for one in steps):
        raise ToolError(f"{name}: found no CreatedBy; write the output of {_SAVE['--history']}")
    # docker history prints sizes for people: only whether there is any is asked.
    return [{**one, "Size": 0 if one["Size"] in {"0B", "0"} else 1} if isinstance(one.get("Size"), str) else one
            for one in steps]  # fmt: skip


def _volumes(name: str) -> Sequence[Json]:
    document = _document("--volumes", name)
    if isinstance(document, dict) and isinstance(document.get("Volumes"), list):
        return [one for one in document["Volumes"] if isinstance(one, dict)]
    return _objects("--volumes", name)


def _texts(value: object) -> list[str]:
    return [one for one in cast("list[object]", value) if isinstance(one, str)] if isinstance(value, list) else []


def _places(evidence: Evidence, files: dict[int, str], findings: Sequence[Finding]) -> dict[str, str]:
    """The file of every subject; what belongs to no container names the first file."""
    first = next(iter(files.values()), "unknown")
    found = dict.fromkeys((f"{one.kind}/{one.subject}" for one in findings), first)
    for number, one in enumerate(evidence.containers):
        found[f"container/{evidence.subject_of(one)}"] = files[number]
        found.setdefault(f"image/{one.image_subject}", files[number])
    return found


# --- files -------------------------------------------------------------------------------------------------------


def _document(option: str, name: str) -> object:
    path = Path(name)
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise ToolError(f"{name}: {size} bytes, more than {_MOST_BYTES}; save it with {_SAVE[option]}")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ToolError(f"{name}: {error.strerror}; save it with {_SAVE[option]}") from None
    except UnicodeDecodeError:
        raise ToolError(f"{name}: is not UTF-8 text; save it with {_SAVE[option]}") from None
    try:
        return json.loads(text)
    except RecursionError:
        raise ToolError(f"{name}: nested too deep; save it with {_SAVE[option]}") from None
    except ValueError as error:
        lines = _lines(text)
        if lines is not None:
            return lines
        # Only the place is said: the line itself may hold a secret.
        where = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "a number in it"
        raise ToolError(f"{name}: is not JSON ({where}); save it with {_SAVE[option]}") from None


def _lines(text: str) -> list[object] | None:
    """One JSON object a line, as `--format '{{json .}}'` prints several; None when it is not that."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2 or not all(line.startswith("{") for line in lines):
        return None
    try:
        return [json.loads(line) for line in lines]
    except (ValueError, RecursionError):
        return None


def _objects(option: str, name: str) -> list[Json]:
    document = _document(option, name)
    found = cast("list[object]", document) if isinstance(document, list) else [document]
    if not found or not all(isinstance(one, dict) for one in found):
        raise ToolError(f"{name}: found no list of objects; save it with {_SAVE[option]}")
    return cast("list[Json]", found)


def _object(option: str, name: str) -> Json:
    document = _document(option, name)
    if isinstance(document, list) and len(cast("list[object]", document)) == 1:
        document = cast("list[object]", document)[0]
    if not isinstance(document, dict):
        raise ToolError(f"{name}: found no object; save it with {_SAVE[option]}")
    return cast("Json", document)
