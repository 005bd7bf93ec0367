"""An operator takes the driver for a while: the source lets go of it, says so, and comes back by itself."""

from __future__ import annotations

import fcntl
import json
import threading
from datetime import UTC, datetime, timedelta

import pytest

from collectors.__main__ import main
from collectors.nvml_release import FILE, GpuRelease, Released
from collectors.sources.nvml import NvmlSource
from fleet.model import Event
from tests.fakes.gpu_host import HOST, T0, A, B, GpuHost, gpus
from tests.fakes.nvml_stub import NvmlStub, build, gpu


@pytest.fixture
def host(tmp_path, tmp_path_factory):
    stub = NvmlStub(tmp_path, build(tmp_path_factory.mktemp("nvml")))
    stub.write(gpu(0, A), gpu(1, B))
    made = GpuHost(tmp_path, stub)
    made.release = GpuRelease(tmp_path / FILE)
    made.source = NvmlSource(
        made.settings, made.inventory, host=HOST, release=made.release, process=made.process,
        monotonic=lambda: made.monotonic, wall=lambda: made.wall,
    )  # fmt: skip
    yield made
    made.source.close()


@pytest.mark.cc
def test_a_release_shuts_nvml_down_leaves_no_child_and_says_why(host):
    host.poll()
    child = host.process._child
    host.release.ask(host.at + timedelta(minutes=10))
    reading = host.poll()
    assert child.poll() == 0  # it ended by itself, after nvmlShutdown
    assert host.stub.count_calls()["nvmlShutdown"] == 1
    assert host.process._child is None
    assert reading.absent
    assert reading.detail == "released by the operator until 12:10 UTC"
    assert "release-gpus --end" in reading.next_step
    rows = gpus(reading.rows)
    assert {row.state for row in rows.values()} == {"released"}
    assert {row.unknown_reason for row in rows.values()} == {reading.detail}
    assert rows[A].busy_ratio is rows[A].memory_used_bytes is None
    assert [row.kind for row in reading.rows if isinstance(row, Event)] == ["gpu_released", "gpu_released"]
    assert host.release.now(host.at) == Released(until=T0 + timedelta(seconds=5, minutes=10), left_behind=0)
    # Nothing starts the library again before the time is over, and then it comes back by itself.
    host.stub.forget_calls()
    for _ in range(3):
        assert host.poll().absent
    assert not host.stub.count_calls()
    rows = host.poll(600).rows
    assert {row.state for row in gpus(rows).values()} == {"ok"}
    assert [row.kind for row in rows if isinstance(row, Event)] == ["gpu_recovered", "gpu_recovered"]


@pytest.mark.cc
def test_the_gpus_can_be_taken_back_before_the_time_is_over(host):
    host.release.ask(host.at + timedelta(hours=2))
    assert host.poll().absent
    assert host.release.end()
    assert not host.release.end()
    assert gpus(host.poll().rows)[A].state == "ok"


@pytest.mark.cc
def test_a_collector_that_starts_during_a_release_leaves_the_driver_alone(host):
    host.release.ask(host.at + timedelta(hours=2))
    assert host.poll().absent
    assert not host.stub.count_calls()


@pytest.mark.cc
def test_a_child_that_hangs_in_the_driver_is_counted(host, monkeypatch):
    host.poll()
    monkeypatch.setattr(type(host.process), "lost_children", 1)
    host.release.ask(host.at + timedelta(minutes=10))
    host.poll()
    assert host.release.now(host.at).left_behind == 1


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"until": "soon"}', '{"until": "2026-11-22T12:05:00"}', '{"until": 7}', "\xff"]
)
def test_a_damaged_request_counts_for_nothing(tmp_path, text):
    (tmp_path / FILE).write_text(text, encoding="latin-1")
    assert GpuRelease(tmp_path / FILE).now(T0) is None


def test_a_request_that_is_over_or_reaches_beyond_a_day_counts_for_nothing(tmp_path):
    release = GpuRelease(tmp_path / FILE)
    release.ask(T0)
    assert release.now(T0) is None
    release.ask(T0 + timedelta(days=2))
    assert release.now(T0) is None
    release.ask(T0 + timedelta(hours=24))
    assert release.now(T0).left_behind is None


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("AIFLEET_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_a_collector_the_request_waits_for_the_next_one(data_dir, capsys):
    assert main(["release-gpus", "--for", "2h"]) == 0
    assert "no collector runs" in capsys.readouterr().out
    until = GpuRelease(data_dir / FILE).now(datetime.now(UTC)).until
    assert timedelta(minutes=119) < until - datetime.now(UTC) <= timedelta(hours=2)
    assert main(["release-gpus", "--end", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["words"] == "the GPUs are read again from the next poll on"
    assert main(["release-gpus", "--end"]) == 0
    assert "were not released" in capsys.readouterr().out


def hold(folder, answer):
    """A collector that owns the folder and lets go of its GPUs, with `answer` processes left behind."""
    lock = (folder / "collector.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    release = GpuRelease(folder / FILE)
    stop = threading.Event()

    def run():
        while not stop.wait(0.05):
            if (found := release.now(datetime.now(UTC))) and found.left_behind is None:
                release.confirm(found, answer)

    thread = threading.Thread(target=run)
    thread.start()
    return lock, stop, thread


@pytest.mark.parametrize(("left", "status", "words"), [(0, 0, "holds nothing of the driver"), (2, 1, "2 processes")])
def test_the_command_waits_for_the_collectors_word(data_dir, capsys, left, status, words):
    lock, stop, thread = hold(data_dir, left)
    try:
        assert main(["release-gpus"]) == status
        assert words in capsys.readouterr().out
    finally:
        stop.set()
        thread.join()
        lock.close()


def test_a_data_folder_that_cannot_be_written_to_is_one_line(data_dir, capsys, monkeypatch):
    monkeypatch.setenv("AIFLEET_DATA_DIR", str(data_dir / "nowhere"))
    assert main(["release-gpus"]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["10", "m", "0m", "25h", "-5m", "1.5h"])
def test_a_period_that_is_none_is_refused(data_dir, capsys, text):
    with pytest.raises(SystemExit) as caught:
        main(["release-gpus", f"--for={text}"])
    assert caught.value.code == 2
    assert "such as 30s" in capsys.readouterr().err
