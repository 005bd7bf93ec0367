"""An exported period verifies by itself, shows nobody what is not theirs, and betrays every change."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.__main__ import main
from fleet.gpu_jobs import EMPTY, PRUNED_HASH, PRUNED_SEQUENCE, Head, Stub, head_of, seal
from fleet.job_evidence import ExportError, read_lines, verify_file, verify_files
from fleet.job_export import DataFormat, Export, export_files
from fleet.model import GpuJob, Window

T = datetime(2026, 11, 20, 0, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def entry(kind: str, job: str, tenant: str, hour: float, **changes: object) -> GpuJob:
    values: dict[str, object] = {
        "at": T + hour * HOUR, "chain": "h1", "sequence": 0, "entry": kind, "job_id": job, "host": "h1",
        "tenant": tenant, "team": f"team-{tenant}", "container_name": f"{job}-name", "container_id": f"id-{job}",
        "gpu_uuids": ("GPU-1", "GPU-2"), "gpu_names": ("H100", "H100"), "gpu_count": 2.0, "started_at": T + hour * HOUR,
        "sources": {"tenant": "mapping file"},
    }  # fmt: skip
    return GpuJob(**(values | changes))  # type: ignore[arg-type]


def ledger() -> list[GpuJob]:
    """One chain: `old` ends before the period of hours 10 to 20, `chat` runs into it, `batch` inside it, `next` after.

    From hour 12 to 13 nobody looked.
    """
    rows = [
        entry("open", "old", "acme", 1),
        entry("open", "chat", "acme", 2),
        entry("close", "old", "acme", 3, started_at=T + HOUR, ended_at=T + 3 * HOUR),
        entry("open", "batch", "globex", 11),
        entry("gap", "", "", 13, started_at=T + 12 * HOUR, ended_at=T + 13 * HOUR, container_name="", gpu_uuids=()),
        entry("close", "batch", "globex", 15, started_at=T + 11 * HOUR, ended_at=T + 15 * HOUR, exit_code=-9),
        entry("open", "next", "acme", 30),
    ]
    return chained(rows)


def chained(rows: list[GpuJob], after: Head = EMPTY) -> list[GpuJob]:
    sealed: list[GpuJob] = []
    for row in rows:
        sealed.append(seal(row, after))
        after = head_of(sealed[-1])
    return sealed


def asked(data_format: DataFormat = "json", tenants: frozenset[str] | None = None, **hours: float) -> Export:
    start, end = hours.get("start", 10), hours.get("end", 20)
    period = Window(start=T + start * HOUR, end=T + end * HOUR)
    return Export(
        period=period, data_format=data_format, generated_at=T + 48 * HOUR, version="1.2.3", tenants=tenants
    )  # fmt: skip


def shown(files: dict[str, bytes]) -> list[str | None]:
    """Job of each line of an export; None for a withheld one."""
    name = next(name for name in files if name.startswith("entries."))
    return [None if isinstance(line, Stub) else line.job_id for line in read_lines(name, files[name])]  # type: ignore[union-attr]


@pytest.mark.parametrize("data_format", ["csv", "json"])
def test_a_period_is_there_from_its_first_job_to_the_head_of_the_chain(data_format: DataFormat):
    files = export_files(ledger(), asked(data_format))
    assert sorted(files) == sorted([f"entries.{data_format}", f"jobs.{data_format}", "canonical.tsv", "manifest.json"])
    # Entry 2 (chat runs on) to 7 (the head); entry 3 (old) and 7 (next) have nothing to do with the period.
    assert shown(files) == ["chat", None, "batch", "", "batch", None]
    found = verify_files(files)
    assert found.all_findings == ()
    assert [(c.chain, c.first, c.last.sequence if c.last else 0, c.withheld) for c in found.chains] == [("h1", 2, 7, 2)]


def test_jobs_are_told_with_the_part_that_lies_in_the_period():
    jobs = json.loads(export_files(ledger(), asked())["jobs.json"])["jobs"]
    batch, chat = jobs
    assert (batch["job_id"], batch["state"], batch["duration_seconds"], batch["gpu_hours"]) == (
        "batch", "ended", 14400.0, 8.0,
    )  # fmt: skip
    # chat runs since hour 2 and was exported at hour 48: 46 h on two GPUs, 10 h of them in the period.
    assert (chat["state"], chat["ended_at"], chat["gpu_hours"], chat["gpu_hours_in_period"]) == (
        "running", None, 92.0, 20.0,
    )  # fmt: skip


def test_the_manifest_names_period_chains_and_files():
    files = export_files(ledger(), asked("csv"))
    manifest = json.loads(files["manifest.json"])
    rows = ledger()
    assert manifest["period"] == {"from": "2026-11-20T10:00:00.000Z", "to": "2026-11-20T20:00:00.000Z"}
    assert (manifest["version"], manifest["tenants"], manifest["jobs"], manifest["gaps"]) == ("1.2.3", None, 2, 1)
    assert manifest["chains"][0]["before"] == {"sequence": 1, "hash": rows[0].hash}
    assert manifest["chains"][0]["head"] == {"sequence": 7, "hash": rows[6].hash}
    assert {item["name"]: item["sha256"] for item in manifest["files"]} == {
        name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != "manifest.json"
    }


@pytest.mark.parametrize("data_format", ["csv", "json"])
def test_a_tenants_export_tells_nothing_of_another_and_still_verifies(data_format: DataFormat):
    files = export_files(ledger(), asked(data_format, frozenset({"globex"})))
    assert shown(files) == ["batch", "", "batch", None]
    assert verify_files(files).all_findings == ()
    everything = b"".join(files.values())
    assert b"acme" not in everything
    assert b"chat" not in everything
    assert verify_files(export_files(ledger(), asked(data_format, frozenset({"nobody"})))).chains == ()


def test_a_machine_without_jobs_of_the_tenant_is_not_named():
    other = chained([replace(entry("open", "x", "acme", 11), chain="secret", host="secret")])
    files = export_files([*ledger(), *other], asked(tenants=frozenset({"globex"})))
    assert b"secret" not in b"".join(files.values())
    assert len(verify_files(export_files([*ledger(), *other], asked())).chains) == 2


def test_a_quiet_period_still_shows_the_head():
    files = export_files(ledger()[:1], asked(start=-5, end=-4))
    assert shown(files) == [None]
    assert verify_files(files).all_findings == ()


def test_times_finer_than_the_manifest_writes_them_change_nothing():
    fine = timedelta(microseconds=123456)
    export = replace(
        asked(), generated_at=T + 48 * HOUR + fine, period=Window(start=T + 10 * HOUR + fine, end=T + 20 * HOUR + fine)
    )
    assert verify_files(export_files(ledger(), export)).all_findings == ()


def test_what_was_forgotten_before_the_export_is_no_finding():
    rows = ledger()
    note = entry("pruned", "", "", 40, sources={PRUNED_SEQUENCE: "1", PRUNED_HASH: rows[0].hash})
    rows = [*rows, *chained([note], head_of(rows[-1]))][1:]
    assert verify_files(export_files(rows, asked())).all_findings == ()


def test_a_spreadsheet_runs_no_cell_and_reading_back_is_exact():
    names = ["=1+1", "+1", "-1", "@x", "\tx", "'quoted", "''", "plain", "a,b", 'say "x"', "two\nlines"]
    rows = chained([entry("open", f"j{n}", "acme", 11, container_name=name) for n, name in enumerate(names)])
    files = export_files(rows, asked("csv"))
    cells = {row["job_id"]: row["container_name"] for row in csv.DictReader(io.StringIO(files["jobs.csv"].decode()))}
    assert all(not cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells.values())
    assert [line.container_name for line in read_lines("entries.csv", files["entries.csv"])] == names  # type: ignore[union-attr]
    assert verify_files(files).all_findings == ()


def _edit(data: bytes, change: Callable[[Any], None]) -> bytes:
    document = json.loads(data)
    change(document)
    return json.dumps(document).encode()


def test_a_planted_edit_is_named_also_when_the_manifest_was_made_to_fit():
    files = export_files(ledger(), asked())

    def edit(document: Any) -> None:
        document["entries"][2]["gpu_count"] = 1.0

    files["entries.json"] = _edit(files["entries.json"], edit)

    def fit(manifest: Any) -> None:
        manifest["files"][0]["sha256"] = hashlib.sha256(files["entries.json"]).hexdigest()

    files["manifest.json"] = _edit(files["manifest.json"], fit)
    found = verify_files(files).all_findings
    assert (found[0].sequence, found[0].what) == (4, "was edited: its content does not give its hash")


def test_an_edit_in_the_readable_table_is_found_though_no_entry_was_touched():
    files = export_files(ledger(), asked("csv"))
    files["jobs.csv"] = files["jobs.csv"].replace(b"team-globex", b"team-acme")
    assert [found.what for found in verify_files(files).all_findings] == [
        "jobs.csv was changed: its SHA-256 is not the one in the manifest",
        "jobs.csv does not follow from the entries: it was changed",
    ]


def test_a_withheld_entry_cannot_carry_cells_that_no_hash_covers():
    files = export_files(ledger(), asked("csv"))
    lines = files["entries.csv"].decode().split("\n")
    rows = list(csv.reader(lines[:-1]))
    place = rows[0].index("tenant")
    rows[2][place] = "globex"  # the second line is withheld
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows(rows)
    files["entries.csv"] = out.getvalue().encode()
    assert "'tenant' does not belong into a withheld entry" in verify_files(files).all_findings[0].what


def test_removed_entries_files_and_manifests_are_found():
    files = export_files(ledger(), asked())

    def cut(document: Any) -> None:
        document["entries"].pop()

    shorter = {**files, "entries.json": _edit(files["entries.json"], cut)}
    assert verify_files(shorter).all_findings[0].what.startswith("entry 7 at the end: removed")
    without = {name: data for name, data in files.items() if name != "jobs.json"}
    assert verify_files(without).all_findings[0].what == "jobs.json is missing, the manifest names it"

    def empty(document: Any) -> None:
        document["entries"].clear()

    none = {**files, "entries.json": _edit(files["entries.json"], empty)}
    assert "not one entry of this chain" in verify_files(none).all_findings[0].what
    with pytest.raises(ExportError, match=r"manifest\.json is missing"):
        verify_files({"entries.json": files["entries.json"]})


def test_a_whole_other_ledger_is_found_by_a_hash_that_was_written_down():
    rows = ledger()
    files = export_files(rows, asked())
    assert verify_files(files, heads=[rows[4].hash]).all_findings == ()
    forged = chained([replace(row, tenant="acme") for row in rows])
    found = verify_files(export_files(forged, asked()), heads=[rows[4].hash]).all_findings
    assert "this is another ledger" in found[0].what


@settings(max_examples=120, deadline=None)
@given(data=st.data(), data_format=st.sampled_from(["csv", "json"]))
def test_any_changed_byte_of_any_file_is_found(data: st.DataObject, data_format: DataFormat):
    files = export_files(ledger(), asked(data_format))
    name = data.draw(st.sampled_from(sorted(set(files) - {"manifest.json"})))
    place = data.draw(st.integers(0, len(files[name]) - 1))
    byte = data.draw(st.integers(32, 126).filter(lambda value: value != files[name][place]))
    changed = files[name][:place] + bytes([byte]) + files[name][place + 1 :]
    with contextlib.suppress(ExportError):  # so broken that it is no export any more: exit status 2
        assert verify_files({**files, name: changed}).all_findings


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def test_the_command_says_ok_and_names_the_first_bad_entry(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = ledger()
    folder = written(tmp_path, export_files(rows, asked()))
    assert main(["jobs", "verify", str(folder)]) == 0
    assert capsys.readouterr().out == (
        f"ok      chain h1: entries 2 to 7, 2 of them withheld, head {rows[6].hash}\n"
    )  # fmt: skip
    file = folder / "entries.json"
    file.write_text(file.read_text().replace('"exit_code": -9', '"exit_code": 0'))
    assert main(["jobs", "verify", str(folder)]) == 1
    assert "entry 6: was edited: its content does not give its hash" in capsys.readouterr().out
    assert main(["jobs", "verify", "--json", str(file)]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["chains"][0]["findings"][0]["sequence"] == 6
    assert not document["fine"]


def test_the_command_says_in_one_line_what_it_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for words in (
        ["jobs", "verify", str(tmp_path / "nothing")],
        ["jobs", "verify", str(tmp_path / "empty")],
        ["jobs", "verify", str(tmp_path / "note.txt")],
        ["jobs", "verify", str(tmp_path / "bytes")],
        ["jobs", "verify", str(tmp_path), "--head", "xyz"],
        ["nothing"],
        [],
    ):
        assert main(words) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err
    with pytest.raises(SystemExit, match="2"):
        main(["jobs", "verify"])
    assert main(["--help"]) == 0


def test_one_entries_file_can_be_verified_but_not_its_ends():
    rows = ledger()
    files = export_files(rows, asked("csv"))
    assert verify_file("entries.csv", files["entries.csv"]).all_findings == ()


def test_sha256sum_alone_verifies_the_canonical_file(tmp_path: Path):
    """The script of docs/ledger.md, as it stands there."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "ledger.md").read_text()
    script = page.partition("```sh\n")[2].partition("```")[0]
    folder = written(tmp_path, export_files(ledger(), asked()))

    def run() -> str:
        done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout

    assert run().split() == ["7", ledger()[6].hash]
    good = (folder / "canonical.tsv").read_text()
    (folder / "canonical.tsv").write_text(good.replace("team-globex", "team-acme", 1))
    assert run().startswith("BAD entry 4")
    (folder / "canonical.tsv").write_text("".join(line for line in good.splitlines(keepends=True) if "gap" not in line))
    assert run().startswith("BAD entry 6")
