"""Every way a Prometheus can misbehave, over real sockets: one clear SourceError each, in bounded time and memory."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import subprocess
import time
from datetime import UTC, datetime

import pytest

from collectors.base import SourceError
from collectors.prometheus_http import is_near
from collectors.sources.prometheus import PrometheusClient, PrometheusSource
from fleet.inventory import Inventory
from fleet.settings import PrometheusServer
from tests.services.metrics_server import Answer, running_server
from tests.services.prometheus import free_port

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
JSON = "application/json"


def vector(*values):
    result = [{"metric": {"job": "a", "instance": str(i)}, "value": [1000.0, v]} for i, v in enumerate(values)]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()


def client(url, **options):
    made = PrometheusClient(PrometheusServer(url=url, **options))
    made.begin(options.get("timeout_seconds", 10.0))
    return made


def refusal(url, **options):
    """The SourceError of one query, and how long it took."""
    made = client(url, **options)
    start = time.monotonic()
    try:
        with pytest.raises(SourceError) as caught:
            made.query("up")
    finally:
        made.close()
    return caught.value, time.monotonic() - start


def test_an_answer_is_read_with_all_spellings_of_numbers():
    with running_server(lambda _r: Answer(vector("1.5", "NaN", "+Inf", "-Inf"), content_type=JSON)) as server:
        made = client(server.url)
        values = [value for _, value in made.query("up")]
        made.close()
    assert values[0] == 1.5
    assert values[1] != values[1]
    assert values[2:] == [float("inf"), float("-inf")]


def test_one_connection_serves_a_whole_poll_and_the_server_is_told_the_time_limit():
    with running_server(lambda _r: Answer(vector("1"), content_type=JSON)) as server:
        made = client(server.url)
        for _ in range(5):
            made.query("up", time=1000.0)
        made.close()
        assert server.connections == 1
        path, headers = server.requests[0]
    assert "timeout=" in path
    assert "time=1000.000" in path
    assert headers["accept-encoding"] == "identity"


def test_a_server_next_door_is_not_asked_through_the_proxy_of_the_environment(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with running_server(lambda _r: Answer(vector("1"), content_type=JSON)) as server:
        made = client(server.url)
        assert len(made.query("up")) == 1
        made.close()


@pytest.mark.parametrize(
    ("url", "near"),
    [
        ("http://127.0.0.1:9090", True),
        ("http://[::1]:9090", True),
        ("http://10.1.2.3:9090", True),
        ("http://prometheus:9090", True),
        ("http://prometheus.lan", True),
        ("https://prometheus.example.com", False),
        ("http://8.8.8.8", False),
    ],
)
def test_what_is_near_is_told_by_the_address(url, near):
    assert is_near(url) is near


def test_a_compressed_answer_is_read_too():
    packed = gzip.compress(vector("7"))
    with running_server(lambda _r: Answer(packed, content_type=JSON, headers={"Content-Encoding": "gzip"})) as server:
        made = client(server.url)
        assert [value for _, value in made.query("up")] == [7.0]
        made.close()


@pytest.mark.parametrize(
    ("answer", "reason", "words"),
    [
        (Answer(b"oops", 500), "unreachable", "answered 500"),
        (Answer(b"oops", 502), "unreachable", "answered 502"),
        (Answer(b'{"status":"error","errorType":"timeout","error":"query timed out"}', 503), "timeout", "query timed"),
        (Answer(b'{"status":"error","errorType":"bad_data","error":"parse error"}', 400), "malformed", "parse error"),
        (Answer(b"<html>login</html>", 200, "text/html"), "malformed", "not JSON"),
        (Answer(b"", 302, headers={"Location": "https://login.example.com/?state=secret"}), "denied", "redirects to"),
        (Answer(b"", 404), "unsupported", "404"),
        (Answer(b"", 401), "denied", "401"),
        (Answer(b"", 403), "denied", "403"),
        (Answer(b"null", content_type=JSON), "malformed", "query API"),
        (Answer(b"[]", content_type=JSON), "malformed", "query API"),
        (Answer(b'{"data": null}', content_type=JSON), "malformed", "query API"),
        (Answer(b'{"data": {"result": 3}}', content_type=JSON), "malformed", "query API"),
        (Answer(b'{"data": {"result": [{"metric": {}, "value": [1]}]}}', content_type=JSON), "malformed", "query API"),
        (Answer(b'{"data": {"result": [{"metric": {}, "value": [1, "x"]}]}}', content_type=JSON), "malformed", "query"),
        (Answer(b'{"data": {"result": ["x"]}}', content_type=JSON), "malformed", "query API"),
        (Answer(b'{"data": {"result": [', content_type=JSON), "malformed", "not JSON"),
        (Answer(b"\xff\xfe\x00", content_type=JSON), "malformed", "not JSON"),
    ],
)
def test_a_useless_answer_is_one_clear_error_with_a_next_step(answer, reason, words):
    with running_server(lambda _r: answer) as server:
        error, took = refusal(server.url)
    assert error.reason == reason
    assert words in error.detail
    assert error.next_step
    assert "secret" not in str(error)
    assert took < 2.0


def test_a_server_that_asks_to_be_tried_again_in_an_hour_is_not_waited_for():
    with running_server(lambda _r: Answer(b"", 503, headers={"Retry-After": "3600"})) as server:
        _, took = refusal(server.url)
        assert len(server.requests) == 1
    assert took < 2.0


def test_a_dead_server_fails_in_less_than_three_seconds():
    error, took = refusal(f"http://127.0.0.1:{free_port()}")
    assert (error.reason, took < 3.0) == ("unreachable", True)
    assert "refused" in error.detail


def test_a_server_that_drops_every_packet_fails_in_less_than_three_seconds():
    # A full accept queue on loopback: the kernel ignores further SYNs, like a firewall that drops.
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        clogs = []
        for _ in range(4):
            clog = socket.socket()
            clog.setblocking(False)
            clog.connect_ex(deaf.getsockname())
            clogs.append(clog)
        error, took = refusal(f"http://127.0.0.1:{deaf.getsockname()[1]}")
        for clog in clogs:
            clog.close()
    assert error.reason == "unreachable"
    assert took < 3.0


def test_a_name_that_does_not_resolve_is_said_so():
    error, took = refusal("http://prometheus.invalid:9090", timeout_seconds=5.0)
    assert error.reason == "unreachable"
    assert "resolved" in error.detail
    assert took < 5.0


def test_a_server_that_accepts_and_never_answers_is_given_up_in_time():
    with running_server(lambda _r: Answer(write=lambda _h: time.sleep(3))) as server:
        error, took = refusal(server.url, timeout_seconds=0.5)
    assert error.reason == "timeout"
    assert took < 1.5


def _drip(handler):
    handler.send_response(200)
    handler.send_header("Content-Type", JSON)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    for _ in range(60):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def test_an_answer_that_drips_byte_by_byte_is_given_up_in_time():
    with running_server(lambda _r: Answer(write=_drip)) as server:
        error, took = refusal(server.url, timeout_seconds=0.6)
    assert error.reason == "timeout"
    assert took < 1.5


def _flood(handler):
    handler.send_response(200)
    handler.send_header("Content-Type", JSON)
    handler.end_headers()  # no length, so only counting helps
    block = b'{"data": "' + b"x" * 1_000_000
    for _ in range(50):
        handler.wfile.write(block)


def test_a_body_of_50_mb_is_refused_unread_by_its_length():
    with running_server(lambda _r: Answer(b"x" * 50_000_000, content_type=JSON)) as server:
        error, took = refusal(server.url)
    assert error.reason == "malformed"
    assert "50,000,000 bytes is over the limit of 20,000,000" in error.detail
    assert "body_limit_bytes" in error.next_step
    assert took < 2.0


def test_a_body_of_50_mb_without_a_length_is_dropped_at_the_limit():
    with running_server(lambda _r: Answer(write=_flood)) as server:
        error, took = refusal(server.url, body_limit_bytes=2_000_000)
    assert error.reason == "malformed"
    assert "over the limit of 2,000,000" in error.detail
    assert took < 2.0


def test_a_small_answer_that_unpacks_to_50_mb_is_dropped_at_the_limit():
    bomb = gzip.compress(b"x" * 50_000_000)
    with running_server(lambda _r: Answer(bomb, content_type=JSON, headers={"Content-Encoding": "gzip"})) as server:
        error, _ = refusal(server.url, body_limit_bytes=2_000_000)
    assert "over the limit" in error.detail


def test_a_rotated_token_is_read_again_at_the_first_401(tmp_path):
    token = tmp_path / "token"
    token.write_text("first\n")
    accepted = ["first"]

    def respond(handler):
        good = handler.headers.get("Authorization") == f"Bearer {accepted[0]}"
        return Answer(vector("1"), content_type=JSON) if good else Answer(b"", 401)

    with running_server(respond) as server:
        made = client(server.url, token_file=str(token))
        assert len(made.query("up")) == 1
        accepted[0] = "second"
        token.write_text("second\n")
        assert len(made.query("up")) == 1
        accepted[0] = "third"  # revoked, and the file says nothing new: one request, one clear error
        before = len(server.requests)
        with pytest.raises(SourceError) as caught:
            made.query("up")
        assert len(server.requests) == before + 1
        made.close()
    assert caught.value.reason == "denied"
    assert "second" not in str(caught.value)


def test_a_missing_token_file_is_named_and_its_contents_never_are(tmp_path):
    error, _ = refusal("http://127.0.0.1:1", token_file=str(tmp_path / "nothing"))
    assert error.reason == "denied"
    assert str(tmp_path / "nothing") in error.detail
    two_lines = tmp_path / "two"
    two_lines.write_text("hush\nhush\n")
    error, _ = refusal("http://127.0.0.1:1", token_file=str(two_lines))
    assert "hush" not in str(error)


def test_user_and_password_are_sent_and_a_netrc_entry_does_not_replace_them(tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password wrong\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    secret = tmp_path / "password"
    secret.write_text("pw")
    with running_server(lambda _r: Answer(vector("1"), content_type=JSON)) as server:
        for options in ({"username": "me", "password_file": str(secret)}, {}):
            made = client(server.url, **options)
            made.query("up")
            made.close()
        sent = [headers.get("authorization") for _, headers in server.requests]
    assert sent == ["Basic bWU6cHc=", None]  # printf me:pw | base64


def test_a_url_with_a_path_and_a_slash_at_its_end_is_understood():
    with running_server(lambda _r: Answer(vector("1"), content_type=JSON)) as server:
        made = client(f"{server.url}/mimir/prometheus/")
        made.query("up")
        made.close()
        assert server.requests[0][0].startswith("/mimir/prometheus/api/v1/query?")


def test_a_password_in_the_url_is_in_no_message():
    error, _ = refusal(f"http://user:hush@127.0.0.1:{free_port()}/x")
    assert "hush" not in str(error)


def api(handler, *, broken=()):
    """A Prometheus of one vLLM target at 1000.0, by hand; queries that mention one of `broken` get a 500."""
    path = handler.path.replace("%3A", ":")
    if any(word in path for word in broken):
        return Answer(b"", 500)
    if "/targets" in path:
        return Answer(b'{"status":"success","data":{"activeTargets":[]}}', content_type=JSON)
    labels = {"job": "a", "instance": "x:1", "model_name": "m"}
    names = [f"vllm:{n}" for n in ("request_success_total", "num_requests_running") if f"vllm:{n}" in path]
    result = [{"metric": {"__name__": name, **labels}, "value": [1000.0, "5"]} for name in names]
    if "vector" in path:
        result = [{"metric": {}, "value": [1000.0, "1"]}]
    return Answer(json.dumps({"status": "success", "data": {"result": result}}).encode(), content_type=JSON)


def test_one_failing_field_is_a_gap_with_a_reason_and_the_rest_goes_on():
    with running_server(lambda h: api(h, broken=["generation_tokens_total"])) as server:
        source = PrometheusSource(PrometheusServer(url=server.url, name="p"), Inventory())
        reading = source.collect(AT)
        source.close()
    (row,) = reading.rows
    assert (row.requests_running, row.generation_tokens) == (5.0, None)
    assert "generation_tokens: unreachable" in row.unknown_reason
    assert [gap.subject for gap in reading.gaps] == ["prompt_tokens, generation_tokens, cached_tokens"]


@pytest.mark.parametrize(("scraped_at", "running"), [(990.0, 5.0), (829.0, 5.0), (818.0, None)])
def test_a_value_not_scraped_for_three_intervals_is_stale_and_not_the_present(scraped_at, running):
    # One minute is the interval where the server names none, and queries look at 999.0: 999 - 3 * 60 = 819.
    def respond(handler):
        if handler.path.endswith("query=up") or "query=up&" in handler.path:
            result = [{"metric": {"job": "a", "instance": "x:1"}, "value": [1000.0, "1"]}]
            return Answer(json.dumps({"data": {"result": result}}).encode(), content_type=JSON)
        if "query=timestamp" in handler.path:
            result = [{"metric": {"job": "a", "instance": "x:1"}, "value": [1000.0, str(scraped_at)]}]
            return Answer(json.dumps({"data": {"result": result}}).encode(), content_type=JSON)
        return api(handler)

    with running_server(respond) as server:
        source = PrometheusSource(PrometheusServer(url=server.url, name="p"), Inventory())
        reading = source.collect(AT)
        source.close()
    (row,) = reading.rows
    assert row.requests_running == running
    assert ("stale" in row.unknown_reason, row.up) == (running is None, running is not None)


def test_a_poll_asks_at_most_twenty_times():
    with running_server(api) as server:
        source = PrometheusSource(PrometheusServer(url=server.url, name="p"), Inventory())
        source.collect(AT)
        source.close()
        assert 12 <= len(server.requests) <= 20, [path for path, _ in server.requests]


def test_a_server_that_answers_no_field_at_all_failed_as_a_whole():
    with running_server(lambda h: api(h, broken=["vllm"])) as server:
        source = PrometheusSource(PrometheusServer(url=server.url, name="p"), Inventory())
        with pytest.raises(SourceError) as caught:
            source.collect(AT)
        source.close()
    assert caught.value.reason == "unreachable"


def test_a_server_that_hangs_in_the_middle_of_a_poll_ends_it_within_its_timeout():
    def respond(handler):
        if "vllm" in handler.path:
            return Answer(write=lambda _h: time.sleep(3))
        return api(handler)

    with running_server(respond) as server:
        source = PrometheusSource(PrometheusServer(url=server.url, name="p", timeout_seconds=1.0), Inventory())
        start = time.monotonic()
        with pytest.raises(SourceError) as caught:
            source.collect(AT)
        assert time.monotonic() - start < 1.5
        source.close()
    assert caught.value.reason == "timeout"


def test_a_private_authority_is_trusted_when_named_and_never_by_default(tmp_path):
    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl("req", "-x509", *key, "-subj", "/CN=our authority", "-keyout", "ca.key", "-out", "ca.pem")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=IP:127.0.0.1")
    openssl("req", "-x509", *key, *signed, "-subj", "/CN=prometheus", "-keyout", "server.key", "-out", "server.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    with running_server(lambda _r: Answer(vector("1"), content_type=JSON)) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = server.url.replace("http://", "https://")
        error, _ = refusal(url)
        assert (error.reason, "ca_file" in error.next_step) == ("unreachable", True)
        assert "TLS failed" in error.detail
        made = client(url, ca_file=str(tmp_path / "ca.pem"))
        assert len(made.query("up")) == 1
        made.close()
        (tmp_path / "garbage.pem").write_text("not a certificate")
        for useless in ("missing.pem", "garbage.pem"):
            error, _ = refusal(url, ca_file=str(tmp_path / useless))
            assert "ca_file" in error.next_step, error
