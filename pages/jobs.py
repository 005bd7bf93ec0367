"""Jobs: who held which GPU, from when to when, for whom; and is the ledger whole?"""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from dashboard import frame, job_panels, navigation, panels
from dashboard.look import Look
from queries import jobs

visit = frame.visit()
with st.container(horizontal=True, vertical_alignment="center", gap="small"):
    text = st.text_input(
        "Search", key="q", bind="query-params", max_chars=100, label_visibility="collapsed", width=340,
        placeholder="tenant, team, user, workload, container, image or GPU", icon=":material/search:",
    )  # fmt: skip
    state = st.selectbox(
        "State", job_panels.STATES, key="state", bind="query-params", label_visibility="collapsed", width=140
    )


def open_container(key: str) -> None:
    navigation.go("container", visit.context, id=key)


def render(look: Look) -> None:
    # The chain is that of all this viewer may see: a tenant chosen above would show parts of it only.
    everything = replace(look, context=replace(look.context, tenant=None)).every(job_panels.VERIFY_SECONDS)
    everything.ahead(jobs.ledger_state)
    found = look.ask(jobs.gpu_jobs, host=look.context.host, text=text or "")
    rows = job_panels.chosen(found.rows.to_pylist(), state or "any state")
    chains = everything.ask(jobs.ledger_state).rows.to_pylist()
    frame.headline(look, job_panels.sentence(rows, chains))
    job_panels.chain_lines(chains, everything.window.end, whole=look.viewer.tenants is None)
    if not rows:
        panels.nothing("No GPU job in this view: change the filters above, or the tenant, host and range.", height=120)
        return
    job_panels.cards(rows)
    job_panels.table(rows, open_container)
    job_panels.take_along(look, rows)
    panels.gaps(found.gaps, found.coverage)


frame.live(visit, render)
