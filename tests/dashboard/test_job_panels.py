"""Words, filters and exports of the ledger's page."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta

from dashboard import job_panels

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)


def job(**more):
    values = {
        "job_id": "j1", "tenant": "acme", "team": "", "user": "=cmd()", "workload": "train", "container_key": "h:x",
        "container_name": "x", "image_digest": "sha256:abcdef0123456789", "gpu_names": ["NVIDIA H100 80GB HBM3"] * 2,
        "gpu_uuids": ["GPU-1", "GPU-2"], "gpu_count": 2.0, "host": "h", "started_at": NOW - timedelta(hours=2),
        "ended_at": NOW, "duration_seconds": 7200.0, "gpu_hours": 4.0, "gpu_hours_in_window": 2.0,
        "energy_joules": 7.2e6, "exit_code": 0, "end_reason": "", "verified": True,
        "sources": "ended_at: docker event\nuser: label (user)",
    }  # fmt: skip
    return {**values, **more}


def test_a_job_says_how_it_ended_and_that_an_end_was_not_seen():
    told = [job_panels.state_of(one)[1] for one in (
        job(), job(ended_at=None, exit_code=None), job(exit_code=137),
        job(exit_code=None, end_reason="not seen since the collector was down"), job(exit_code=None),
    )]  # fmt: skip
    assert told == ["ended", "running", "exit 137", "end not seen", "ended"]


def test_the_state_filter_tells_jobs_apart():
    jobs = [job(), job(ended_at=None, exit_code=None), job(exit_code=1), job(exit_code=None)]
    counts = {state: len(job_panels.chosen(jobs, state)) for state in job_panels.STATES}
    assert counts == {"any state": 4, "running": 1, "ended": 3, "failed": 1, "end not seen": 1}


def test_gpus_of_a_job_are_counted_by_model_and_a_slice_by_its_share():
    assert job_panels.gpu_words(["NVIDIA H100 80GB HBM3"] * 2, 2.0) == "2 x H100"
    assert job_panels.gpu_words(["NVIDIA H100 80GB HBM3"], 1 / 7) == "0.14 H100"
    assert job_panels.gpu_words(["NVIDIA H100", "NVIDIA L40S"], 2.0) == "1 x H100 + 1 x L40S"


def test_an_edited_entry_is_called_out_in_its_row_and_facts_keep_their_source():
    assert job_panels.source_words(job()) == "ended_at: docker event · user: label (user)"
    assert job_panels.source_words(job(verified=False)).startswith("✖ EDITED")


def test_energy_is_a_dash_when_nobody_knows_it_and_empty_while_the_job_runs():
    assert job_panels.energy_words(job()) == "2 kWh"
    assert job_panels.energy_words(job(energy_joules=None)) == "–"
    assert job_panels.energy_words(job(energy_joules=None, ended_at=None)) == ""


def test_the_headline_says_at_once_when_a_chain_is_broken():
    whole = {"findings": 0}
    assert "entries intact" in job_panels.sentence([job()], [whole])
    assert "the ledger is broken" in job_panels.sentence([job()], [whole, {"findings": 1}])
    assert "no ledger yet" in job_panels.sentence([], [])


def test_exports_hold_every_fact_and_run_nothing_in_a_spreadsheet():
    row = next(csv.DictReader(io.StringIO(job_panels.as_csv([job(ended_at=None)]).decode())))
    assert row["user"] == "'=cmd()"
    assert row["gpu_uuids"] == "GPU-1 GPU-2"
    assert row["started_at"] == "2026-11-22T07:00:00+00:00"
    assert row["ended_at"] == ""
    read = json.loads(job_panels.as_json([job()]))
    assert read[0]["gpu_uuids"] == ["GPU-1", "GPU-2"]
    assert job_panels.as_csv([]).decode().strip() == "job_id"
