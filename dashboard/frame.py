"""What stands around every page: navigation's memory, filters, refresh, badges, freshness, and the one live fragment.

The address is read once per run, in the router; a click on the navigation drops the address' parameters, so the last
view of this browser tab is put back when the page changed and the address says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import streamlit as st

from dashboard import context as ctx
from dashboard import empty, navigation, process, streamlit_private
from dashboard import format as fmt
from dashboard.context import Context
from dashboard.look import Choices, Look, SourceState, look_now
from dashboard.theme import Status
from fleet.model import Scope
from store import StoreError

_VIEW = "aifleet-view"
_PAGE = "aifleet-page"
_ALL = "all"
_REFRESH_WORDS = {5: "5 s", 15: "15 s", 60: "60 s", 0: "paused"}


@dataclass(frozen=True, slots=True)
class Visit:
    """One run of one page by one viewer. `viewer`: all they may see; `scope`: that, narrowed to the tenant chosen."""

    context: Context
    viewer: Scope
    wrong: tuple[str, ...]

    @property
    def scope(self) -> Scope:
        """What the panels of this page may read."""
        return self.viewer.narrow(self.context.tenant)


def visit() -> Visit:
    """The visit the router has read; for pages."""
    return st.session_state["aifleet-visit"]


def arrive() -> Visit:
    """Read the address and the viewer; put the last view back after a click on the navigation."""
    params = {name: value for name, value in st.query_params.items() if len(name) <= 20}
    page = streamlit_private.page_hash()
    moved = st.session_state.get(_PAGE, page) != page
    st.session_state[_PAGE] = page
    if moved and not any(name in params for name in ctx.SHARED):
        kept: dict[str, str] = st.session_state.get(_VIEW, {})
        for name, value in kept.items():
            st.query_params[name] = value
        params |= kept
    deployment = process.current()
    context, wrong = ctx.read(params, deployment.now())
    st.session_state[_VIEW] = {k: v for k, v in context.params().items() if k in ctx.SHARED}
    found = Visit(
        context=context, viewer=deployment.access.scope(_named(deployment.access.trusted_header)), wrong=wrong
    )
    st.session_state["aifleet-visit"] = found
    return found


def _named(header: str) -> list[str]:
    """All values the browser's request carries for one header."""
    return st.context.headers.get_all(header) if header else []


def filters(visit: Visit, offered: Choices) -> None:
    """The bar over every page: tenant, host, range or window, DEMO, refresh."""
    context = visit.context
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        _choice("tenant", "tenant", context.tenant, offered.tenants)
        _choice("host", "host", context.host, offered.hosts)
        if context.frozen is None:
            st.session_state["f-range"] = context.range_name
            st.segmented_control(
                "Range",
                list(ctx.RANGES),
                key="f-range",
                label_visibility="collapsed",
                on_change=_set_from,
                args=("range", "f-range", ctx.DEFAULT_RANGE),
            )
        else:
            start, end = context.frozen.start, context.frozen.end
            st.markdown(
                f":blue-badge[{fmt.markdown(fmt.clock(start, with_date=True))} – "
                f"{fmt.markdown(fmt.clock(end, with_date=start.date() != end.date()))} UTC]",
                width="content",
            )
            st.button("Go live", key="f-live", on_click=_go_live, icon=":material/play_arrow:", type="tertiary")
        st.space("stretch")
        if offered.demo:
            st.badge("DEMO", color="violet", help="A synthetic source is present: these containers do not exist")
        st.session_state["f-every"] = context.refresh_seconds
        st.selectbox(
            "Refresh",
            list(ctx.REFRESHES),
            key="f-every",
            format_func=_refresh_word,
            label_visibility="collapsed",
            on_change=_set_from,
            args=("every", "f-every", str(ctx.DEFAULT_REFRESH)),
            width=104,
            disabled=context.frozen is not None,
            icon=":material/update:" if context.refresh_seconds else ":material/pause:",
        )


def _choice(param: str, word: str, chosen: str | None, names: Sequence[str]) -> None:
    """One select box that mirrors an address parameter; a chosen name that is not (or no longer) listed stays."""
    key = f"f-{param}"
    options = [_ALL, *sorted({*names, *([chosen] if chosen else [])})]
    st.session_state[key] = chosen or _ALL
    st.selectbox(
        word.capitalize(),
        options,
        key=key,
        format_func=lambda name: f"{word}: all" if name == _ALL else fmt.plain(name, 40),
        label_visibility="collapsed",
        on_change=_set_from,
        args=(param, key, _ALL),
        width=176,
    )


def _set_from(param: str, key: str, default: str) -> None:
    value = st.session_state[key]
    if value is None or str(value) == default:
        st.query_params.pop(param, None)
    else:
        st.query_params[param] = str(value)
    # A run with no parameter left must not be mistaken for a click on the navigation.
    st.session_state[_VIEW] = {k: v for k, v in st.query_params.items() if k in ctx.SHARED}


def _go_live() -> None:
    for name in ("from", "to"):
        st.query_params.pop(name, None)


def banners(visit: Visit) -> None:
    """What must be said above every page: no login on the network, an address that could not be used."""
    deployment = process.current()
    dashboard = deployment.settings.dashboard
    if deployment.open_to_network:
        address = fmt.markdown(dashboard.published_on or dashboard.host)
        st.warning(
            f"Served on {address} without login: everybody who reaches this "
            "port sees the whole fleet. Bind to 127.0.0.1 or put a proxy with login in front (docs/dashboard.md).",
            icon=":material/lock_open:",
        )
    if visit.wrong:
        st.warning(
            f"Part of this address could not be used and was left out: {fmt.markdown('; '.join(visit.wrong), 400)}.",
            icon=":material/link_off:",
        )


def _refresh_word(seconds: int) -> str:
    if seconds == ctx.DEFAULT_REFRESH:
        return f"{process.current().settings.dashboard.refresh_seconds:g} s"
    return _REFRESH_WORDS[seconds]


def live(visit: Visit, render: Callable[[Look], None]) -> None:
    """The page's one live fragment: looks at the newest snapshot and draws; waits in the browser between two looks."""
    every: float | None = visit.context.refresh_seconds if visit.context.live else None
    if every == ctx.DEFAULT_REFRESH:  # the fastest choice is as fast as the settings say
        every = process.current().settings.dashboard.refresh_seconds

    @st.fragment(run_every=every, key="live")
    def tick() -> None:
        try:
            look = look_now(visit.context, visit.viewer)
            if look.seen:
                render(look)
            else:
                empty.nothing_collected(look)
        except StoreError as error:
            empty.store_away(error)

    tick()


def headline(look: Look, words: str) -> None:
    """The page's answer in words on the left, the freshness of every source on the right.

    `words` is Markdown of ours with fleet text already escaped.
    """
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"#### {words}", width="stretch")
        st.markdown(" ".join(chip(source, look.now) for source in look.sources), width="content")
        if any(source.status not in {Status.OK, Status.NONE} for source in look.sources):
            navigation.link("status", "why", look.context, icon=":material/help:")


def chip(source: SourceState, now: datetime) -> str:
    """Markdown of one source's freshness: glyph, name, age, and one word when it is not fine."""
    if source.newest is None and source.word:
        return source.status.badge(f"{fmt.markdown(source.name, 24)} {fmt.markdown(source.word, 24)}")
    age = fmt.age(source.newest, now) if source.newest else Status.NONE.word
    word = f", {fmt.markdown(source.word, 24)}" if source.status is not Status.OK and source.word else ""
    return source.status.badge(f"{fmt.markdown(source.name, 24)} {age}{word}")
