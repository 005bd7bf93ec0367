"""Answers of a server over a real socket, in the pieces and with the endings that servers really send."""

import socket
import threading

import pytest
from urllib3 import Timeout
from urllib3.exceptions import HTTPError, MaxRetryError, ProtocolError, ReadTimeoutError

from store.keepalive import KeptConnections

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-ClickHouse-Query-Id: q\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=1\r\n world\r\n0\r\n\r\n"


class Server:
    """Answers each request with the next of `answers` (pieces sent one by one); None closes the connection instead."""

    def __init__(self, *answers):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.answers = list(answers)
        self.requests = []
        self.connections = 0
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while self.answers:
            connection, _ = self.listener.accept()
            self.connections += 1
            with connection:
                while self.answers and (received := connection.recv(1 << 16)):
                    while b"\r\n\r\n" not in received or not received.endswith(b"END"):
                        received += connection.recv(1 << 16)
                    self.requests.append(received)
                    pieces = self.answers.pop(0)
                    if pieces is None:
                        break
                    for piece in pieces:
                        connection.sendall(piece)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.answers.clear()
        self.listener.close()
        self.thread.join(5)


@pytest.fixture
def pool():
    kept = KeptConnections()
    yield kept
    kept.clear()


def post(pool, port, body=b"SELECT 1 END", read=5.0):
    return pool.request(
        "POST",
        f"http://127.0.0.1:{port}/?database=fleet",
        body=body,
        headers={"Authorization": "Basic eA=="},
        timeout=Timeout(connect=2, read=read),
        retries=0,
        preload_content=True,
    )


def test_a_kept_connection_serves_the_next_question(pool):
    with Server([LENGTH], [LENGTH]) as server:
        first, second = post(pool, server.port), post(pool, server.port)
    assert (first.status, first.data, second.data) == (200, b"hello", b"hello")
    assert first.headers.get("x-clickhouse-query-id") == first.headers["X-ClickHouse-Query-Id"] == "q"
    assert server.connections == 1
    request = server.requests[0].decode()
    assert request.startswith("POST /?database=fleet HTTP/1.1\r\nHost: 127.0.0.1:")
    assert "\r\nAuthorization: Basic eA==\r\n" in request
    assert request.endswith("\r\n\r\nSELECT 1 END")


@pytest.mark.parametrize("answer", [LENGTH, CHUNKED])
def test_an_answer_in_single_bytes_comes_out_whole(pool, answer):
    with Server([answer[place : place + 1] for place in range(len(answer))], [LENGTH]) as server:
        assert post(pool, server.port).data in {b"hello", b"hello world"}
        assert post(pool, server.port).data == b"hello"
    assert server.connections == 1


def test_an_answer_that_ends_with_the_connection_is_read_to_its_end(pool):
    with Server([b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"rows"], None) as server:
        server.answers[1:] = []
        assert post(pool, server.port).data == b"rows"


def test_a_connection_that_the_server_closed_meanwhile_is_not_used_again(pool):
    with Server([b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"], [LENGTH]) as server:
        assert post(pool, server.port).data == b"ok"
        assert not pool._free
    with Server([LENGTH]) as server:
        assert post(pool, server.port).data == b"hello"
        assert len(pool._free) == 1
        server.thread.join(5)  # the server has closed its side
        assert pool._take() is None


def test_an_error_status_is_an_answer_like_any_other(pool):
    refused = b"HTTP/1.1 403 Forbidden\r\nX-ClickHouse-Exception-Code: 497\r\nContent-Length: 2\r\n\r\nno"
    with Server([refused]) as server:
        answer = post(pool, server.port)
    assert (answer.status, answer.headers.get("X-ClickHouse-Exception-Code"), answer.data) == (403, "497", b"no")


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhel"],
        [b"220 smtp.example ESMTP\r\n\r\n"],
    ],
    ids=["nothing", "short", "short chunk", "no chunk", "no HTTP"],
)
def test_a_broken_answer_is_an_error_of_the_library_that_is_replaced(pool, answer):
    with Server(answer) as server, pytest.raises(ProtocolError):
        post(pool, server.port)
    assert not pool._free


def test_a_silent_server_is_a_timeout(pool):
    with Server([b""], [LENGTH]) as server, pytest.raises(ReadTimeoutError):
        post(pool, server.port, read=0.05)


def test_where_nobody_listens_the_words_are_those_of_urllib3(pool):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(MaxRetryError, match="Connection refused"):
        post(pool, port)
    assert issubclass(MaxRetryError, HTTPError)


def test_what_is_not_a_plain_question_goes_urllib3s_way(pool):
    with Server([LENGTH]) as server:
        answer = pool.request("POST", f"http://127.0.0.1:{server.port}/", body=b"END", preload_content=False, retries=0)
        assert answer.read() == b"hello"
        answer.release_conn()
    assert not pool._free
