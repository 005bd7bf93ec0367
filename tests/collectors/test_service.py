from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from collectors.service import unwatched_seconds
from fleet.settings import load_settings

ROOT = Path(__file__).parents[2]
SERVER = "[store]\ndsn = 'clickhouse://u@server/fleet'\n"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 15.0),
        ("[store]\nunwatched_seconds = 0\n", 0.0),
        (SERVER, 0.0),
        (SERVER + "unwatched_seconds = 15.0\n", 15.0),
    ],
    ids=["embedded", "switched off", "server", "server, written"],
)
def test_samples_wait_where_it_is_known_who_looks_or_where_it_is_written(text, seconds):
    assert unwatched_seconds(load_settings(text, {})) == seconds


def has_open(process: int, name: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return any(str(path.readlink()).endswith(name) for path in Path(f"/proc/{process}/fd").iterdir())
    return False


def test_a_start_waits_for_a_command_that_reads_the_folder_for_a_moment(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "fleet.toml").write_text("docker = []\n[nvml]\nenabled = 'off'\n[gateway]\nport = 18719\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIFLEET_")}
    with (tmp_path / "data/collector.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen(
            [sys.executable, "-m", "collectors", "run"],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        try:
            while not has_open(process.pid, "collector.lock"):
                assert process.poll() is None
                time.sleep(0.01)
            time.sleep(0.3)
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert "collecting from" in process.stderr.readline()
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
    assert process.returncode == 0
