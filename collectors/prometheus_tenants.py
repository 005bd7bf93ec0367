"""Whose requests a gateway's series count: the operator's rules first, then the name in the labels as it stands."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from collectors.prometheus_subjects import NAME_LENGTH, TenantOf
from fleet.profiles import Profile
from fleet.redaction import inert, redact_text
from fleet.tenancy import Tenancy

_REMEMBERED = 4096


def said_tenants(tenancy: Tenancy) -> TenantOf:
    """The tenant that labels of a series name: by a rule on `label`, like "team_alias=search.*", else as they say.

    Rules on names and images do not apply: those are the gateway's own, and it serves everybody.
    """

    @functools.lru_cache(maxsize=_REMEMBERED)
    def resolved(said: str, pairs: tuple[tuple[str, str], ...]) -> str:
        found = tenancy.resolve("", "", {"tenant": said, **dict(pairs)})
        return found.tenant if found.origin == "mapped" else inert(redact_text(said), NAME_LENGTH).strip()

    def tenant_of(profile: Profile, labels: Mapping[str, str]) -> str:
        said = profile.said("tenant", labels)
        if not said:
            return ""
        names = profile.labels.get("tenant", ())
        return resolved(said, tuple((name, labels[name]) for name in names if labels.get(name)))

    return tenant_of
