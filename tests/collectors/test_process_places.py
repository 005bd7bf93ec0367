from __future__ import annotations

import os
import subprocess

import pytest

from collectors.process_places import ProcessPlaces

I = "1" * 64  # noqa: E741
J = "2" * 64


@pytest.fixture
def proc(tmp_path):
    (tmp_path / "self").symlink_to(str(os.getpid()))
    return tmp_path


def process(proc, pid: int, cgroup: str, started: int = 5, name: str = "python3") -> None:
    folder = proc / str(pid)
    folder.mkdir(exist_ok=True)
    (folder / "stat").write_text(f"{pid} ({name}) S {' '.join(['1'] * 18)} {started} 9 9\n")
    (folder / "cgroup").write_text(cgroup)


def test_a_cgroup_is_read_once_per_life_of_a_process(proc):
    places = ProcessPlaces(proc)
    process(proc, 7, f"0::/docker/{I}")
    assert places.places([7], {I})[7].container_id == I
    (proc / "7" / "cgroup").write_text("0::/elsewhere")
    assert places.places([7], {I})[7].container_id == I  # same start time: still remembered
    process(proc, 7, f"0::/docker/{J}", started=6)
    assert places.places([7], {I, J})[7].container_id == J


def test_a_name_with_brackets_and_spaces_does_not_move_the_start_time(proc):
    places = ProcessPlaces(proc)
    process(proc, 7, f"0::/docker/{I}", started=5, name="a) S 1 (b")
    assert places.places([7], {I, J})[7].container_id == I
    process(proc, 7, f"0::/docker/{J}", started=5, name="a) S 1 2 3 (b")
    assert places.places([7], {I, J})[7].container_id == I
    process(proc, 7, f"0::/docker/{J}", started=6, name="a) S 1 (b")
    assert places.places([7], {I, J})[7].container_id == J


def test_a_process_whose_container_is_listed_later_gets_it_then(proc):
    places = ProcessPlaces(proc)
    process(proc, 7, f"0::/docker/{I}")
    assert places.places([7], {})[7].kind == "foreign"
    assert places.places([7], {I: None}.keys())[7].container_id == I


def test_an_mps_server_is_named(proc):
    places = ProcessPlaces(proc)
    process(proc, 7, "0::/system.slice/mps.service", name="nvidia-cuda-mps")
    process(proc, 8, f"0::/docker/{I}", name="nvidia-cuda-mps")
    found = places.places([7, 8], {I})
    assert (found[7].kind, found[7].words) == ("host", "MPS server")
    assert (found[8].container_id, found[8].words) == (I, "MPS server")


def test_windows_linux_is_known_by_its_kernel(proc):
    assert not ProcessPlaces(proc).wsl()
    (proc / "sys" / "kernel").mkdir(parents=True)
    (proc / "sys" / "kernel" / "osrelease").write_text("5.15.153.1-microsoft-standard-WSL2\n")
    assert ProcessPlaces(proc).wsl()


def test_a_pid_used_again_in_the_real_proc_is_another_inode():
    """The shortcut past the start time rests on it."""
    first = subprocess.Popen(["sleep", "60"])
    second = subprocess.Popen(["sleep", "60"])
    try:
        places = ProcessPlaces()
        places.places([first.pid, second.pid], set())
        seen = {pid: known.seen for pid, known in places._known.items()}
        places.places([first.pid, second.pid], set())
        assert {pid: known.seen for pid, known in places._known.items()} == seen
        assert seen[first.pid] != seen[second.pid]
    finally:
        for process_ in (first, second):
            process_.kill()
            process_.wait()


def test_a_process_that_ended_is_gone_and_forgotten(proc):
    places = ProcessPlaces(proc)
    process(proc, 7, f"0::/docker/{I}")
    places.places([7], {I})
    places.places([], {I})
    assert places._known == {}
    assert places.places([8], {I})[8].kind == "gone"


def test_our_own_process_is_found_in_the_real_proc():
    places = ProcessPlaces()
    assert places.places([os.getpid()], set())[os.getpid()].kind in {"host", "foreign"}
    assert places.problem({}) == ""


def test_the_check_needs_one_container_whose_process_is_where_it_says(proc):
    places = ProcessPlaces(proc)
    process(proc, 7, "0::/user.slice")
    process(proc, 8, f"0::/docker/{J}")
    assert "--pid=host" in places.problem({I: 7})
    assert places.problem({I: 7, J: 8}) == ""
    assert places.problem({I: 99}) == ""  # it died meanwhile: no evidence either way
    assert places.problem({}) == ""


def test_a_proc_of_another_namespace_is_noticed(proc):
    (proc / "self").unlink()
    (proc / "self").symlink_to("1")
    assert "--pid=host" in ProcessPlaces(proc).problem({})
    assert "cannot be read" in ProcessPlaces(proc / "nowhere").problem({})


@pytest.mark.parametrize(("namespace", "hidden"), [("pid:[4026531836]", False), ("pid:[4026532415]", True)])
def test_containers_that_are_all_missing_died_or_are_hidden_by_our_own_namespace(proc, namespace, hidden):
    own = proc / str(os.getpid()) / "ns"
    own.mkdir(parents=True)
    (own / "pid").symlink_to(namespace)
    assert bool(ProcessPlaces(proc).problem({I: 99, J: 98})) is hidden
    assert ProcessPlaces(proc).problem({}) == ""
