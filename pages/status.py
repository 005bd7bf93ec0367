"""Status: what can we not see?"""

from __future__ import annotations

import streamlit as st

from dashboard import frame, status_panels
from dashboard.look import Look
from queries import endpoints, status, storage

visit = frame.visit()


def render(look: Look) -> None:
    frame.headline(look, status_panels.sentence(look))
    status_panels.sources(look)
    left, right = st.columns(2, gap="medium")
    with left:
        status_panels.gaps(look.ask(status.source_gaps, host=look.context.host), look.window.end)
        status_panels.endpoints(look.ask(endpoints.endpoints, host=look.context.host))
        status_panels.hosts(look.ask(status.host_facts, host=look.context.host))
    with right:
        status_panels.store(look.ask(storage.store_tables))
        status_panels.versions()


frame.live(visit, render)
