"""Every page in every state: empty, demo, stale, partial, one tenant, and without a store."""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from collectors import demo
from collectors.build import MigratingStore
from collectors.job_building import demo_job_source
from collectors.synthetic.layout import Identities
from dashboard import process
from dashboard.access import Access
from dashboard.data import Reader
from dashboard.look import judged
from fleet.gpu_jobs import EMPTY, head_of, seal
from fleet.model import Batch, GpuJob, Scope, SourceRun
from fleet.settings import load_settings
from queries import overview
from queries.containers import container_header, container_table
from queries.events import recent_events
from queries.gpus import gpu_funnel, gpu_table, idle_holders
from queries.tenants import tenant_table
from store import StoreUnavailable
from tests.store.stores import embedded_store

ROOT = Path(__file__).resolve().parents[2]
KEY = "gpu-a01:acme-chat/llm-chat/1"
UUID = Identities(7).gpu_uuid("gpu-a01", 0)
#: name -> the page, and the address that opens this view of it.
VIEWS = {
    **{name: (name, {}) for name in ("overview", "containers", "gpus", "jobs", "tenant", "status")},
    "latency": ("latency", {}),
    "latency-models": ("latency", {"by": "model", "duration": "whole request", "range": "6h"}),
    "latency-containers": ("latency", {"by": "container", "duration": "between tokens"}),
    "container": ("container", {"id": KEY}),
    "container-latency": ("container", {"id": KEY, "tab": "Latency"}),
    "container-gpu": ("container", {"id": KEY, "tab": "GPU"}),
    "gpu": ("gpus", {"id": UUID}),
    "host-gpus": ("gpus", {"host": "gpu-a01"}),
    "one-tenant": ("tenant", {"tenant": "acme"}),
}
PAGES = tuple(VIEWS)


class Shared:
    """A store that a page's reader may close without closing it for the next test."""

    def __init__(self, store):
        self.query = store.query

    def close(self):
        pass


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlyAcme(Access):
    def scope(self, named):
        return Scope(tenants=frozenset({"acme"}))


@pytest.fixture(scope="module")
def demo_store(tmp_path_factory):
    before = demo.HISTORY
    demo.HISTORY = timedelta(minutes=20)
    now = datetime.now(UTC)
    with embedded_store() as store:
        position = demo.find_position(store, 7, now)
        end = demo.fill(store, position, now, lambda *_: None)
        folder = {"AIFLEET_DATA_DIR": str(tmp_path_factory.mktemp("ledger")), "AIFLEET_HOST": "chain-of-the-demo"}
        settings = load_settings("", folder, origin="test")
        demo_job_source(settings, MigratingStore(store), position.fleet, end - demo.HISTORY, end)
        yield store, end
    demo.HISTORY = before


@pytest.fixture(scope="module")
def empty_store():
    with embedded_store() as store:
        yield store


@pytest.fixture
def serve():
    readers = []

    def install(store, now, access=None):
        reader = Reader(lambda: Shared(store), threads=1)
        readers.append(reader)
        settings = load_settings("", {}, origin="test")
        process.install(
            process.Deployment(settings=settings, reader=reader, access=access or Access(), now=lambda: now)
        )

    yield install
    process.install(None)
    for reader in readers:
        reader.close()


def open_page(name, **params):
    app = AppTest.from_file(str(ROOT / "dashboard" / "app.py"), default_timeout=60)
    page, address = VIEWS[name]
    for key, value in (address | params).items():
        app.query_params[key] = value
    app.switch_page(f"../pages/{page}.py").run()
    assert not app.exception, [e.value for e in app.exception]
    return app


def words(app):
    shown = [element.value for kind in ("markdown", "caption", "warning", "error") for element in app.get(kind)]
    return "\n".join(str(value) for value in shown).replace("\\", "")


def everything(app):
    """All that reaches the browser: texts, tables, figures, choices."""
    parts = [words(app)]
    parts += [element.value.to_csv() for element in app.get("dataframe")]
    parts += [element.proto.spec for element in app.get("plotly_chart")]
    parts += [str(box.options) for box in app.selectbox]
    parts += [f"{metric.label} {metric.value}" for metric in app.metric]
    return "\n".join(parts)


