"""A container and a tenant whose every word was chosen by an attacker, on every page and in every download."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import fields, replace
from datetime import timedelta

import pytest

from dashboard import process
from dashboard.access import Access
from dashboard.data import Reader
from fleet.model import Batch, Container, ContainerGpuSample, ContainerSample, Event, Gpu, InferenceSample
from fleet.settings import load_settings
from tests.pages.test_pages import Shared, everything, open_page
from tests.queries import three_tenants
from tests.queries.three_tenants import END
from tests.store.stores import embedded_store

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"
ANSI = "\x1b[31mred\x1b]8;;http://evil.example\x07click\x1b]8;;\x07"
FORMULA = "=cmd|' /C calc'!A0"
LINK = "[click](javascript:alert(3)) ![x](http://evil.example/x.png) :red[warn] :material/delete: $x$ `code` **bold**"
#: What a daemon sends that is no UTF-8 arrives with replacement characters.
INVALID = b"caf\xe9 \xff\xfe".decode("utf-8", errors="replace")
#: What stands first survives where words are cut: each kind leads once.
NAMES = {
    "formula": f"{FORMULA}{INVALID}", "html": f"{SCRIPT}{ANSI}", "link": LINK,
    "long": f"{ANSI}{'B' * 10_000}:{FORMULA}{SCRIPT}{INVALID}{LINK}",
}  # fmt: skip
VIEWS = {
    "overview": {}, "containers": {}, "gpus": {}, "jobs": {}, "tenant": {}, "status": {}, "latency": {},
    "latency-models": {}, "latency-containers": {}, "container": {"id": None}, "container-latency": {"id": None},
    "container-gpu": {"id": None}, "gpu": {"id": "GPU-1"}, "host-gpus": {"host": "h1"}, "one-tenant": {"tenant": None},
}  # fmt: skip
#: A tag that a browser would run, unescaped; a directive of ours, a link or an image that fleet text made.
_RAW = re.compile(r"<(script|img)\b", re.IGNORECASE)
_MADE = re.compile(r"(?<!\\)\]\((javascript|http://evil)|(?<!\\):red\[warn|(?<!\\):material/delete|\*\*bold")


def planted(word: str):
    """The fleet of three tenants, in which chat, its tenant, its image, labels, model and events say the word."""
    rows = []
    at = END
    while at > END - timedelta(minutes=30):
        rows += three_tenants._instant(at)
        at -= timedelta(seconds=three_tenants.STEP)
    rows += [*three_tenants._facts(), *three_tenants.ledger()]
    return tuple(_poisoned(row, word) for row in rows)


def _poisoned(row, word):
    changes = {}
    names = {field.name for field in fields(row)}
    if getattr(row, "tenant", "") != "acme" and not isinstance(row, Gpu):
        return row
    kinds = (Container, ContainerSample, ContainerGpuSample, InferenceSample, Event, Gpu)
    if not isinstance(row, kinds):
        return row
    texts = (
        "tenant", "team", "owner", "name", "image", "model", "server", "title", "detail", "gpu_request", "health",
        "error", "join_reason", "attribution_reason", "compose_project", "workload", "kind", "driver_version",
    )  # fmt: skip
    changes = {name: word for name in texts if name in names and (name != "kind" or isinstance(row, Event))}
    if "labels" in names:
        changes["labels"] = {word: word, "role": word}
    if "container_key" in names and row.container_key:
        changes["container_key"] = f"h1:{word}" if row.container_key == "h1:chat" else row.container_key
    return replace(row, **changes)


@pytest.fixture(scope="module", params=NAMES)
def hostile(request):
    word = NAMES[request.param]
    with embedded_store() as store:
        store.append(Batch(token="hostile", rows=planted(word)))
        yield store, word


@pytest.fixture
def page(hostile, monkeypatch):
    """Opens a view of the planted fleet; the downloads that it offers, by file name."""
    import streamlit as st

    store, word = hostile
    files: dict[str, bytes] = {}
    genuine = st.download_button

    def kept(label, data=None, file_name=None, **more):
        files[file_name or label] = data() if callable(data) else data
        return genuine(label, data=data, file_name=file_name, **more)

    monkeypatch.setattr(st, "download_button", kept)
    reader = Reader(lambda: Shared(store), threads=1)
    settings = load_settings("", {}, origin="test")
    process.install(
        process.Deployment(settings=settings, reader=reader, access=Access(), now=lambda: END + timedelta(seconds=3))
    )

    def open_view(name):
        own = {"id": f"h1:{word}", "tenant": word}
        return open_page(name, **{key: value or own[key] for key, value in VIEWS[name].items()}), files

    yield open_view
    process.install(None)
    reader.close()


def markdown_of(app) -> str:
    kinds = ("markdown", "caption", "warning", "error", "info", "success", "header", "subheader", "title")
    return "\n".join(str(element.value) for kind in kinds for element in app.get(kind))


@pytest.mark.parametrize("name", VIEWS)
def test_a_hostile_container_is_inert_on_every_page_and_in_every_download(page, hostile, name):
    # open_page asserts that no exception is shown.
    app, files = page(name)
    text = markdown_of(app)
    # In a code span everything is a character.
    read = re.sub(r"`[^`\n]*`", "", text)
    assert not _RAW.search(read.replace("\\<", ""))
    assert not _MADE.search(read)
    for chart in app.get("plotly_chart"):
        assert not _RAW.search(json.dumps(json.loads(chart.proto.spec), ensure_ascii=False))
    shown = text + everything(app)
    assert "\x1b" not in shown
    assert "\x07" not in shown
    # Ten kilobytes of a name push nothing off the page: in words it is cut.
    assert "B" * 600 not in text
    for file, data in files.items():
        content = data.decode()
        if file.endswith(".json"):
            json.loads(content)
            continue
        for row in csv.reader(io.StringIO(content)):
            for cell in row:
                assert not re.match(r"\s*[=@\t]|\s*[+-](?![\d.])", cell), (file, cell[:80])


def test_the_pages_do_show_the_planted_container(page):
    # Else the test above would look at pages that leave it out.
    app, files = page("containers")
    assert len(app.dataframe[0].value) == 4
    assert any(name.endswith(".csv") for name in files)
    assert any(data for data in files.values())
