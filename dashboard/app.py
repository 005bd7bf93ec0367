"""The router: one frame around every page. Streamlit runs this file for every visit."""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit as st

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # Streamlit puts only this folder on the path
    sys.path.insert(0, str(ROOT))

from dashboard import frame, navigation, streamlit_private  # noqa: E402
from dashboard.look import choices  # noqa: E402

st.set_page_config(
    page_title="AI Fleet",
    page_icon=ROOT / "dashboard" / "icon.svg",
    layout="wide",
    initial_sidebar_state=navigation.SIDEBAR_PIXELS,
)
page = st.navigation(navigation.pages(), position="sidebar")
streamlit_private.steady()
visit = frame.arrive()
frame.banners(visit)
frame.filters(visit, choices(visit.viewer))
page.run()
