"""What a killed process leaves behind. Each engine runs in a process of its own, because it is killed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.store.crash_process import ROWS
from tests.store.stores import ROOT

KILLS = 20

COUNT = """
import json, sys
from store import open_store
store = open_store("chdb://" + sys.argv[1])
raw = "SELECT container_key AS k, count() AS n FROM {} GROUP BY k"
rollup = "SELECT container_key AS k, sum(samples) AS n FROM {} GROUP BY k"
found = {}
for table in ("container_samples", "histograms"):
    for name, sql in ((table, raw), (table + "_1m", rollup), (table + "_1h", rollup)):
        found[name] = {row["k"]: row["n"] for row in store.query(sql.format(name)).to_pylist()}
merge = "SELECT container_key AS k, sumForEachMerge(increments) AS i FROM histograms_1h GROUP BY k"
found["increments"] = {row["k"]: row["i"] for row in store.query(merge).to_pylist()}
print(json.dumps(found))
store.close()
"""


def run_python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(400)
def test_twenty_kills_in_mid_insert_lose_no_acknowledged_row_and_double_none(tmp_path: Path) -> None:
    chance = random.Random(22)
    acknowledged: set[int] = set()
    following = 0
    for turn in range(KILLS):
        # Like the collector after a restart: the batch without an answer again, and two that had one.
        first = max(0, following - 2)
        code = f"from tests.store.crash_process import main; main({str(tmp_path)!r}, {first})"
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n", "the folder did not open again"
        # Every fourth time in the first inserts after the start, else after at least one new batch.
        lines = [] if turn % 4 == 3 else [process.stdout.readline() for _ in range(following - first + 1)]
        time.sleep(chance.uniform(0.02, 0.35))
        process.kill()
        process.wait(20)
        lines += process.stdout.read().splitlines(keepends=True)
        acknowledged |= {int(line) for line in lines if line.endswith("\n")}
        process.stdout.close()
        following = max(acknowledged, default=-1) + 1
    assert len(acknowledged) >= KILLS * 3 // 4
    found = json.loads(run_python(COUNT, str(tmp_path)))
    # The last batch in flight was never sent again: it may be there or not, in whole or (per table) not at all.
    found = {table: {int(key.split("-")[1]): n for key, n in rows.items()} for table, rows in found.items()}
    for table in ("container_samples", "container_samples_1m", "container_samples_1h"):
        assert {number: found[table].get(number) for number in acknowledged} == dict.fromkeys(acknowledged, ROWS), table
        assert set(found[table].values()) == {ROWS}, table
    for table in ("histograms", "histograms_1m", "histograms_1h"):
        assert {number: found[table].get(number) for number in acknowledged} == dict.fromkeys(acknowledged, 1), table
    assert all(found["increments"][number] == [2.0, 1.0] for number in acknowledged)


def test_a_restarted_process_finds_all_it_stored_and_still_counts_a_repeated_batch_once(tmp_path: Path) -> None:
    write = """
import sys
from store import open_store
from tests.store.crash_process import numbered_batch
store = open_store("chdb://" + sys.argv[1])
store.migrate()
for number in (1, 2):
    store.append(numbered_batch(number))
store.close()
"""
    run_python(write, str(tmp_path))
    run_python(write, str(tmp_path))
    found = json.loads(run_python(COUNT, str(tmp_path)))
    for table in ("container_samples", "container_samples_1m", "container_samples_1h"):
        assert found[table] == {"batch-1": ROWS, "batch-2": ROWS}
    assert found["increments"] == {"batch-1": [2.0, 1.0], "batch-2": [2.0, 1.0]}


FILL = """
import sys, os
from datetime import timedelta
from store import StoreUnavailable, open_store
from store.spool import Spool, SpooledWriter
from pathlib import Path
from tests.store.crash_process import BEGIN, numbered_batch
from fleet.model import Batch, Event
folder = Path(sys.argv[1])
store = open_store(f"chdb://{folder}/store")
store.migrate()
writer = SpooledWriter(store, Spool(Path(sys.argv[2]), 1 << 30), retry_seconds=0)
outcomes = []
for number in range(60):
    noise = os.urandom(500_000).hex()
    at = BEGIN + timedelta(seconds=number)
    event = Event(at=at, event_id=str(number), host="h", source="s", kind="k", title=noise)
    outcomes.append(writer.append(Batch(token=str(number), rows=(event,))))
    if outcomes[-1] == "spooled" and number > 5 and outcomes.count("spooled") > 3:
        break
print("full", outcomes[0], outcomes[-1], writer.state.error.replace(chr(10), " "))
(folder / "ballast").unlink()
left = writer.drain()
print("free", left, writer.state.error)
rows = store.query("SELECT count() AS n, uniqExact(event_id) AS u FROM events").to_pylist()
print("rows", rows[0]["n"], rows[0]["u"], len(outcomes))
store.close()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_under_the_engine_sends_batches_to_the_spool_and_ends_when_there_is_room(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        (small / "ballast").write_bytes(bytes(48 << 20))
        lines = run_python(FILL, str(small), str(tmp_path / "spool")).splitlines()
        assert lines[0].startswith("full stored spooled store "), lines
        assert "space" in lines[0].lower()
        assert lines[1] == "free 0 ", lines
        _, rows, unique, sent = lines[2].split()
        assert int(rows) == int(unique) == int(sent)
    finally:
        subprocess.run(["umount", small], check=True)
