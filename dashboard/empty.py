"""Pages with nothing to show: what was looked for, what was found, and the command that fixes it."""

from __future__ import annotations

import streamlit as st

from dashboard import format as fmt
from dashboard import process
from dashboard.access import NOTHING
from dashboard.look import Look
from dashboard.theme import Status
from store import StoreError

_DEMO = "To look around first: `make demo`"


def store_away(error: StoreError) -> None:
    """The page without its store."""
    st.markdown(f"#### :gray[{Status.UNKNOWN.glyph} The store does not answer]")
    st.markdown(
        "- **Looked for** the collector's store, at the address in the settings\n"
        f"- **Found** {fmt.markdown(str(error), 300)}\n"
        "- **Do** start the collector: `python -m collectors run`"
    )
    st.caption(f"{_DEMO}. This page tries again by itself.")


def nothing_collected(look: Look) -> None:
    """The page before the first reading of any source; a viewer without tenants is told only that."""
    if look.viewer == NOTHING:
        st.markdown(f"#### :gray[{Status.NONE.glyph} Nothing here is yours to see]")
        st.caption("Ask the operator of this dashboard to add you to its access file.")
        return
    settings = process.current().settings
    sockets = fmt.markdown(", ".join(daemon.url for daemon in settings.docker) or "none configured")
    servers = fmt.markdown(", ".join(server.url for server in settings.prometheus) or "none configured")
    library = fmt.markdown(settings.nvml.library or "the system's library")
    st.markdown(f"#### :gray[{Status.NONE.glyph} Nothing has been collected yet]")
    st.markdown(
        f"- **Docker** looked for at {sockets}: nothing reported. Find out why: `python -m collectors doctor`\n"
        f"- **NVML** looked for in {library}: nothing reported. On the GPU host: `python -m collectors run`\n"
        f"- **Prometheus** looked for at {servers}: nothing reported. Add `[[prometheus]]` with its `url` to fleet.toml"
    )
    st.caption(f"{_DEMO}. This page tries again by itself.")


def not_there(look: Look, what: str) -> None:
    """A detail page whose subject does not exist, or is not this viewer's: the same words for both."""
    st.markdown(f"#### :gray[{Status.NONE.glyph} No such {what} in this view]")
    st.caption(
        f"{fmt.markdown(look.context.subject or 'Nothing')} was asked for. It may have been removed, lie outside the "
        "tenant and host chosen above, or not be yours to see."
    )
