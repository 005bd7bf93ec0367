"""Container numbers from cgroup files: v1, v2, hybrid, both drivers, and the readings that cannot be taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from collectors.cgroups import Cgroups, ContainerGoneError, Counters, read_counters, working_set

ID = "ab" * 32
V1 = {
    "cpuacct": {"cpuacct.usage": "140784249\n"},
    "cpu": {"cpu.stat": "nr_periods 27\nnr_throttled 3\nthrottled_time 115209856\nnr_bursts 0\n"},
    "memory": {
        "memory.usage_in_bytes": "5988352\n",
        "memory.stat": "cache 1\ninactive_file 7\nhierarchical_memory_limit 67108864\ntotal_cache 5246976\n"
        "total_inactive_file 5242880\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    },
    "pids": {"pids.current": "2\n"},
    "blkio": {
        "blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Write 100\n8:0 Total 4196\n"
        "8:16 Read 4\n8:16 Write 3\nTotal 4203\n"
    },
}
V2 = {
    "cpu.stat": "usage_usec 140784\nuser_usec 1\nsystem_usec 2\nnr_periods 27\nnr_throttled 3\nthrottled_usec 115209\n",
    "memory.current": "5988352\n",
    "memory.stat": "anon 745472\nfile 5246976\ninactive_anon 1\ninactive_file 5242880\nactive_file 4096\n",
    "memory.max": "67108864\n",
    "memory.events": "low 0\nhigh 0\nmax 9\noom 2\noom_kill 2\noom_group_kill 0\n",
    "pids.current": "2\n",
    "io.stat": "8:0 rbytes=4096 wbytes=100 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=4 wbytes=3\n253:0\n",
}
NET = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes  packets errs drop fifo colls carrier compressed
    lo:    5000      10    0    0    0     0          0         0   5000      10    0    0    0     0       0          0
  eth0:     200       2    0    0    0     0          0         0     70       1    0    0    0     0       0          0
eth1:1000 2 0 0 0 0 0 0 30 1 0 0 0 0 0 0
"""


