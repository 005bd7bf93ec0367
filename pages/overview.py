"""Overview: is anything wrong, where, since when?"""

from __future__ import annotations

import streamlit as st

from dashboard import fleet_panels, frame, navigation, overview_panels, panels
from dashboard.look import Look
from queries import containers, overview

visit = frame.visit()


def open_container(key: str) -> None:
    navigation.go("container", visit.context, id=key)


def render(look: Look) -> None:
    host = look.context.host
    slow = look.every(overview_panels.NUMBERS_SECONDS)
    slower = look.every(overview_panels.FIGURE_SECONDS)
    look.ahead(overview.verdict, host=host)
    slow.ahead(overview.fleet_numbers, host=host)
    look.ahead(containers.container_table, host=host, limit=10)
    look.ahead(overview_panels.fleet_picture, look.colours, host=host)
    slower.ahead(overview_panels.activity_figure, look.colours, host=host)
    found = look.ask(overview.verdict, host=host)
    verdict = found.rows.to_pylist()[0]
    worst = look.ask(containers.container_table, host=host, limit=10).rows.to_pylist()
    picture = look.ask(overview_panels.fleet_picture, look.colours, host=host)
    figure = slower.ask(overview_panels.activity_figure, look.colours, host=host)

    numbers = {row["name"]: row for row in slow.ask(overview.fleet_numbers, host=host).rows.to_pylist()}
    frame.headline(look, overview_panels.sentence(verdict, int(numbers["containers_running"]["total"] or 0)))
    overview_panels.worst_line(look, worst[0] if worst else None)
    overview_panels.cards(numbers, fleet=look.scope.tenants is None)
    left, right = st.columns(2, gap="medium")
    with left:
        overview_panels.fleet_map(picture)
    with right:
        overview_panels.activity(figure)
    panels.title("Worst ten", "by severity; select one to open it")
    if worst:
        fleet_panels.worst(worst, look.window.end, key="worst", on_pick=open_container)
    else:
        panels.nothing("No container in this view", height=120)
    panels.gaps(found.gaps, found.coverage)


overview_panels.ways(visit.context)
frame.live(visit, render)
