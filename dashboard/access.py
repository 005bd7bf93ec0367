"""Who is looking, and what they may see: the only place that makes a Scope.

Without an access mapping everybody who can open the page sees the whole fleet (the page is bound to loopback by
default). With one, a reverse proxy that has logged the viewer in names them in a request header, and the mapping
names the tenants of each viewer or group; a viewer it does not know sees nothing at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fleet.model import Scope

EVERYTHING = Scope(tenants=None)
NOTHING = Scope(tenants=frozenset())
#: In a mapping: every tenant.
ALL_TENANTS = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How viewers become scopes.

    trusted_header: name of the header the proxy sets (and strips from outside); empty = no access control.
    tenants_of: viewer or group, lower case -> tenants; `ALL_TENANTS` among them = the whole fleet.
    """

    trusted_header: str = ""
    tenants_of: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])

    @property
    def configured(self) -> bool:
        """True when viewers are told apart."""
        return bool(self.trusted_header)

    def scope(self, named: Sequence[str]) -> Scope:
        """The scope of one request, from all values its trusted header was sent with.

        Nobody known, or a header sent twice or with control characters, sees nothing.
        """
        if not self.trusted_header:
            return EVERYTHING
        if len(named) != 1 or not named[0].isprintable():
            return NOTHING
        allowed: set[str] = set()
        for viewer in named[0].split(","):
            allowed |= self.tenants_of.get(viewer.strip().lower(), frozenset())
        return EVERYTHING if ALL_TENANTS in allowed else Scope(tenants=frozenset(allowed))


def mapping(pairs: Mapping[str, object]) -> dict[str, frozenset[str]]:
    """The access mapping of the settings (viewer -> list of tenants) made ready for look-up.

    Raises TypeError when an entry is not a list of names.
    """
    ready: dict[str, frozenset[str]] = {}
    for viewer, tenants in pairs.items():
        if isinstance(tenants, str) or not isinstance(tenants, (list, tuple, set, frozenset)):
            raise TypeError(f"access: {viewer!r} has {tenants!r}; write a list of tenants, [] for none, ['*'] for all")
        ready[viewer.strip().lower()] = frozenset(str(tenant) for tenant in tenants)
    return ready


def is_loopback(host: str) -> bool:
    """True when an address to listen on can be reached from this machine only."""
    name = host.strip("[]").lower()
    return name in {"localhost", "::1"} or name.startswith("127.")
