"""The ledger's questions on hand-made entries, through the embedded engine and through the gateway's reader."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from fleet.model import Batch, Scope, Window
from queries.jobs import gpu_jobs, ledger_state
from store import Store
from tests.queries.three_tenants import END, EVERYONE, ledger, window
from tests.store.stores import embedded_store

ACME = Scope(tenants=frozenset({"acme"}))


def names(store: Store, scope: Scope, span: Window, **more: object) -> list[str]:
    return sorted(row["container_name"] for row in gpu_jobs(store, scope, span, **more).rows.to_pylist())


def test_a_job_is_there_while_it_touches_the_window(fleet: Store):
    assert names(fleet, EVERYONE, window(hours=1)) == ["chat", "notebook"]
    assert names(fleet, EVERYONE, window(hours=3)) == ["batch", "chat", "notebook"]
    before = Window(start=END - timedelta(days=2), end=END - timedelta(hours=10))
    assert names(fleet, EVERYONE, before) == []
    assert names(fleet, EVERYONE, window(hours=3), host="h2") == ["notebook"]
    assert names(fleet, EVERYONE, window(hours=3), text="TEAM-glob") == ["batch"]
    assert names(fleet, EVERYONE, window(hours=3), text="gpu-2") == ["notebook"]
    assert names(fleet, ACME, window(hours=3)) == ["chat"]


def test_a_job_tells_its_length_and_the_part_in_the_window(fleet: Store):
    rows = {row["workload"]: row for row in gpu_jobs(fleet, EVERYONE, window(hours=3)).rows.to_pylist()}
    batch, chat = rows["batch"], rows["chat"]
    # Ten hours ago until two hours ago; one hour of it lies in the last three.
    assert (batch["duration_seconds"], batch["gpu_hours"], batch["gpu_hours_in_window"]) == (28800.0, 8.0, 1.0)
    assert (batch["exit_code"], batch["energy_joules"], batch["verified"]) == (3, 5e6, True)
    assert (chat["ended_at"], chat["duration_seconds"], chat["gpu_hours_in_window"]) == (None, 36000.0, 3.0)
    assert (chat["gpu_uuids"], chat["sources"]) == (["GPU-1"], "tenant: operator's rule")
    assert batch["hash"] == ledger()[-1].hash


def test_time_in_which_nobody_looked_is_a_gap_of_the_answer(fleet: Store):
    def told(scope: Scope, span: Window) -> list[str]:
        return [gap.detail for gap in gpu_jobs(fleet, scope, span).gaps if gap.subject == "ledger h1"]

    words = "nobody looked from 2026-11-20 06:00:00 to 2026-11-20 06:30:00 UTC: the collector was not running"
    assert told(EVERYONE, window(hours=8)) == [words]
    assert told(ACME, window(hours=8)) == [words]
    assert told(Scope(tenants=frozenset({"initech"})), window(hours=8)) == []  # it has nothing on h1
    assert told(EVERYONE, window(hours=3)) == []


def test_a_chain_tells_its_head_and_that_it_is_whole(fleet: Store):
    (row,) = ledger_state(fleet, EVERYONE, window(hours=1)).rows.to_pylist()
    assert (row["chain"], row["entries"], row["jobs"], row["running_jobs"]) == ("h1", 5, 3, 2)
    assert (row["head_sequence"], row["head_hash"]) == (5, ledger()[-1].hash)
    assert (row["findings"], row["first_bad"], row["what"], row["verified_from"]) == (0, None, "", 1)
    (own,) = ledger_state(fleet, ACME, window(hours=1)).rows.to_pylist()
    assert (own["entries"], own["jobs"], own["head_hash"], own["findings"]) == (1, 1, None, 0)
    assert own["verified_from"] is None  # its place in the chain would tell how much the others do


def test_a_search_finds_an_old_job_behind_many_newer_ones(fleet: Store):
    # Chat, batch and notebook began at the same time, so at most one of them comes with a limit of 1: the first by id
    # (job-batch). Looked for after that limit, notebook would not be found; and batch's own reason of ending is on its
    # newest entry only.
    assert names(fleet, EVERYONE, window(hours=3), limit=1) == ["batch"]
    assert names(fleet, EVERYONE, window(hours=3), limit=1, text="noteb") == ["notebook"]
    assert names(fleet, EVERYONE, window(hours=3), limit=1, text=" EXIT code 3 ") == ["batch"]
    assert names(fleet, EVERYONE, window(hours=3), text="' OR 1 --") == []
    assert names(fleet, EVERYONE, window(hours=3), limit=1, container_key="h1:chat") == ["chat"]
    assert names(fleet, EVERYONE, window(hours=3), container_key="h1:cha") == []
    assert names(fleet, ACME, window(hours=3), container_key="h1:batch") == []


def test_an_answer_that_is_cut_says_of_how_many(fleet: Store):
    def told(scope: Scope = EVERYONE, **more: object) -> list[str]:
        gaps = gpu_jobs(fleet, scope, window(hours=3), **more).gaps  # type: ignore[arg-type]
        return [gap.detail for gap in gaps if gap.subject == "ledger"]

    words = "only the newest 2 of 3 jobs are read; choose a shorter range, a host or a search text"
    assert told(limit=2) == [words]
    assert told(limit=3) == told() == told(limit=1, text="chat") == []
    # One of a tenant's one job is all of it: what others have is not counted.
    assert told(ACME, limit=1) == []
    assert gpu_jobs(fleet, EVERYONE, window(hours=3), limit=2).gaps[0].subject == "ledger"  # before all others


@pytest.fixture
def damaged() -> Iterator[Store]:
    with embedded_store() as store:
        store.append(Batch(token="ledger", rows=tuple(ledger())))
        yield store


def test_a_planted_edit_is_shown_with_its_place(damaged: Store):
    damaged.command("ALTER TABLE gpu_jobs UPDATE user = 'mallory' WHERE sequence = 2 SETTINGS mutations_sync = 2")
    (row,) = ledger_state(damaged, EVERYONE, window(hours=1)).rows.to_pylist()
    assert (row["findings"], row["first_bad"]) == (1, 2)
    assert row["what"] == "was edited: its content does not give its hash"
    verified = {
        row["workload"]: row["verified"] for row in gpu_jobs(damaged, EVERYONE, window(hours=3)).rows.to_pylist()
    }
    assert verified == {"batch": False, "chat": True, "notebook": True}
    # Entry 2 is globex's. It learns that one of its entries was edited, not how many entries of others lie before it.
    (own,) = ledger_state(damaged, Scope(tenants=frozenset({"globex"})), window(hours=1)).rows.to_pylist()
    assert (own["findings"], own["first_bad"], own["verified_from"]) == (1, None, None)
    assert own["what"] == "was edited: its content does not give its hash"


def test_of_a_long_chain_its_last_entries_are_verified(damaged: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("queries.jobs.VERIFIED_AT_MOST", 2)
    (row,) = ledger_state(damaged, EVERYONE, window(hours=1)).rows.to_pylist()
    assert (row["verified_from"], row["findings"], row["head_sequence"]) == (4, 0, 5)
