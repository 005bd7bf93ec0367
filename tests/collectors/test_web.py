from __future__ import annotations

import contextlib
import socket
import urllib.error
import urllib.request
from dataclasses import replace

import httpx
import pytest
from starlette.responses import PlainTextResponse

from collectors import metrics
from collectors.loop import SourceHealth
from collectors.runner import RunnerHealth
from collectors.web import WebError, WebServer, ensure_token, web_app
from collectors.writing import WriterHealth
from fleet.settings import SettingsError
from store.client import Engine
from store.gateway import GatewayTokens, gateway_app
from store.spool import WriterState

WRITER = WriterHealth(
    alive=True,
    waiting_batches=2,
    written_batches=40,
    refused_batches=0,
    lost_batches=1,
    stuck_seconds=0.25,
    last_written=10.0,
    gathered_batches=7,
)
DOCKER = SourceHealth(
    source="docker",
    target='host "1"\n',
    state="failed",
    since_seconds=41.25,
    last_read_seconds=46.5,
    last_took_seconds=0.004,
    in_flight_seconds=None,
    interval_seconds=5.0,
    polls={"ok": 40, "failed": 2},
    missed_ticks=3,
    rows=400,
    reason="unreachable",
    error="connection refused by 10.1.2.3",
    next_step="start it",
)
HEALTH = RunnerHealth(uptime_seconds=200.0, sources=(DOCKER,), writer=WRITER, last_batch_seconds=1.5)
SPOOL = WriterState(waiting_batches=3, waiting_bytes=4096, dropped_batches=1)


@pytest.fixture
def client():
    """Serves the application on a port of its own and asks it over HTTP."""
    with contextlib.ExitStack() as parts:

        def serve(health: RunnerHealth | None = HEALTH, gateway=None) -> httpx.Client:
            server = WebServer(
                web_app(lambda: health, spool=lambda: SPOOL, version="1.2.3", gateway=gateway), "127.0.0.1", 0
            )
            parts.callback(server.stop)
            server.start()
            return parts.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=10))

        yield serve


def test_health_tells_states_ages_and_what_waits(client):
    answer = client().get("/healthz")
    assert answer.status_code == 200
    found = answer.json()
    assert (found["status"], found["version"], found["last_batch_seconds"], found["spool_bytes"]) == (
        "ok",
        "1.2.3",
        1.5,
        4096,
    )
    # lost: one by the writer, one dropped by the spool
    assert found["writer"] == {
        "waiting_batches": 2,
        "gathered_batches": 7,
        "busy_seconds": 0.25,
        "refused_batches": 0,
        "lost_batches": 2,
    }
    assert found["sources"] == [
        {
            "source": "docker",
            "target": 'host "1"\n',
            "state": "failed",
            "since_seconds": 41.25,
            "last_read_seconds": 46.5,
            "interval_seconds": 5.0,
            "reason": "unreachable",
            "missed_ticks": 3,
        }
    ]
    # it is open to whoever reaches the port, so it holds no address and no text of an error
    assert "10.1.2.3" not in answer.text


def test_a_dead_source_is_no_reason_to_restart_the_collector_but_a_stuck_writer_is(client):
    assert client().get("/healthz").status_code == 200
    for writer in (replace(WRITER, stuck_seconds=61.0), replace(WRITER, alive=False)):
        answer = client(replace(HEALTH, writer=writer)).get("/healthz")
        assert (answer.status_code, answer.json()["status"]) == (503, "stuck")


def test_before_polling_begins_the_collector_is_alive(client):
    answer = client(None).get("/healthz")
    assert (answer.status_code, answer.json()["status"]) == (200, "starting")
    assert client(None).get("/metrics").text == ""


