import json
from importlib.metadata import version

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest
from streamlit.web import bootstrap

from dashboard import streamlit_private


def test_the_private_parts_are_those_of_the_release_they_were_read_in():
    assert version("streamlit").startswith(f"{streamlit_private.WRITTEN_FOR}."), (
        "Streamlit moved: read streamlit_private.py against the new release, run this file, then raise WRITTEN_FOR"
    )


def test_a_chart_reaches_the_browser_whole_and_keeps_its_identity_when_its_data_changes():
    def page():
        import numpy as np
        import streamlit as st

        from dashboard import streamlit_private

        values = np.ones(3, dtype=np.float32) * (1 if st.button("more") else 2)
        with st.container():
            spec = streamlit_private.chart_json({"data": [{"y": values}], "layout": {}})
            streamlit_private.plotly(spec, key="k", height=120, alt="three ones")

    app = AppTest.from_function(page).run()
    assert not app.exception
    first = app.get("plotly_chart")[0].proto
    app.button[0].click().run()
    second = app.get("plotly_chart")[0].proto
    assert first.id == second.id
    assert first.spec != second.spec
    assert first.alt == "three ones"
    assert json.loads(first.spec)["data"][0]["y"] == {"dtype": "f4", "bdata": "AAAAQAAAAEAAAABA"}


def test_a_matrix_carries_its_shape():
    sent = json.loads(streamlit_private.chart_json({"z": np.zeros((2, 3), dtype=np.float32)}))
    assert sent["z"]["shape"] == "2, 3"


def test_what_is_not_json_is_refused():
    with pytest.raises(TypeError, match="cannot write a object"):
        streamlit_private.chart_json({"x": object()})


def test_there_is_no_page_outside_a_run():
    assert streamlit_private.page_hash() == ""


def test_nothing_watches_the_configuration_of_a_running_server(monkeypatch):
    watched = []
    monkeypatch.setattr(bootstrap, "watch_file", lambda *given, **_: watched.append(given))
    monkeypatch.setattr(bootstrap, "_install_config_watchers", bootstrap._install_config_watchers)
    bootstrap._install_config_watchers({})
    assert watched  # the part that is replaced is still the one that watches
    watched.clear()
    streamlit_private.settle_config()
    bootstrap._install_config_watchers({})
    assert not watched


def test_the_style_that_keeps_a_page_steady_is_sent_and_shows_nothing():
    def page():
        from dashboard import streamlit_private

        streamlit_private.steady()

    app = AppTest.from_function(page).run()
    assert not app.exception
    assert not app.main.children  # a style alone takes no place on the page
    assert "data-stale" in next(iter(app.get("html"))).proto.body