def write(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def process(proc: Path, pid: int, cgroup: str) -> None:
    write(proc / str(pid), {"cgroup": cgroup})
    write(proc / str(pid) / "net", {"dev": NET})


def v2_tree(root: Path, path: str) -> None:
    write(root, {"cgroup.controllers": "cpu io memory pids\n"})
    write(root / path, V2)


def v1_tree(root: Path, path: str, joint: bool = False) -> None:
    for controller, files in V1.items():
        folder = "cpu,cpuacct" if joint and controller.startswith("cpu") else controller
        write(root / folder / path, files)


EXPECTED = Counters(
    cpu_periods=27,
    cpu_throttled_periods=3,
    memory_working_set_bytes=5988352 - 5242880,
    memory_cache_bytes=5246976,
    memory_limit_bytes=64 << 20,
    network_receive_bytes=1200,
    network_transmit_bytes=100,
    block_read_bytes=4100,
    block_write_bytes=103,
    pids=2,
    oom_kills=2,
)


def check(cgroups: Cgroups, *, v2: bool, parent: str = "") -> None:
    files = cgroups.locate(ID, 42, cgroup_parent=parent)
    assert files is not None
    counters = read_counters(files)
    assert counters.cpu_seconds == pytest.approx(0.140784 if v2 else 0.140784249)
    assert counters.cpu_throttled_seconds == pytest.approx(0.115209 if v2 else 0.115209856)
    counters.cpu_seconds = counters.cpu_throttled_seconds = None
    assert counters == EXPECTED


@pytest.mark.parametrize(
    ("path", "parent"),
    [
        (f"system.slice/docker-{ID}.scope", ""),
        (f"docker/{ID}", ""),
        (f"foo/bar/{ID}", "/foo/bar"),
        (f"user.slice/user-1000.slice/user@1000.service/user.slice/docker-{ID}.scope", ""),
    ],
    ids=["systemd", "cgroupfs", "custom parent", "rootless"],
)
def test_v2_is_read_wherever_the_process_says_it_is(tmp_path: Path, path: str, parent: str) -> None:
    v2_tree(tmp_path / "cg", path)
    process(tmp_path / "proc", 42, f"0::/{path}\n")
    check(Cgroups(tmp_path / "cg", tmp_path / "proc"), v2=True, parent=parent)


def test_a_container_that_runs_systemd_is_read_as_a_whole(tmp_path: Path) -> None:
    v2_tree(tmp_path / "cg", f"system.slice/docker-{ID}.scope")
    process(tmp_path / "proc", 42, f"0::/system.slice/docker-{ID}.scope/init.scope\n")
    check(Cgroups(tmp_path / "cg", tmp_path / "proc"), v2=True)


def test_a_reader_in_a_private_cgroup_namespace_finds_the_usual_places(tmp_path: Path) -> None:
    v2_tree(tmp_path / "cg", f"system.slice/docker-{ID}.scope")
    process(tmp_path / "proc", 42, f"0::/../docker-{ID}.scope\n")
    check(Cgroups(tmp_path / "cg", tmp_path / "proc"), v2=True)


@pytest.mark.parametrize("joint", [False, True], ids=["separate mounts", "cpu,cpuacct"])
@pytest.mark.parametrize("path", [f"docker/{ID}", f"system.slice/docker-{ID}.scope"], ids=["cgroupfs", "systemd"])
def test_v1_is_read_from_each_controllers_hierarchy(tmp_path: Path, path: str, joint: bool) -> None:
    v1_tree(tmp_path / "cg", path, joint)
    cpu = f"2:cpu,cpuacct:/{path}\n" if joint else f"2:cpuacct:/{path}\n1:cpu:/{path}\n"
    process(tmp_path / "proc", 42, f"9:name=systemd:/{path}\n8:pids:/{path}\n7:blkio:/{path}\n4:memory:/{path}\n{cpu}")
    check(Cgroups(tmp_path / "cg", tmp_path / "proc"), v2=False)


def test_a_hybrid_host_is_read_through_v1_where_v1_has_the_controller(tmp_path: Path) -> None:
    v1_tree(tmp_path / "cg", f"docker/{ID}")
    write(tmp_path / "cg/unified", {"cgroup.controllers": ""})
    write(tmp_path / "cg/unified" / f"docker/{ID}", {"cpu.stat": "usage_usec 1\n"})
    lines = "".join(f"{n}:{c}:/docker/{ID}\n" for n, c in enumerate(("cpu", "cpuacct", "memory", "pids", "blkio")))
    process(tmp_path / "proc", 42, lines + f"0::/docker/{ID}\n")
    check(Cgroups(tmp_path / "cg", tmp_path / "proc"), v2=False)


def test_no_limit_is_none_not_a_huge_number(tmp_path: Path) -> None:
    v2_tree(tmp_path / "v2", f"docker/{ID}")
    (tmp_path / "v2/docker" / ID / "memory.max").write_text("max\n")
    v1_tree(tmp_path / "v1", f"docker/{ID}")
    stat = tmp_path / "v1/memory/docker" / ID / "memory.stat"
    stat.write_text(stat.read_text().replace("67108864", "9223372036854771712"))
    for root in ("v1", "v2"):
        files = Cgroups(tmp_path / root, tmp_path / "proc").locate(ID, 0)
        assert files is not None
        assert read_counters(files).memory_limit_bytes is None


def test_a_pid_that_now_belongs_to_somebody_else_is_not_read(tmp_path: Path) -> None:
    v2_tree(tmp_path / "cg", f"system.slice/docker-{'cd' * 32}.scope")
    process(tmp_path / "proc", 42, f"0::/system.slice/docker-{'cd' * 32}.scope\n")
    assert Cgroups(tmp_path / "cg", tmp_path / "proc").locate(ID, 42) is None


def test_without_the_hosts_processes_everything_but_the_network_is_known(tmp_path: Path) -> None:
    v2_tree(tmp_path / "cg", f"system.slice/docker-{ID}.scope")
    files = Cgroups(tmp_path / "cg", tmp_path / "proc").locate(ID, 42)
    assert files is not None
    counters = read_counters(files)
    assert counters.cpu_seconds is not None
    assert counters.network_receive_bytes is None
    assert "--pid=host" in counters.unknown
    assert not files.host_pid


@pytest.mark.parametrize(("mode", "word"), [("host", "host's"), ("container:abc", "another container")])
def test_a_borrowed_network_is_unknown_not_somebody_elses_traffic(tmp_path: Path, mode: str, word: str) -> None:
    v2_tree(tmp_path / "cg", f"docker/{ID}")
    process(tmp_path / "proc", 42, f"0::/docker/{ID}\n")
    files = Cgroups(tmp_path / "cg", tmp_path / "proc").locate(ID, 42, network_mode=mode)
    assert files is not None
    counters = read_counters(files)
    assert counters.network_receive_bytes is None
    assert counters.network_transmit_bytes is None
    assert word in counters.unknown


def test_a_container_that_ended_is_gone(tmp_path: Path) -> None:
    v2_tree(tmp_path / "cg", f"docker/{ID}")
    cgroups = Cgroups(tmp_path / "cg", tmp_path / "proc")
    files = cgroups.locate(ID, 0)
    assert files is not None
    for file in (tmp_path / "cg/docker" / ID).iterdir():
        file.unlink()
    (tmp_path / "cg/docker" / ID).rmdir()
    with pytest.raises(ContainerGoneError):
        read_counters(files)
    assert cgroups.locate(ID, 0) is None


def test_a_missing_controller_leaves_its_numbers_unknown_and_says_so(tmp_path: Path) -> None:
    v2_tree(tmp_path / "cg", f"docker/{ID}")
    (tmp_path / "cg/docker" / ID / "io.stat").unlink()
    files = Cgroups(tmp_path / "cg", tmp_path / "proc").locate(ID, 0, network_mode="host")
    assert files is not None
    counters = read_counters(files)
    assert counters.block_read_bytes is None
    assert counters.memory_working_set_bytes is not None
    assert "block I/O" in counters.unknown


def test_a_garbled_file_is_unknown_not_a_crash(tmp_path: Path) -> None:
    v2_tree(tmp_path / "cg", f"docker/{ID}")
    (tmp_path / "cg/docker" / ID / "cpu.stat").write_bytes(b"\xff\xfe not numbers\nusage_usec x\n")
    (tmp_path / "cg/docker" / ID / "io.stat").write_bytes(b"8:0 rbytes=x wbytes=\n")
    files = Cgroups(tmp_path / "cg", tmp_path / "proc").locate(ID, 0, network_mode="host")
    assert files is not None
    counters = read_counters(files)
    assert counters.cpu_seconds is None
    assert counters.block_read_bytes is None
    assert counters.pids == 2


@pytest.mark.parametrize(
    ("used", "inactive", "expected"), [(100, 30, 70), (100, 0, 100), (100, 100, 100), (100, 130, 100), (100, None, 100)]
)
def test_the_working_set_is_the_docker_clis(used: int, inactive: int | None, expected: int) -> None:
    assert working_set(used, inactive) == expected


def test_nothing_is_found_where_there_are_no_cgroups(tmp_path: Path) -> None:
    assert Cgroups(tmp_path / "none", tmp_path / "none").locate(ID, 42) is None
