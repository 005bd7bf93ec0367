"""fleet.toml and the environment -> frozen `Settings`; every mistake in one report.

The table of what can be set is `fleet/settings_table.py`. The environment wins over the file, the file over defaults.
A variable is AIFLEET_<SECTION>_<KEY>; for an array of tables that is its first entry, AIFLEET_<SECTION>_<NUMBER>_<KEY>
any of them, from 0.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import tomllib
from collections.abc import Mapping
from typing import TypeGuard, cast
from urllib.parse import urlsplit

from fleet.settings_rules import Value, docker_url
from fleet.settings_secrets import SettingsError, masked, read_secret, with_password
from fleet.settings_table import (
    DEFAULT_DOCKER_URL,
    SECTIONS,
    TABLE,
    AlertSettings,
    DashboardSettings,
    DockerDaemon,
    EndpointRule,
    GatewaySettings,
    General,
    NvmlSettings,
    PrometheusServer,
    RetentionSettings,
    Setting,
    Settings,
    SloSettings,
    StoreSettings,
    SyntheticSettings,
    TenancySettings,
    TenantRule,
)

#: Variables with our prefix that are no settings: where files are, and what compose.yaml hands to its services.
NOT_SETTINGS = frozenset(
    {"AIFLEET_CONFIG", "AIFLEET_ACCESS_FILE", "AIFLEET_VERSION", "AIFLEET_WRITER_PASSWORD", "AIFLEET_READER_PASSWORD"}
)
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
KIND_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text in quotes",
    tuple: "a list of texts",
}


def load_settings(
    text: str, environment: Mapping[str, str], *, origin: str = "fleet.toml", host: str = "localhost"
) -> Settings:
    """The settings in force, from the text of a file (may be empty) and the environment.

    origin: how the file is called in messages. host: name of this machine when nothing sets it.
    Reads no other file. Raises SettingsError with all mistakes.
    """
    return _Loader(origin, environment).load(text, host)


class _Loader:
    def __init__(self, origin: str, environment: Mapping[str, str]) -> None:
        self.origin = origin
        self.environment = environment
        self.mistakes: list[str] = []
        self.origins: dict[str, str] = {}

    def load(self, text: str, host: str) -> Settings:
        try:
            document: dict[str, object] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SettingsError((f"{self.origin}: not TOML: {error}; correct that line",)) from error
        entries = self._from_file(document)
        self._from_environment(entries)
        built = {section: [self._build(section, entry) for entry in found] for section, found in entries.items()}
        fields: dict[str, object] = {"origins": self.origins}
        for section, (name, kind, array) in SECTIONS.items():
            if array:
                if section in entries:
                    fields[name] = tuple(built[section])
            else:
                fields[name] = built[section][0] if section in entries else kind()
        settings = Settings(**fields)  # type: ignore[arg-type]
        settings = self._resolve(settings, host)
        self._cross_check(settings)
        if self.mistakes:
            raise SettingsError(tuple(self.mistakes))
        return settings

    def _wrong(self, origin: str, where: str, found: object, complaint: str, advice: str) -> None:
        separator = ": " if where else ""
        self.mistakes.append(f"{origin}: {where}{separator}found {_shown(found)}, {complaint}; write {advice}")

    def _from_file(self, document: Mapping[str, object]) -> dict[str, list[dict[str, tuple[object, str, str]]]]:
        """Section -> entries of key -> (value, origin, where)."""
        entries: dict[str, list[dict[str, tuple[object, str, str]]]] = {}
        for name, value in document.items():
            if name in SECTIONS and name:
                entries[name] = self._tables(name, value)
            elif name in _keys(""):
                entries.setdefault("", [{}])[0][name] = (value, self.origin, name)
            else:
                known = [*(section for section in SECTIONS if section), *_keys("")]
                shown = f"[{name}]" if isinstance(value, dict) else f"[[{name}]]" if _is_tables(value) else name
                self._unknown(self.origin, shown, name, known)
        return entries

    def _tables(self, section: str, value: object) -> list[dict[str, tuple[object, str, str]]]:
        array = SECTIONS[section][2]
        header = f"[[{section}]]" if array else f"[{section}]"
        if array and isinstance(value, dict):  # [docker] where [[docker]] is meant: one entry, no ambiguity
            value = [cast("object", value)]
        if (array and value != [] and not _is_tables(value)) or (not array and not isinstance(value, dict)):
            self._wrong(self.origin, section, value, "not a table", f"{header} and its keys below it")
            return [{}]
        tables = cast("list[dict[str, object]]", value if array else [value])
        found: list[dict[str, tuple[object, str, str]]] = []
        for number, table in enumerate(tables):
            prefix = f"{section}[{number}]" if array else section
            entry: dict[str, tuple[object, str, str]] = {}
            for key, item in table.items():
                if key in _keys(section):
                    entry[key] = (item, self.origin, f"{prefix}.{key}")
                else:
                    self._unknown(self.origin, f"{prefix}.{key}", key, list(_keys(section)))
            found.append(entry)
        return found

    def _unknown(self, origin: str, where: str, word: str, known: list[str]) -> None:
        close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
        advice = f'did you mean "{close[0]}"?' if close else f"known here: {', '.join(sorted(known))}"
        self.mistakes.append(f"{origin}: {where}: unknown; {advice}")

    def _from_environment(self, entries: dict[str, list[dict[str, tuple[object, str, str]]]]) -> None:
        variables = {row.variable: row for row in TABLE}
        for variable in sorted(self.environment):
            if not variable.startswith("AIFLEET_") or variable in NOT_SETTINGS:
                continue
            number = 0
            row = variables.get(variable)
            if row is None:
                row, number = _numbered(variable)
            if row is None:
                self._unknown("environment", variable, variable, list(variables))
                continue
            found = entries.setdefault(row.section, [])
            if number > len(found):
                last = f"AIFLEET_{row.section.upper()}_{len(found)}_{row.key.upper()}"
                self.mistakes.append(f"environment: {variable}: there is no entry {number - 1} before it; write {last}")
                continue
            if number == len(found):
                found.append({})
            value = self._parsed(variable, self.environment[variable], row)
            prefix = f"{row.section}[{number}]." if row.array else f"{row.section}." if row.section else ""
            found[number][row.key] = (value, variable, f"{prefix}{row.key}")

    def _parsed(self, variable: str, text: str, row: Setting) -> object:
        """The value a variable's text stands for, or the text itself, for `_build` to complain about."""
        kind = type(row.default)
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(
                text.lower(), text
            )
        if kind is tuple:
            return [part.strip() for part in text.split(",") if part.strip()]
        if kind in {int, float}:
            try:
                return kind(text)
            except ValueError:
                return text
        return text

    def _build(self, section: str, entry: Mapping[str, tuple[object, str, str]]) -> object:
        kind = SECTIONS[section][1]
        values: dict[str, Value] = {}
        for row in (row for row in TABLE if row.section == section):
            if row.key not in entry:
                continue
            found, origin, where = entry[row.key]
            # A variable's own name is where a person looks, not the place in a file that has no such line.
            place = (origin, where) if origin == self.origin else ("environment", origin)
            value = _converted(found, type(row.default))
            if value is None:
                self._wrong(*place, found, f"not {KIND_NAMES[type(row.default)]}", _example(row))
                continue
            complaint = row.rule(value) if row.rule else None
            if complaint:
                self._wrong(*place, found, *complaint)
                continue
            values[row.key] = value
            self.origins[where] = origin
        return kind(**values)

    def _resolve(self, settings: Settings, host: str) -> Settings:
        """Fill in what follows from other settings: names of hosts and servers, DOCKER_HOST."""
        general = settings.general if settings.general.host else dataclasses.replace(settings.general, host=host)
        daemons = settings.docker
        if daemons and "docker[0].url" not in self.origins and self.environment.get("DOCKER_HOST"):
            # Docker's own variable, honoured as the docker command does: people already point it at their daemon.
            found = {"url": self.environment["DOCKER_HOST"]}
            self.origins["docker[0].url"] = "DOCKER_HOST"
            certificates = self.environment.get("DOCKER_CERT_PATH", "")
            if certificates and self.environment.get("DOCKER_TLS_VERIFY"):
                names = (("tls_ca_file", "ca.pem"), ("tls_cert_file", "cert.pem"), ("tls_key_file", "key.pem"))
                found |= {key: os.path.join(certificates, name) for key, name in names}  # noqa: PTH118  # text, not I/O
            daemons = (dataclasses.replace(daemons[0], **found), *daemons[1:])
        daemons = tuple(
            item if item.name else dataclasses.replace(item, name=_docker_name(item.url, general.host))
            for item in daemons
        )
        servers = tuple(
            dataclasses.replace(
                item,
                name=item.name or _netloc(item.url),
                docker_host=item.docker_host or (general.host if _hostname(item.url) in LOOPBACK else ""),
            )
            for item in settings.prometheus
        )
        return dataclasses.replace(settings, general=general, docker=daemons, prometheus=servers)

    def _place(self, name: str) -> tuple[str, str]:
        origin = self.origins.get(name, self.origin)
        return (origin, name) if origin == self.origin else ("environment", origin)

    def _cross_check(self, settings: Settings) -> None:
        for section in ("docker", "prometheus", "endpoints", "tenant_rules", "slo"):
            entries = cast("tuple[object, ...]", getattr(settings, SECTIONS[section][0]))
            for number, item in enumerate(entries):
                self._check_required(section, number, item)
        for number, daemon in enumerate(settings.docker):
            has_tls = bool(daemon.tls_cert_file and daemon.tls_key_file and daemon.tls_ca_file)
            complaint = docker_url(daemon.url, has_tls=has_tls, allow_plain_tcp=daemon.allow_plain_tcp)
            if complaint:
                self._wrong(*self._place(f"docker[{number}].url"), daemon.url, *complaint)
        self._check_names("docker", [daemon.name for daemon in settings.docker])
        self._check_names("prometheus", [server.name for server in settings.prometheus if server.url])
        self._check_names("slo", [objective.name for objective in settings.slo if objective.name])
        tiers = settings.retention
        if not tiers.raw_days <= tiers.minute_days <= tiers.hour_days:
            found = f"{tiers.raw_days}, {tiers.minute_days}, {tiers.hour_days}"
            advice = "raw_days <= minute_days <= hour_days"
            self._wrong(self.origin, "retention", found, "raw, minute and hour days do not ascend", advice)
        alerts = settings.alerts
        for low, high in (
            ("error_warning_ratio", "error_critical_ratio"),
            ("ttft_warning_seconds", "ttft_critical_seconds"),
            ("idle_sm_ratio", "busy_sm_ratio"),
        ):
            if getattr(alerts, low) > getattr(alerts, high):
                found = getattr(alerts, high)
                self._wrong(*self._place(f"alerts.{high}"), found, f"below {low}", f"at least {getattr(alerts, low):g}")
        gateway, dashboard = settings.gateway, settings.dashboard
        if gateway.port == dashboard.port != 0:
            where = self._place("gateway.port" if "gateway.port" in self.origins else "dashboard.port")
            self._wrong(*where, gateway.port, "gateway and dashboard share it", "two different ports")
        for number, rule in enumerate(settings.tenant_rules):
            refused = any(f" tenant_rules[{number}]." in mistake for mistake in self.mistakes)
            if not refused and not (rule.name or rule.image or rule.label or rule.compose_project):
                self.mistakes.append(
                    f"{self.origin}: tenant_rules[{number}]: matches every container; "
                    "write at least one of name, image, label, compose_project"
                )

    def _check_required(self, section: str, number: int, item: object) -> None:
        for row in TABLE:
            name = f"{section}[{number}].{row.key}"
            if row.section == section and row.required and getattr(item, row.key) == "":
                # A value that was refused has been reported already.
                if any(f" {name}: " in mistake or f" {row.variable}: " in mistake for mistake in self.mistakes):
                    continue
                self.mistakes.append(f"{self._place(name)[0]}: {name}: missing; write {row.key} = {_example(row)}")

    def _check_names(self, section: str, names: list[str]) -> None:
        for number, name in enumerate(names):
            if name in names[:number]:
                first = names.index(name)
                where = f"{section}[{number}].name"
                self._wrong(
                    *self._place(where), name, f"{section}[{first}] has the same name", "a different name for each"
                )  # fmt: skip


