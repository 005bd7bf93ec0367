"""Which pages exist, where they stand in the navigation, and how one page leads to another."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from dashboard.context import Context

SIDEBAR_PIXELS = 168
_PAGES = Path(__file__).resolve().parent.parent / "pages"

#: name -> (section, title, icon, what it answers); an empty section is reached by a link only.
CATALOGUE: dict[str, tuple[str, str, str, str]] = {
    "overview": ("Live", "Overview", ":material/monitor_heart:", "Is anything wrong, where, since when?"),
    "containers": ("Live", "Containers", ":material/deployed_code:", "Which ones, sorted by trouble"),
    "gpus": ("Live", "GPUs", ":material/memory:", "Who holds them, who uses them, what is wasted?"),
    "latency": ("Live", "Latency", ":material/speed:", "Are users served in time?"),
    "jobs": ("Manage", "Jobs", ":material/receipt_long:", "Who held which GPU, from when to when, and for whom?"),
    "status": ("System", "Status", ":material/sensors:", "What can we not see?"),
    "container": ("", "Container", ":material/deployed_code:", "What is this one doing, and since when?"),
    "tenant": ("", "Tenant", ":material/group:", "Everything above for one tenant"),
}


def _page(name: str) -> st.Page:
    section, title, icon, answers = CATALOGUE[name]
    return st.Page(
        _PAGES / f"{name}.py",
        title=title,
        icon=icon,
        help=answers,
        default=name == "overview",
        visibility="visible" if section else "hidden",
    )


def pages() -> dict[str, list[st.Page]]:
    """All pages by section, in the order shown. Pages that do not exist yet are not listed."""
    sections: dict[str, list[st.Page]] = {}
    for name, (section, *_) in CATALOGUE.items():
        sections.setdefault(section or "Live", []).append(_page(name))
    return sections


def go(name: str, context: Context, **changes: str | None) -> None:
    """Leave for another page, keeping this view."""
    st.switch_page(_PAGES / f"{name}.py", query_params=context.params(**changes))


def link(name: str, label: str, context: Context, *, icon: str | None = None, **changes: str | None) -> None:
    """A link to another page that keeps this view."""
    st.page_link(_PAGES / f"{name}.py", label=label, icon=icon, query_params=context.params(**changes))


def turn(name: str, label: str, context: Context, *, icon: str | None = None, **changes: str | None) -> None:
    """A way to another view of the page that is shown.

    A page link to the same page draws the new view and leaves the old address standing (Streamlit 1.67), so a copied
    address would open something else; a button that goes there sets it.
    """
    if st.button(label, key=f"turn-{label}", icon=icon, type="tertiary"):
        go(name, context, **changes)
