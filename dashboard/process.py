"""What this process serves, held once: the settings in force, the open store, who may see what.

Streamlit runs every page as a script of its own; this is the one object they share. `serve` installs it before the
first visitor, tests install their own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from dashboard.access import Access, is_loopback
from dashboard.data import Reader
from fleet.settings import Settings


def utc_now() -> datetime:
    """The moment, aware UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One dashboard process. `settings_origin`: the file the settings came from, in words."""

    settings: Settings
    reader: Reader
    access: Access = field(default_factory=Access)
    settings_origin: str = "defaults"
    now: Callable[[], datetime] = utc_now

    @property
    def open_to_network(self) -> bool:
        """True when other machines can reach the pages and nobody is asked who they are."""
        # In a container the pages listen on every address, and what is published decides who reaches them.
        dashboard = self.settings.dashboard
        return not is_loopback(dashboard.published_on or dashboard.host) and not self.access.configured


_lock = threading.Lock()
_deployment: Deployment | None = None


def install(deployment: Deployment | None) -> None:
    """Make this the deployment that pages see; None takes it away."""
    global _deployment
    with _lock:
        _deployment = deployment


def current() -> Deployment:
    """The deployment. Raises RuntimeError when pages run without `python -m dashboard`."""
    if _deployment is None:
        raise RuntimeError("dashboard: pages were started without their server; start them with `python -m dashboard`")
    return _deployment