@pytest.mark.parametrize("name", PAGES)
def test_an_empty_store_says_what_was_looked_for_and_the_command_that_fixes_it(serve, empty_store, name):
    serve(empty_store, datetime.now(UTC))
    said = words(open_page(name))
    for word in ("Docker", "NVML", "Prometheus", "python -m collectors doctor", "make demo"):
        assert word in said


@pytest.mark.parametrize("name", PAGES)
def test_a_demo_fleet_is_shown_and_labelled(serve, demo_store, name):
    store, end = demo_store
    serve(store, end + timedelta(seconds=3))
    app = open_page(name)
    shown = everything(app)
    assert "DEMO" in shown
    assert "acme" in shown
    assert "green-badge[● Docker" in words(app)


@pytest.mark.parametrize("name", PAGES)
def test_silence_turns_every_source_stale_and_nothing_stays_green(serve, demo_store, name):
    store, end = demo_store
    serve(store, end + timedelta(hours=2))
    said = words(open_page(name))
    assert "▲ Docker 2 h, stale" in said
    assert "green-badge" not in said
    assert "nothing wrong" not in said


@pytest.mark.parametrize("name", PAGES)
def test_silence_leaves_no_word_green(serve, demo_store, name):
    # Two hours after the last reading nobody knows whether anything is well. Only the ledger's chain is verified anew
    # from what the store holds, whatever the sources do.
    store, end = demo_store
    serve(store, end + timedelta(hours=2))
    green = re.findall(r":green\[([^\]]*)", words(open_page(name)))
    assert [said for said in green if said not in ("● entries intact",)] == []


def test_containers_without_fresh_readings_are_unknown_not_ok(serve, demo_store):
    store, end = demo_store
    serve(store, end + timedelta(hours=2))
    table = open_page("containers").dataframe[0].value
    assert "●" not in set(table["status"])


@pytest.mark.parametrize("name", PAGES)
def test_one_failed_source_is_named_and_the_others_go_on(serve, demo_store, name):
    store, end = demo_store
    at = end + timedelta(seconds=1)
    failed = SourceRun(
        at=at, source="prometheus", target="edge", state="failed", interval_seconds=15, took_seconds=10, rows=0,
        reason="timeout", error="no answer within 10 s", next_step="Is 10.0.0.9:9090 reachable from here?",
    )  # fmt: skip
    store.append(Batch(token="failed-edge", rows=(failed,)))
    serve(store, at + timedelta(seconds=2))
    app = open_page(name)
    said = words(app)
    assert "✖ Prometheus" in said
    assert "timeout" in said
    assert "● Docker" in said
    if name == "status":
        assert "Is 10.0.0.9:9090 reachable" in everything(app)


@pytest.mark.parametrize("name", PAGES)
def test_a_viewer_of_one_tenant_never_learns_of_another(serve, demo_store, name):
    store, end = demo_store
    serve(store, end + timedelta(seconds=3), OnlyAcme(trusted_header="x"))
    shown = everything(open_page(name))
    assert "acme" in shown or name == "status"
    for other in ("globex", "initech", "hooli", "umbrella", "unattributed"):
        assert other not in shown


def test_a_container_of_somebody_else_reads_like_one_that_does_not_exist(serve, demo_store):
    store, end = demo_store
    serve(store, end + timedelta(seconds=3), OnlyAcme(trusted_header="x"))
    foreign = "gpu-a01:globex-search/vectordb/1"
    theirs, nobodys = (words(open_page("container", id=key)) for key in (foreign, "nothing"))
    assert "No such container in this view" in theirs
    assert theirs.replace(foreign, "") == nobodys.replace("nothing", "")


@pytest.mark.parametrize("name", PAGES)
def test_a_store_that_does_not_answer_is_said_calmly(name):
    def away():
        raise StoreUnavailable(0, "connection refused")

    settings = load_settings("", {}, origin="test")
    process.install(process.Deployment(settings=settings, reader=Reader(away, threads=1)))
    app = open_page(name)
    process.current().reader._pool.shutdown()
    process.install(None)
    assert "The store does not answer" in words(app)
    assert "connection refused" in words(app)
    assert "python -m collectors run" in words(app)