def _keys(section: str) -> tuple[str, ...]:
    return tuple(row.key for row in TABLE if row.section == section)


def _is_tables(value: object) -> TypeGuard[list[dict[str, object]]]:
    return (
        isinstance(value, list)
        and bool(cast("list[object]", value))
        and all(isinstance(item, dict) for item in cast("list[object]", value))
    )


def _numbered(variable: str) -> tuple[Setting | None, int]:
    for row in TABLE:
        if not row.array:
            continue
        head, tail = f"AIFLEET_{row.section.upper()}_", f"_{row.key.upper()}"
        if variable.startswith(head) and variable.endswith(tail):
            middle = variable[len(head) : -len(tail)]
            if middle.isascii() and middle.isdigit() and len(middle) < 4:
                return row, int(middle)
    return None, 0


def _converted(found: object, kind: type) -> Value | None:
    """The value in the type of its default, None when it is of another."""
    if kind is tuple:
        if not isinstance(found, list):
            return None
        items = cast("list[object]", found)
        return (
            tuple(item for item in items if isinstance(item, str)) if all(isinstance(i, str) for i in items) else None
        )
    if kind is float and isinstance(found, int) and not isinstance(found, bool):
        return float(found)
    # bool is an int in Python: `port = true` must not become port 1.
    if isinstance(found, bool) and kind is not bool:
        return None
    return cast("Value", found) if isinstance(found, kind) else None


