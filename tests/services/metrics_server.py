"""An HTTP server whose answers a test changes as it goes: an inference server to scrape, or a broken Prometheus."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TEXT = "text/plain; version=0.0.4; charset=utf-8"


@dataclass
class Answer:
    """What one request gets. `write`, when given, sends the body by itself."""

    body: bytes = b""
    status: int = 200
    content_type: str = TEXT
    headers: dict[str, str] = field(default_factory=dict)
    write: Callable[[BaseHTTPRequestHandler], None] | None = None


class MetricsServer(ThreadingHTTPServer):
    """Serves what `respond` says; `requests` and `connections` count what came in."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, respond: Callable[[BaseHTTPRequestHandler], Answer], address: tuple[str, int]) -> None:
        super().__init__(address, _Handler)
        self.respond = respond
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.connections = 0

    @property
    def address(self) -> str:
        """host:port"""
        return f"{self.server_address[0]}:{self.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def serve(self, text: str) -> None:
        """Answer everything with this exposition text from now on."""
        self.respond = lambda _request: Answer(text.encode())

    def fail(self, status: int = 500) -> None:
        """Answer everything with this status from now on."""
        self.respond = lambda _request: Answer(b"broken", status)

    def handle_error(self, request, client_address) -> None:
        """Clients that hang up in the middle are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: MetricsServer

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        self.server.requests.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
        answer = self.server.respond(self)
        if answer.write is not None:
            answer.write(self)
            self.close_connection = True
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format, *args) -> None:
        """Tests print nothing."""


@contextlib.contextmanager
def running_server(
    respond: Callable[[BaseHTTPRequestHandler], Answer] | str = "", address: tuple[str, int] = ("127.0.0.1", 0)
) -> Iterator[MetricsServer]:
    """Serve in a thread for the length of the block. A text instead of a function is served as it is."""
    answer = (lambda _request: Answer(respond.encode())) if isinstance(respond, str) else respond
    server = MetricsServer(answer, address)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def vllm_text(
    *,
    model: str = "llama",
    engine: str = "0",
    finished: dict[str, float] | None = None,
    prompt_tokens: float = 0,
    generation_tokens: float = 0,
    cached_tokens: float = 0,
    waiting: float = 0,
    running: float = 0,
    kv: float = 0.0,
    ttft: dict[str, float] | None = None,
    ttft_sum: float = 0.0,
    process_start: float | None = None,
) -> str:
    """An exposition text with vLLM's V1 names. ttft: cumulative counts by bound as text, ending with +Inf."""
    label = f'engine="{engine}",model_name="{model}"'
    lines = [
        f"vllm:num_requests_running{{{label}}} {running}",
        f"vllm:num_requests_waiting{{{label}}} {waiting}",
        f"vllm:kv_cache_usage_perc{{{label}}} {kv}",
        f"vllm:prompt_tokens_total{{{label}}} {prompt_tokens}",
        f"vllm:prompt_tokens_cached_total{{{label}}} {cached_tokens}",
        f"vllm:generation_tokens_total{{{label}}} {generation_tokens}",
    ]
    for reason, count in (finished or {}).items():
        lines.append(f'vllm:request_success_total{{{label},finished_reason="{reason}"}} {count}')
    for bound, count in (ttft or {}).items():
        lines.append(f'vllm:time_to_first_token_seconds_bucket{{{label},le="{bound}"}} {count}')
    if ttft:
        lines.append(f"vllm:time_to_first_token_seconds_sum{{{label}}} {ttft_sum}")
        lines.append(f"vllm:time_to_first_token_seconds_count{{{label}}} {list(ttft.values())[-1]}")
    if process_start is not None:
        lines.append(f"process_start_time_seconds {process_start}")
    return "\n".join(lines) + "\n"