def test_an_address_that_cannot_be_used_is_said_once_and_nothing_of_it_is_shown(serve, demo_store):
    store, end = demo_store
    serve(store, end + timedelta(seconds=3))
    app = open_page("overview", range="<script>alert(1)</script>", every="7")
    assert len(app.warning) == 1
    assert "script" not in app.warning[0].value


def test_the_filters_write_the_address_and_the_address_sets_the_filters(serve, demo_store):
    store, end = demo_store
    serve(store, end + timedelta(seconds=3))
    app = open_page("containers", tenant="acme", range="15m")
    assert app.selectbox(key="f-tenant").value == "acme"
    assert set(app.dataframe[0].value["tenant"]) == {"acme"}
    app.selectbox(key="f-tenant").select("globex").run()
    assert app.query_params["tenant"] == "globex"
    assert set(app.dataframe[0].value["tenant"]) == {"globex"}


def test_a_frozen_window_shows_its_times_and_the_way_back(serve, demo_store):
    store, end = demo_store
    serve(store, end + timedelta(seconds=3))
    seconds = int(end.timestamp())
    app = open_page("overview", **{"from": str(seconds - 600), "to": str(seconds)})
    assert "UTC" in words(app)
    app.button(key="f-live").click().run()
    assert "from" not in app.query_params


def test_a_page_open_to_the_network_without_login_says_so(serve, demo_store):
    store, end = demo_store
    reader = Reader(lambda: Shared(store), threads=1)
    environment = {"AIFLEET_DASHBOARD_HOST": "0.0.0.0", "AIFLEET_DASHBOARD_PUBLISHED_ON": "10.1.2.3"}
    settings = load_settings("", environment, origin="test")
    process.install(process.Deployment(settings=settings, reader=reader, now=lambda: end))
    app = open_page("status")
    process.install(None)
    reader.close()
    assert "10.1.2.3 without login" in app.warning[0].value.replace("\\", "")


def test_the_tab_of_a_container_is_part_of_its_address(serve, demo_store):
    store, end = demo_store
    serve(store, end + timedelta(seconds=3))
    app = open_page("container", tab="GPU")
    alts = [chart.proto.alt for chart in app.get("plotly_chart")]
    assert any(alt.startswith("SM activity") for alt in alts)


def test_the_gpu_pages_say_where_the_time_went_and_who_breaks_the_contract(serve, demo_store):
    store, end = demo_store
    serve(store, end + timedelta(seconds=3))
    app = open_page("gpus")
    alts = [chart.proto.alt for chart in app.get("plotly_chart")]
    assert any(alt.startswith("total: ") and "GPU-h" in alt and "now" in alt for alt in alts)
    assert any(alt.startswith("GPU time by state. all: busy") for alt in alts)
    said = words(app)
    assert "shares a GPU by accident" in said
    assert "uses a GPU it did not ask for" in said
    table = next(element.value for element in app.dataframe if "errors" in element.value)
    assert len(table) == 20
    assert set(table["use"]) <= {"busy", "low", "held, idle", "free", "unknown", "in MIG"}


def test_a_gpu_of_its_own_shows_parts_that_close_with_the_device(serve, demo_store):
    store, end = demo_store
    serve(store, end + timedelta(seconds=3))
    app = open_page("gpu")
    table = next(element.value for element in app.dataframe if "believed" in element.value)
    assert list(table["container"])[-2:] == ["unattributed", "= the device"]
    assert table["held"][0] == "○ yes"
    assert "Utilisation" in words(app)


