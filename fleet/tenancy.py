"""Whose a container is: the operator's rules first, then what the container says of itself.

A label is written by whoever starts the container, so a tenant that comes from one is "self-declared" (origin
"label" or "compose"); only a rule makes it "mapped". Expressions match the whole text: `acme` must not take
`not-acme` in, because a container in the wrong tenant is shown to the wrong people. `acme-.*` says what it means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from fleet.model import UNASSIGNED
from fleet.redaction import inert, redact_text
from fleet.settings_table import TenancySettings, TenantRule

Origin = Literal["mapped", "label", "compose", "none"]

COMPOSE_PROJECT = "com.docker.compose.project"
COMPOSE_SERVICE = "com.docker.compose.service"
COMPOSE_NUMBER = "com.docker.compose.container-number"
#: No expression sees more of a stranger's text than this: a bound on what a slow one can cost.
_MATCHED_CHARACTERS = 1024
_NAME_LIMIT = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """Whose a container is, and how we know. `tenant` is never empty: UNASSIGNED when nobody is named."""

    tenant: str
    team: str = ""
    owner: str = ""
    origin: Origin = "none"


class TenancyError(ValueError):
    """A tenant rule that cannot work; says which rule, what was found, what to write."""


class Tenancy:
    """Resolves tenants by rules in their order, then labels, then the compose project."""

    def __init__(self, rules: Sequence[TenantRule] = (), settings: TenancySettings | None = None) -> None:
        """Raises TenancyError when a rule has a bad expression, no tenant, or a group that is not there."""
        self._rules = tuple(_CompiledRule(number, rule) for number, rule in enumerate(rules))
        self._settings = settings or TenancySettings()

    def resolve(self, name: str, image: str, labels: Mapping[str, str]) -> Tenant:
        """The tenant of a container, from its name (no leading slash), image reference and labels. Never raises."""
        project = labels.get(COMPOSE_PROJECT, "")
        for rule in self._rules:
            tenant = rule.tenant(name, image, labels, project)
            if tenant is None:
                continue
            return Tenant(
                tenant=tenant,
                team=rule.rule.team or self._first(self._settings.team_labels, labels),
                owner=rule.rule.owner or self._first(self._settings.owner_labels, labels),
                origin="mapped",
            )
        team = self._first(self._settings.team_labels, labels)
        owner = self._first(self._settings.owner_labels, labels)
        declared = self._first(self._settings.tenant_labels, labels)
        if declared:
            return Tenant(tenant=declared, team=team, owner=owner, origin="label")
        if self._settings.compose_project_is_tenant and (named := inert(project, _NAME_LIMIT).strip()):
            return Tenant(tenant=named, team=team, owner=owner, origin="compose")
        return Tenant(tenant=UNASSIGNED, team=team, owner=owner)

    @staticmethod
    def _first(keys: Sequence[str], labels: Mapping[str, str]) -> str:
        for key in keys:
            if value := inert(redact_text(labels.get(key, "")), _NAME_LIMIT).strip():
                return value
        return ""


def container_key(host: str, name: str, labels: Mapping[str, str]) -> str:
    """The key under which a container keeps its history when it is recreated.

    "<host>:<project>/<service>/<number>" with compose labels, else "<host>:<name>".
    """
    project, service = labels.get(COMPOSE_PROJECT, ""), labels.get(COMPOSE_SERVICE, "")
    if project and service:
        number = labels.get(COMPOSE_NUMBER, "") or "1"
        return f"{host}:{inert(project, _NAME_LIMIT)}/{inert(service, _NAME_LIMIT)}/{inert(number, 16)}"
    return f"{host}:{inert(name, 256)}"


class _CompiledRule:
    def __init__(self, number: int, rule: TenantRule) -> None:
        self.rule = rule
        self._where = f"tenant_rules[{number}]"
        if not rule.tenant:
            raise TenancyError(f'{self._where}: tenant is empty; write tenant = "name"')
        self._name = self._compile("name", rule.name)
        self._image = self._compile("image", rule.image)
        self._label = self._compile("label", rule.label)
        self._project = self._compile("compose_project", rule.compose_project)
        self._check_groups()

    def tenant(self, name: str, image: str, labels: Mapping[str, str], project: str) -> str | None:
        """The tenant this rule gives, None when it does not match."""
        last: re.Match[str] | None = None
        for expression, text in ((self._name, name), (self._image, image)):
            if expression is not None:
                last = expression.fullmatch(text[:_MATCHED_CHARACTERS])
                if last is None:
                    return None
        if self._label is not None:
            pairs = (f"{key}={labels[key]}"[:_MATCHED_CHARACTERS] for key in sorted(labels))
            last = next((found for pair in pairs if (found := self._label.fullmatch(pair))), None)
            if last is None:
                return None
        if self._project is not None:
            last = self._project.fullmatch(project[:_MATCHED_CHARACTERS])
            if last is None:
                return None
        if last is None or not self._has_groups:
            return self.rule.tenant
        # An optional group that took no part leaves an empty name: that is no tenant, so the rule does not apply.
        return inert(last.expand(self.rule.tenant), _NAME_LIMIT).strip() or None

    @cached_property
    def _has_groups(self) -> bool:
        return "\\" in self.rule.tenant

    def _compile(self, key: str, expression: str) -> re.Pattern[str] | None:
        if not expression:
            return None
        try:
            return re.compile(expression)
        except re.error as error:
            raise TenancyError(
                f"{self._where}.{key}: {expression!r} is no regular expression ({error}); correct it"
            ) from error

    def _check_groups(self) -> None:
        if not self._has_groups:
            return
        given = [pattern for pattern in (self._name, self._image, self._label, self._project) if pattern is not None]
        groups = max((int(number) for number in re.findall(r"\\(?:g<)?(\d+)", self.rule.tenant)), default=0)
        available = given[-1].groups if given else 0
        if groups > available:
            raise TenancyError(
                f"{self._where}.tenant: {self.rule.tenant!r} takes group {groups}, "
                f"the last expression has {available}; put the part you want in parentheses"
            )