def _example(row: Setting) -> str:
    if row.section == "prometheus" and row.key == "url":
        return '"http://127.0.0.1:9090"'
    if row.required and not row.default:
        return f'"a {row.key}"'
    default = list(row.default) if isinstance(row.default, tuple) else row.default
    return json.dumps(default)


def _shown(value: object) -> str:
    """The value as it would stand in the file, shortened, with a password masked and nothing a terminal obeys."""
    if isinstance(value, str):
        value = masked(value) if "://" in value and "@" in value else value
    text = json.dumps(value, default=str)
    return text if len(text) <= 120 else text[:119] + "…"


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _netloc(url: str) -> str:
    return url.partition("://")[2].partition("/")[0].rpartition("@")[2]


def _docker_name(url: str, host: str) -> str:
    remote = _hostname(url)
    return host if url.startswith("unix:") or remote in LOOPBACK or not remote else remote


__all__ = [
    "DEFAULT_DOCKER_URL", "LOOPBACK", "SECTIONS", "TABLE", "AlertSettings", "DashboardSettings", "DockerDaemon",
    "EndpointRule", "GatewaySettings", "General", "NvmlSettings", "PrometheusServer", "RetentionSettings", "Setting",
    "Settings", "SettingsError", "SloSettings", "StoreSettings", "SyntheticSettings", "TenancySettings", "TenantRule",
    "load_settings", "masked", "read_secret", "with_password",
]  # fmt: skip