def test_a_gpu_that_is_not_this_viewers_reads_like_one_that_does_not_exist(serve, demo_store):
    store, end = demo_store
    serve(store, end + timedelta(seconds=3), OnlyAcme(trusted_header="x"))
    foreign = Identities(7).gpu_uuid("gpu-b01", 0)
    theirs, nobodys = (words(open_page("gpu", id=uuid)) for uuid in (foreign, "GPU-nothing"))
    assert "No such GPU in this view" in theirs
    assert theirs.replace(foreign.replace("-", ""), "").replace(foreign, "") == nobodys.replace("GPU-nothing", "")


def test_the_ledger_is_filtered_and_says_that_it_is_whole(serve, demo_store):
    store, end = demo_store
    serve(store, end + timedelta(seconds=3))
    app = open_page("jobs", q="llm-chat", state="running")
    said = words(app)
    assert "entries intact" in said
    assert "chain-of-the-demo" in said
    table = app.dataframe[0].value
    assert set(table["workload"]) == {"llm-chat"}
    assert set(table["status"]) == {"● running"}
    assert "--from" in app.code[0].value
    assert "No GPU job in this view" in words(open_page("jobs", q="nobody-has-this"))


def test_an_edited_entry_breaks_the_ledger_on_the_page_and_names_its_job(serve):
    now = datetime.now(UTC)
    head, rows = EMPTY, []
    for number in range(3):
        draft = GpuJob(
            at=now, chain="edge", sequence=0, entry="open", job_id=f"job-{number}", host="h1", tenant="acme",
            workload=f"train-{number}", container_key=f"h1:{number}", container_name=f"train-{number}",
            gpu_uuids=("GPU-1",), gpu_names=("NVIDIA H100",), gpu_count=1.0, started_at=now - timedelta(minutes=30),
        )  # fmt: skip
        rows.append(seal(draft, head))
        head = head_of(rows[-1])
    rows[1] = replace(rows[1], user="somebody-else")
    run = SourceRun(
        at=now, source="docker", target="h1", state="ok", interval_seconds=5, took_seconds=0.1, rows=1
    )  # fmt: skip
    with embedded_store() as store:
        store.append(Batch(token="edited", rows=(run, *rows)))
        serve(store, now + timedelta(seconds=2))
        app = open_page("jobs")
        said = words(app)
        assert "the ledger is broken" in said
        assert "edge is broken at entry 2: was edited" in said.replace("**", "")
        sources = dict(zip(app.dataframe[0].value["workload"], app.dataframe[0].value["sources"], strict=True))
        assert [name for name, text in sources.items() if "EDITED" in text] == ["train-1"]


def test_every_question_that_judges_is_asked_with_the_operators_thresholds():
    # [alerts] was read, checked and documented, and no page used it: the pages judged by the built-in limits.
    settings = load_settings("[alerts]\nttft_warning_seconds = 0.25\n", {}, origin="test")
    process.install(process.Deployment(settings=settings, reader=Reader(lambda: None, threads=1)))
    asked = judged(overview.verdict, {"host": "h1"})
    assert asked == {"limits": settings.thresholds, "host": "h1"}
    assert asked["limits"].ttft_warning_seconds == 0.25
    for question in (container_table, container_header, gpu_table, gpu_funnel, idle_holders, tenant_table):
        assert "limits" in judged(question, {}), question
    assert judged(recent_events, {}) == {}


def test_the_address_chooses_which_duration_is_shown_and_by_what(serve, demo_store):
    store, end = demo_store
    serve(store, end + timedelta(seconds=3))
    app = open_page("latency-models")
    assert "by model; whole request in full" in words(app)
    (red,) = [table.value for table in app.dataframe if "waiting" in table.value]
    assert any("Llama-3.1-8B" in name for name in red["who"])
    assert app.get("plotly_chart")[0].proto.alt.startswith("Whole request: p50 and p95")
    assert "by tenant; first token in full" in words(open_page("latency", by="nonsense"))


def test_a_tenants_gpu_memory_is_a_size_as_it_has_no_whole_to_be_a_share_of(serve, demo_store):
    """The card was a dash: a share was wanted of a total that is not a tenant's to know."""
    store, end = demo_store
    serve(store, end)
    cards = {metric.label: metric.value for metric in open_page("one-tenant").metric}
    assert cards["GPU memory"].endswith("GiB")
