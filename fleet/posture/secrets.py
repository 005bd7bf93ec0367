"""SEC: secrets where everybody can read them, and whether a better place is in use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fleet.posture.catalogue import Severity
from fleet.posture.container import Container
from fleet.posture.evidence import Evidence, Image
from fleet.posture.secrets_scan import Hit, scan_command, scan_environment, scan_labels, scan_text
from fleet.posture.verdicts import Answer, Unread, Verdict, failed, not_applicable, passed

_SECRET_FOLDERS = ("/run/secrets", "/var/run/secrets", "/vault/secrets", "/mnt/secrets-store")
_VAULT_LABELS = ("vault.hashicorp.com/", "vault.", "com.hashicorp.vault")
_KINDS = {"secret": None, "default-password": Severity.MEDIUM, "placeholder": Severity.INFO}


def _verdict(hit: Hit, origin: str) -> Verdict:
    what = "" if hit.kind == "secret" else f", {hit.kind.replace('-', ' ')}"
    named = f"{hit.key} " if hit.key else ""
    observed = f"{named}in {hit.place}: rule {hit.rule}, {hit.confidence}{what}, by the {origin}"
    details = {"rule": hit.rule, "confidence": hit.confidence, "kind": hit.kind, "place": hit.place, "origin": origin}
    if hit.fingerprint:
        details["fingerprint"] = hit.fingerprint
    return Verdict(
        result="fail",
        observed=observed,
        path=hit.path,
        key=f"{hit.place}:{hit.subject}",
        severity=_KINDS[hit.kind],
        details=details,
    )


def _once(hits: Iterable[tuple[Hit, str]], *, across_places: bool) -> list[Verdict]:
    """One verdict for each secret: the first place it stands at, or the first of each kind of place."""
    found: dict[str, Verdict] = {}
    for hit, origin in hits:
        found.setdefault(hit.subject if across_places else f"{hit.place}:{hit.subject}", _verdict(hit, origin))
    return list(found.values())


def _image_part(one: Container, evidence: Evidence, part: str) -> frozenset[str] | None:
    """Env lines or `key=value` labels of the image; None when the image is not known."""
    image = evidence.image_of(one)
    if image is None:
        return None
    try:
        if part == "Env":
            return frozenset(image.environment)
        return frozenset(f"{key}={value}" for key, value in image.labels.items())
    except Unread:
        return None


def _in_environment(one: Container, evidence: Evidence) -> Answer:
    lines = one.environment_lines
    hits = list(scan_environment(lines, place="env", path="Config.Env", key=evidence.fingerprint_key))
    if not hits:
        return passed(f"none in {len(lines)} variables", "Config.Env")
    baked = _image_part(one, evidence, "Env")
    if baked is None:
        return _once(((hit, "image or operator") for hit in hits), across_places=False)
    # What the image brought is the image's finding (SEC-02), once, however many containers run it.
    own = [hit for hit in hits if lines[int(hit.path[len("Config.Env[") : -1])] not in baked]
    if not own:
        return passed("none set by the operator; the image's are SEC-02", "Config.Env")
    return _once(((hit, "operator") for hit in own), across_places=False)


def _in_command(one: Container, evidence: Evidence) -> Answer:
    key = evidence.fingerprint_key
    hits: list[tuple[Hit, str]] = []
    words: tuple[str, ...] = ()
    missing: Unread | None = None
    try:
        words = one.arguments
        one.all_of("Args")
    except Unread as error:
        missing = error
    hits += ((hit, "operator") for hit in scan_command(words, place="command", path="Args", key=key))
    baked = _image_part(one, evidence, "Labels")
    labels = {name: text for name, text in one.labels.items() if baked is None or f"{name}={text}" not in baked}
    origin = "operator" if baked is not None else "image or operator"
    hits += ((hit, origin) for hit in scan_labels(labels, place="labels", path="Config.Labels", key=key))
    options = one.host.section("LogConfig", optional=True).section("Config", optional=True)
    hits += ((hit, "operator") for hit in scan_labels(options.values, place="log options", path=options.path, key=key))
    check = one.config.values.get("Healthcheck")
    if check is not None:
        test = one.config.section("Healthcheck").texts("Test", optional=True)
        place, path = "health check", "Config.Healthcheck.Test"
        hits += ((hit, origin) for hit in scan_command(test, place=place, path=path, key=key))
    if missing is not None and not hits:
        raise missing
    return _once(hits, across_places=False) or passed(
        f"none in {len(words)} arguments and {len(labels)} labels", "Args"
    )


def secret_mechanism(one: Container) -> str:
    """The good way that is in use: a mount of secret files, a *_FILE variable, a Vault agent; "" when none is seen."""
    for mount in one.mounts:
        if any(mount.target == folder or mount.target.startswith(folder + "/") for folder in _SECRET_FOLDERS):
            return f"files under {next(folder for folder in _SECRET_FOLDERS if mount.target.startswith(folder))}"
    for name, value in one.environment.items():
        if name.endswith("_FILE") and value.startswith(tuple(f"{folder}/" for folder in _SECRET_FOLDERS)):
            return "a *_FILE variable"
    return "a Vault agent" if any(key.startswith(_VAULT_LABELS) for key in one.labels) else ""


def _mechanism(one: Container, evidence: Evidence) -> Answer:
    seen = secret_mechanism(one)
    if seen:
        return passed(seen, "Mounts")
    found = _in_environment(one, evidence)
    if isinstance(found, Verdict) or all(verdict.severity is Severity.INFO for verdict in found):
        return not_applicable("no secret needed, as far as is seen", "Config.Env")
    return failed("none, and secrets in the environment", "Mounts")


def in_image(image: Image, evidence: Evidence) -> Answer:
    """SEC-02: secrets in the image's environment, labels, health check and history, each once. Raises Unread."""
    key = evidence.fingerprint_key
    hits: list[tuple[Hit, str]] = []
    missing: Unread | None = None
    try:
        environment, labels = image.environment, image.labels
        found = scan_environment(environment, place="image env", path="Config.Env", key=key)
        hits += ((hit, "image") for hit in found)
        hits += ((hit, "image") for hit in scan_labels(labels, place="image labels", path="Config.Labels", key=key))
    except Unread as error:
        missing = error
    try:
        for step, _, path in image.steps:
            build = step.startswith("|") or " ARG " in step[:40] or step.startswith("ARG ")
            for hit in scan_text(step, place="history", path=path, key=key):
                # What has no name there stands in the command behind the arguments.
                hits.append((replace(hit, place="build argument") if build and hit.key else hit, "image"))
    except Unread as error:
        missing = missing or error
    verdicts = _once(hits, across_places=True)
    if missing is not None and not verdicts:
        raise missing
    return verdicts or passed("none in environment, labels and history", "Config")


CHECKS = {"SEC-01": _in_environment, "SEC-03": _in_command, "SEC-04": _mechanism}
