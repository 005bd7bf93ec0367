"""Resident memory of both processes while the demo fleet runs live; prints one JSON object.

`..._anonymous_mb` is what the process itself has allocated. The rest of RSS are pages of files, above all the 555 MB
library of the engine, of which about 260 MB are touched: the kernel takes those back when it needs the room.

    python -m bench.memory [--seconds 60]

Fills a fresh demo store, waits, opens Overview once over Streamlit's protocol so that the dashboard has done its work,
and reads RSS from /proc. The baseline in the same run is an interpreter that has imported the same foreign libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from bench.live_tick import Browser

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = "streamlit, plotly.graph_objects, pyarrow, pandas, clickhouse_connect"


def resident_bytes(process: int, field: str = "VmRSS") -> int:
    """RSS of a process, or another field of its status: RssAnon, RssFile."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{process}/status has no {field}")


def wait_until_healthy(url: str, seconds: float) -> None:
    """Poll a health address. Raises RuntimeError when it does not answer in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                # A collector that still fills its demo store answers too.
                if answer.status == 200 and json.load(answer)["status"] != "starting":
                    return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(1)
    raise RuntimeError(f"{url} did not answer within {seconds:.0f} s")


def main() -> int:
    """Start both, look once, read, stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    ports = {"collectors": 18710, "dashboard": 18501}
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ, "AIFLEET_DATA_DIR": folder, "AIFLEET_GATEWAY_PORT": str(ports["collectors"]),
            "AIFLEET_DASHBOARD_PORT": str(ports["dashboard"]),
        }  # fmt: skip
        commands = {"collectors": ["collectors", "demo"], "dashboard": ["dashboard"]}
        running = {
            name: subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for name, words in commands.items()
        }
        try:
            for port in ports.values():
                wait_until_healthy(f"http://127.0.0.1:{port}/healthz", 900)
            Browser(ports["dashboard"], "").open()
            time.sleep(options.seconds)
            found = {name: resident_bytes(process.pid) for name, process in running.items()}
            own = {name: resident_bytes(process.pid, "RssAnon") for name, process in running.items()}
        finally:
            for process in running.values():
                process.send_signal(signal.SIGTERM)
            for process in running.values():
                process.wait(30)
    code = f"import {LIBRARIES}; print(open('/proc/self/status').read().split('VmRSS:')[1].split()[0])"
    bare = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) * 1024
    print(
        json.dumps(
            {
                "bench": "memory", "seed": 7, "live_seconds": options.seconds, "python": platform.python_version(),
                "collectors_rss_mb": round(found["collectors"] / 1e6),
                "collectors_anonymous_mb": round(own["collectors"] / 1e6),
                "dashboard_rss_mb": round(found["dashboard"] / 1e6),
                "dashboard_anonymous_mb": round(own["dashboard"] / 1e6), "baseline_imports_rss_mb": round(bare / 1e6),
            }
        )
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
