"""IMG: what an image is called, where it comes from, what is known to be wrong with it.

Two kinds: what its reference says (judged for each reference in use) and what is in it (judged once an image).
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator
from datetime import timedelta

from fleet.posture.catalogue import Severity
from fleet.posture.container import Container, has_tag, is_image_id, shown_reference
from fleet.posture.evidence import Evidence, Image
from fleet.posture.reading import safe
from fleet.posture.runtime import moment
from fleet.posture.secrets import in_image
from fleet.posture.verdicts import Answer, Unread, Verdict, failed, judged, not_applicable, passed, unknown

_SCAN_LIFE = timedelta(days=7)
_IMAGE_LIFE = timedelta(days=90)
_PROVENANCE = (
    "org.opencontainers.image.source",
    "org.opencontainers.image.revision",
    "org.opencontainers.image.version",
)
_REFERENCE_PATH = "Config.Image"
_FILES = re.compile(r"^(?:/bin/sh -c #\(nop\)\s+)?(?P<word>ADD|COPY)\s(?P<rest>.*)", re.DOTALL)
_METADATA = re.compile(r"^(?:/bin/sh -c #\(nop\)\s+)?(?:ENV|ARG|CMD|ENTRYPOINT|LABEL|EXPOSE|USER|WORKDIR|VOLUME|"
                       r"HEALTHCHECK|STOPSIGNAL|SHELL|ONBUILD|MAINTAINER)\b")  # fmt: skip
_PIPED = re.compile(r"\b(?:curl|wget)\b[^|;&]*\|\s*(?:sudo\s+)?(?:ba|da|z)?sh\b")
_UPDATE = re.compile(r"\b(?:apt-get|apt|apk|yum|dnf|microdnf)\b[^&;|]*\bupdate\b")
_INSTALL = re.compile(r"\b(?:apt-get|apt|apk|yum|dnf|microdnf)\b[^&;|]*\b(?:install|add)\b")
_TOOLS = re.compile(r"\b(?:gcc|g\+\+|build-essential|build-base|cmake|git)\b")
_REMOVAL = re.compile(r"\b(?:apt-get|apt|yum|dnf)\b[^&;|]*\b(?:remove|purge|autoremove)\b|\bapk\s+del\b")


def _tag(image: Image, _: Evidence) -> Answer:
    reference = image.reference
    shown = shown_reference(reference)
    if is_image_id(reference):
        return unknown(_REFERENCE_PATH, "started by its id, or its tag has moved away", shown[:19])
    if "@sha256:" in reference:
        return passed(shown, _REFERENCE_PATH)
    if not has_tag(reference):
        return failed(f"{shown}, no tag", _REFERENCE_PATH)
    return judged(reference.rsplit(":", 1)[-1] != "latest", shown, _REFERENCE_PATH)


def _digest(image: Image, _: Evidence) -> Answer:
    if is_image_id(image.reference):
        return unknown(_REFERENCE_PATH, "started by its id", shown_reference(image.reference)[:19])
    return judged("@sha256:" in image.reference, shown_reference(image.reference), _REFERENCE_PATH)


def _registry(image: Image, evidence: Evidence) -> Answer:
    if evidence.approved_registries is None:
        return not_applicable("no list of approved registries was given", _REFERENCE_PATH)
    if is_image_id(image.reference):
        return unknown(_REFERENCE_PATH, "started by its id", shown_reference(image.reference)[:19])
    first, slash, _rest = image.reference.partition("/")
    registry = first if slash and ("." in first or ":" in first or first == "localhost") else "docker.io"
    registry = registry.rsplit("@", 1)[-1]
    return judged(registry in evidence.approved_registries, safe(registry), _REFERENCE_PATH)


def _scan(image: Image, evidence: Evidence) -> Answer:
    if evidence.scans is None:
        return unknown("scan", "no reports of a scanner were given")
    image.top.text("Id")
    scan = evidence.scans.get(image.id)
    if scan is None:
        return failed("no report", "scan")
    if evidence.now is None:
        return unknown("scan", "the moment was not given", scan.scanned_at.date().isoformat())
    age = evidence.now - scan.scanned_at
    return judged(age <= _SCAN_LIFE, f"{age.days} days old", "scan")


def _vulnerabilities(image: Image, evidence: Evidence) -> Answer:
    scan = (evidence.scans or {}).get(image.id)
    if scan is None:
        return unknown("scan", "no report of a scanner for this image")
    observed = (
        f"{scan.critical_fixable} critical and {scan.high_fixable} high with a fix,"
        f" {scan.known_exploited_fixable} known exploited, {scan.unfixed} without a fix"
    )
    if scan.critical_fixable or scan.known_exploited_fixable:
        return failed(observed, "scan")
    return failed(observed, "scan", severity=Severity.HIGH) if scan.high_fixable else passed(observed, "scan")


def _end_of_life(image: Image, evidence: Evidence) -> Answer:
    scan = (evidence.scans or {}).get(image.id)
    if scan is None or scan.end_of_life is None:
        return unknown("scan", "no report of a scanner says so for this image")
    return judged(not scan.end_of_life, "no more updates" if scan.end_of_life else "supported", "scan")


def _signature(image: Image, evidence: Evidence) -> Answer:
    if evidence.signatures is None or image.id not in evidence.signatures:
        return unknown("signature", "no result of cosign verify for this image")
    signatures = evidence.signatures[image.id]
    if not signatures:
        return failed("not signed", "signature")
    signers = sorted({one.signer for one in signatures if one.signer})
    observed = ", ".join(safe(one, 80) for one in signers[:3])
    if evidence.expected_signers is None:
        return passed(f"signed by {observed or 'an unnamed key'}; no signer is demanded", "signature")
    if set(signers) & set(evidence.expected_signers):
        return passed(f"signed by {observed}", "signature")
    if not signers:
        return unknown("signature", "the signature does not name its signer")
    return failed(f"signed by {observed}", "signature", severity=Severity.HIGH)


def _size(image: Image, evidence: Evidence) -> Answer:
    size = image.top.number("Size") or 0
    sizes = [value for one in evidence.images if isinstance(value := (one.inspect or {}).get("Size"), int)]
    if len(sizes) < 5:
        return not_applicable("fewer than 5 images to compare with", "Size")
    ratio = size / max(1.0, statistics.median(sizes))
    return judged(ratio <= 2.0, f"{size} bytes, {ratio:.1f} times the median", "Size")


def _own_steps(image: Image) -> Iterator[tuple[str, str]]:
    """(step, path) above the base image's file system, whose making cannot be laid at anybody's door here."""
    steps = iter(image.steps)
    for step, size, _path in steps:
        if size > 0 or not _METADATA.match(step):
            break
    for step, _size_bytes, path in steps:
        yield step, path


def _build_tools(image: Image, _: Evidence) -> Answer:
    for step, path in _own_steps(image):
        if _INSTALL.search(step) and (tool := _TOOLS.search(step)) and not _REMOVAL.search(step):
            return failed(f"{tool[0]} installed and not removed", path)
    return passed("none seen", "History")


def _added(image: Image, _: Evidence) -> Answer:
    found: list[Verdict] = []
    for step, path in _own_steps(image):
        files = _FILES.match(step)
        if files is not None and files["word"] == "ADD":
            remote = re.match(r"(?:--\S+\s+)*https?://", files["rest"]) is not None
            what = "remote ADD" if remote else "ADD"
            found.append(failed(what, path, key=what, severity=Severity.MEDIUM if remote else None))
        elif files is None and _PIPED.search(step):
            found.append(failed("download piped into a shell", path, key="pipe", severity=Severity.MEDIUM))
    return list({one.key: one for one in found}.values()) or passed("none", "History")


def _update_alone(image: Image, _: Evidence) -> Answer:
    for step, path in _own_steps(image):
        if _UPDATE.search(step) and not _INSTALL.search(step) and not _METADATA.match(step):
            return failed("package lists updated, nothing installed", path)
    return passed("none", "History")


def _age(image: Image, evidence: Evidence) -> Answer:
    text = image.top.text("Created")
    if not text:
        return unknown("Created", "empty")
    created = moment(text, "Created")
    if created.year <= 1980:
        return unknown("Created", "a reproducible build without a date", text[:10])
    if evidence.now is None:
        return unknown("Created", "the moment was not given", text[:10])
    age = evidence.now - created
    return judged(age <= _IMAGE_LIFE, f"{age.days} days old", "Created")


def _provenance(image: Image, _: Evidence) -> Answer:
    missing = [name.rsplit(".", 1)[-1] for name in _PROVENANCE if not image.labels.get(name)]
    return judged(not missing, f"without {', '.join(missing)}" if missing else "all three", "Config.Labels")


def running_image(one: Container, evidence: Evidence) -> Answer:
    """IMG-03, a check of containers: whether its tag still names what it runs. Raises Unread."""
    reference, running = one.reference, one.top.text("Image")
    if is_image_id(reference) or "@sha256:" in reference:
        return not_applicable("started by an id or a digest", _REFERENCE_PATH)
    current = evidence.image_tagged(reference)
    if current is None or not current.id:
        raise Unread("image", "the image of this tag was not given")
    if not running:
        raise Unread("Image", "empty")
    return judged(running == current.id, "the tag's image" if running == current.id else "an older image", "Image")


ImagePredicate = Callable[[Image, Evidence], Answer]
#: By reference; all others are by content.
REFERENCE_CHECKS: dict[str, ImagePredicate] = {"IMG-01": _tag, "IMG-02": _digest, "IMG-08": _registry}
CONTENT_CHECKS: dict[str, ImagePredicate] = {
    "SEC-02": in_image,
    "IMG-04": _scan,
    "IMG-05": _vulnerabilities,
    "IMG-06": _end_of_life,
    "IMG-07": _signature,
    "IMG-09": _size,
    "IMG-10": _build_tools,
    "IMG-11": _added,
    "IMG-12": _update_alone,
    "IMG-13": _age,
    "IMG-14": _provenance,
}
CHECKS = {"IMG-03": running_image}
