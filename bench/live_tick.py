"""What one live tick of a page costs at 1,000 containers: processor time of the dashboard, bytes to the browser.

    python -m bench.live_tick [--containers 1000] [--ticks 12] [--json]

Speaks Streamlit's own websocket protocol like a browser: opens a page, then asks for its live fragment every 5 s, as
the browser's timer does. Data comes through the real gateway from a store in another process, which gets a new cycle of
all containers before each tick. Time is user + system of the dashboard's whole process, until 0.4 s after the answer:

    changed_cpu_ms     a tick that finds a new snapshot, of the only viewer: reading, judging, drawing, sending; mean
                       and median, as some of what a page shows is read at a slower pace than the snapshots
    viewer_cpu_ms      the same tick for one viewer more: what is shared has been done
    unchanged_cpu_ms   a tick without a new snapshot
    floor_cpu_ms       a tick of a page with the same elements, constant content and no data (`live_tick_floor`):
                       Streamlit itself, which no page can go below
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import ClientConnection, connect

from dashboard.look import SNAPSHOT_SECONDS

ROOT = Path(__file__).resolve().parent.parent
GOALS = {"cpu_ms": 30.0, "changed_bytes": 250_000, "unchanged_bytes": 10_000}
_QUIET_SECONDS = 0.4


class Browser:
    """One tab, as far as the protocol goes: it runs pages, answers cached messages, counts bytes."""

    def __init__(self, port: int, page: str) -> None:
        self._held = ExitStack()
        self.socket: ClientConnection = self._held.enter_context(
            connect(f"ws://127.0.0.1:{port}/_stcore/stream", subprotocols=["streamlit"], max_size=None)  # type: ignore[list-item]
        )
        self.page = page
        self.fragments: dict[str, float] = {}
        self.page_hash = ""
        self.cached: set[str] = set()
        self.failures: list[str] = []
        self.messages = 0

    def open(self) -> int:
        """First run of the page; bytes received."""
        return self._run(BackMsg(), fragment="")

    def tick(self) -> int:
        """One run of the live fragment, as the browser's timer asks for it; bytes received."""
        return self._run(BackMsg(), fragment=next(iter(self.fragments)))

    def close(self) -> None:
        """Close the tab."""
        self._held.close()

    def _run(self, message: BackMsg, fragment: str) -> int:
        state = message.rerun_script
        state.page_name = self.page if not self.page_hash else ""
        state.page_script_hash = self.page_hash
        state.fragment_id = fragment
        state.is_auto_rerun = bool(fragment)
        state.cached_message_hashes.extend(sorted(self.cached))
        state.context_info.timezone = "UTC"
        self.socket.send(message.SerializeToString())
        received, finished = 0, False
        self.messages = 0
        while not finished:
            raw = self.socket.recv(timeout=60)
            assert isinstance(raw, bytes)
            received += len(raw)
            self.messages += 1
            answer = ForwardMsg.FromString(raw)
            kind = answer.WhichOneof("type")
            if answer.metadata.cacheable and answer.hash:
                self.cached.add(answer.hash)
            if kind == "auto_rerun":
                self.fragments = {answer.auto_rerun.fragment_id: answer.auto_rerun.interval}
            elif kind == "new_session":
                self.page_hash = answer.new_session.page_script_hash or self.page_hash
            elif kind == "delta" and answer.delta.new_element.WhichOneof("type") == "exception":
                self.failures.append(answer.delta.new_element.exception.message)
            elif kind == "delta" and answer.delta.new_element.WhichOneof("type") == "alert":
                self.failures.append(answer.delta.new_element.alert.body)
            finished = kind == "script_finished"
        return received


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, user and system, all threads, also those that have ended."""
    return time.clock_gettime((~pid << 3) | 2)  # the clock of clock_getcpuclockid(3)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def measure(page: str, port: int, pid: int, feed: subprocess.Popen[str], ticks: int) -> dict[str, object]:
    """Figures of one page."""
    browser, second = Browser(port, page), Browser(port, page)
    first_bytes = browser.open()
    second.open()
    if not browser.fragments:
        raise RuntimeError(f"{page}: no live fragment was registered; {browser.failures}")
    for tab in (browser, second):
        tab.tick()
    sent: list[int] = []
    spent: list[float] = []
    more: list[float] = []
    for _ in range(ticks):
        # Just after the edge of the grid that snapshots lie on: whatever comes now is the next one.
        time.sleep(SNAPSHOT_SECONDS - time.time() % SNAPSHOT_SECONDS)
        advance(feed)
        time.sleep(1.1)  # the pulse is read at most once a second
        for tab, times in ((browser, spent), (second, more)):
            before = cpu_seconds(pid)
            received = tab.tick()
            time.sleep(_QUIET_SECONDS)  # the run's clean-up belongs to the tick
            times.append(cpu_seconds(pid) - before)
            if tab is browser:
                sent.append(received)
    messages = browser.messages
    second.close()
    time.sleep(1.1)
    browser.tick()
    before = cpu_seconds(pid)
    unchanged_bytes = [browser.tick() for _ in range(ticks)]
    unchanged_cpu = cpu_seconds(pid) - before
    browser.close()
    return {
        "first_bytes": first_bytes,
        "messages": messages,
        "changed_cpu_ms": _ms(statistics.mean(spent)),
        "changed_cpu_ms_median": _ms(statistics.median(spent)),
        "changed_bytes": int(statistics.median(sent)),
        "viewer_cpu_ms": _ms(statistics.mean(more)),
        "unchanged_cpu_ms": _ms(unchanged_cpu / ticks),
        "unchanged_bytes": int(statistics.median(unchanged_bytes)),
        "failures": [*browser.failures, *second.failures],
    }


def floor(page: str, port: int, pid: int, ticks: int) -> dict[str, object]:
    """The same ticks of the page without data."""
    browser = Browser(port, page)
    browser.open()
    for _ in range(2):
        browser.tick()
    spent: list[float] = []
    for _ in range(ticks):
        before = cpu_seconds(pid)
        browser.tick()
        time.sleep(_QUIET_SECONDS)
        spent.append(cpu_seconds(pid) - before)
    browser.close()
    if browser.failures:
        raise RuntimeError(f"{page}: the floor's page failed: {browser.failures}")
    return {"floor_cpu_ms": _ms(statistics.mean(spent)), "floor_messages": browser.messages}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def advance(feed: subprocess.Popen[str]) -> None:
    """One more cycle of all containers in the store."""
    assert feed.stdin is not None
    assert feed.stdout is not None
    feed.stdin.write("next\n")
    feed.stdin.flush()
    if feed.stdout.readline().strip() != "stored":
        raise RuntimeError("the feeding process ended")


def feed_main(folder: str, containers: int, token: str, port: int, seed: int) -> None:
    """The other process: a store with an hour of a fleet, served through the gateway, one cycle more per line read."""
    import threading

    import uvicorn

    from bench.live_tick_fleet import cycle, facts
    from fleet.model import Batch
    from store import open_store
    from store.client import Engine
    from store.gateway import GatewayTokens, gateway_app

    dsn = f"chdb://{folder}"
    store = open_store(dsn)
    store.migrate()
    randomness = random.Random(seed)
    now = datetime.now(UTC).replace(microsecond=0)
    store.append(Batch(token="facts", rows=facts(now, containers)))
    for step in range(240, 0, -1):
        at = now - timedelta(seconds=15 * step)
        store.append(Batch(token=f"past-{step}", rows=cycle(at, 15.0, containers, randomness)))
    app = gateway_app(Engine(dsn), GatewayTokens(writer=secrets.token_hex(16), reader=token))
    # Named protocol: asyncio sets TCP_NODELAY only then, and without it each answer waits 40 ms for an acknowledgement.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", port))
    listener.listen(64)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()
    print("ready", flush=True)
    for number, _ in enumerate(sys.stdin):
        store.append(Batch(token=f"live-{number}", rows=cycle(datetime.now(UTC), 5.0, containers, randomness)))
        print("stored", flush=True)


def main(arguments: list[str]) -> int:
    """Measure and print. 0 = all goals met, 1 = not."""
    parser = argparse.ArgumentParser(prog="bench.live_tick")
    parser.add_argument("--containers", type=int, default=1000)
    parser.add_argument("--ticks", type=int, default=12)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    token, gateway_port, port = secrets.token_hex(16), free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        feed = subprocess.Popen(
            [
                sys.executable, "-m", "bench.live_tick", "--feed", f"{folder}/store", str(options.containers), token,
                str(gateway_port), str(options.seed),
            ],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        environment = {
            **os.environ,
            "AIFLEET_DATA_DIR": folder,
            "AIFLEET_DASHBOARD_PORT": str(port),
            "AIFLEET_DASHBOARD_DSN": f"clickhouse://reader:{token}@127.0.0.1:{gateway_port}/default",
        }
        server, empty = None, None
        try:
            assert feed.stdout is not None
            if feed.stdout.readline().strip() != "ready":
                raise RuntimeError("the feeding process did not start")
            server = subprocess.Popen(
                [sys.executable, "-m", "dashboard"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
            )
            _wait_for(port)
            floor_port = free_port()
            empty = subprocess.Popen(
                [sys.executable, "-m", "bench.live_tick_floor", str(floor_port)], cwd=ROOT, stdout=subprocess.DEVNULL
            )
            _wait_for(floor_port)
            pages = {
                page: measure(page, port, server.pid, feed, options.ticks)
                | floor(page, floor_port, empty.pid, options.ticks)
                for page in ("overview", "containers")
            }
            resident = int(Path(f"/proc/{server.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        finally:
            for process in (server, empty, feed):
                if process is not None:
                    process.terminate()
                    process.wait(timeout=20)
    result = {
        "bench": "live_tick",
        "seed": options.seed,
        "containers": options.containers,
        "ticks": options.ticks,
        "tick_seconds": SNAPSHOT_SECONDS,
        "goals": GOALS,
        "pages": pages,
        "dashboard_resident_bytes": resident,
        "versions": {name: version(name) for name in ("streamlit", "pyarrow", "clickhouse-connect", "chdb")},
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
    }
    print(json.dumps(result, indent=None if options.json else 2))
    met = all(
        not figures["failures"]
        and float(str(figures["changed_cpu_ms"])) <= GOALS["cpu_ms"]
        and int(str(figures["changed_bytes"])) <= GOALS["changed_bytes"]
        and int(str(figures["unchanged_bytes"])) <= GOALS["unchanged_bytes"]
        for figures in pages.values()
    )
    return 0 if met else 1


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("the dashboard did not start within 60 s")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--feed"]:
        feed_main(sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5]), int(sys.argv[6]))
        sys.exit(0)
    sys.exit(main(sys.argv[1:]))