def test_metrics_are_prometheus_text_with_escaped_labels(client):
    answer = client().get("/metrics")
    assert answer.headers["content-type"] == metrics.CONTENT_TYPE
    lines = answer.text.splitlines()
    labels = r'source="docker",target="host \"1\"\n"'
    assert f'aifleet_source_state{{{labels},state="failed"}} 1' in lines
    assert f'aifleet_source_state{{{labels},state="ok"}} 0' in lines
    assert f'aifleet_source_polls_total{{{labels},state="ok"}} 40' in lines
    assert f"aifleet_source_missed_ticks_total{{{labels}}} 3" in lines
    assert 'aifleet_writer_batches_total{result="lost"} 2' in lines
    assert "aifleet_spool_bytes 4096" in lines
    assert "aifleet_last_batch_seconds 1.5" in lines
    assert all(line.startswith(("# HELP aifleet_", "# TYPE aifleet_", "aifleet_")) for line in lines)


def test_a_number_that_does_not_exist_yet_has_no_line(client):
    starting = replace(DOCKER, state="starting", last_read_seconds=None, last_took_seconds=None, polls={})
    text = client(replace(HEALTH, sources=(starting,), last_batch_seconds=None)).get("/metrics").text
    assert "aifleet_source_last_read_seconds" not in text
    assert "aifleet_last_batch_seconds" not in text
    assert "aifleet_source_polls_total" not in text


@pytest.mark.prometheus
def test_promtool_accepts_the_metrics(tmp_path):
    import subprocess

    text = metrics.render(HEALTH, spool=SPOOL, version="1.2.3")
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_store_is_served_below_the_root_and_only_with_a_token(tmp_path, client):
    engine = Engine(f"chdb://{tmp_path}/store")
    try:
        app = client(gateway=gateway_app(engine, GatewayTokens(writer="w" * 40, reader="r" * 40)))
        assert app.get("/ping").text == "Ok.\n"
        assert app.get("/", params={"query": "SELECT 1"}).status_code == 401
        answer = app.get("/", params={"query": "SELECT 41 + 1"}, headers={"X-ClickHouse-Key": "r" * 40})
        assert (answer.status_code, answer.text) == (200, "42\n")
        assert app.get("/healthz").json()["status"] == "ok"
    finally:
        engine.close()


def test_the_server_answers_on_the_port_it_took_and_lets_it_go():
    server = WebServer(PlainTextResponse("hello"), "127.0.0.1", 0)
    server.start()
    try:
        assert httpx.get(f"http://127.0.0.1:{server.port}/").text == "hello"
        with pytest.raises(WebError, match=r"gateway: 127\.0\.0\.1:\d+ cannot be taken \(Address already in use\)"):
            WebServer(PlainTextResponse(""), "127.0.0.1", server.port)
    finally:
        server.stop()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0


def test_an_address_that_is_not_ours_is_refused_with_advice():
    with pytest.raises(WebError, match=r"192\.0\.2\.1:8710 cannot be taken \(Cannot assign requested address\)"):
        WebServer(PlainTextResponse(""), "192.0.2.1", 8710)


def test_a_token_is_made_once_for_its_owner_only(tmp_path):
    path = tmp_path / "new" / "token"
    token = ensure_token(path, "gateway.reader_token_file", may_create=True)
    assert len(token) >= 40
    assert path.stat().st_mode & 0o777 == 0o600
    assert ensure_token(path, "gateway.reader_token_file", may_create=True) == token


def test_a_token_file_that_an_operator_named_is_never_made(tmp_path):
    with pytest.raises(SettingsError, match=r"gateway\.reader_token_file: .*No such file or directory"):
        ensure_token(tmp_path / "token", "gateway.reader_token_file", may_create=False)
    assert list(tmp_path.iterdir()) == []


def test_the_port_is_not_left_open_when_serving_fails_to_start():
    async def broken(scope, receive, send):
        raise RuntimeError

    server = WebServer(broken, "127.0.0.1", 0)
    server.start()
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/", timeout=5)
    assert caught.value.code == 500
    caught.value.close()
    server.stop()
