"""Published recordings and known troubles of drivers through the whole path, and what a poll costs in driver calls.

pytest tests/collectors/test_nvml_scenarios.py -s -k table      # prints case, expected, got
python -m tests.fakes.nvml_table [NAME ...]                     # the same without pytest
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import time

import pytest

from fleet.inventory import GpuRequest
from fleet.model import Event
from tests.fakes.gpu_host import A, B, GpuHost, facts, gpus
from tests.fakes.nvml_cases import CASES, RECORDINGS
from tests.fakes.nvml_stub import NvmlStub, build, device, gpu
from tests.fakes.nvml_table import Libraries, head, render
from tests.fakes.nvml_world import SCENARIOS, run

pytestmark = pytest.mark.cc
ALL = GpuRequest(kind="all", text="--gpus all")
NAMES = [case.name for case in CASES]


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """The table rows of a case; each is played once, whoever asks."""
    libraries = Libraries(tmp_path_factory.mktemp("drivers"))

    @functools.cache
    def play(name):
        case = CASES[NAMES.index(name)]
        return case, run(case, tmp_path_factory.mktemp(case.name), libraries.without(case.omit))

    return play


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return build(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def make_host(tmp_path, library):
    hosts = []

    def make(*lines, **settings):
        stub = NvmlStub(tmp_path, library)
        stub.write(*lines)
        hosts.append(GpuHost(tmp_path, stub, **settings))
        return hosts[-1]

    yield make
    for host in hosts:
        if host.process._child:
            host.process._child.kill()
        host.source.close()


# --- scenarios -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_scenario_comes_out_as_worked_out_by_hand(played, name):
    case, lines = played(name)
    wrong = [line for line in lines if not line.ok]
    assert not wrong, "\n" + render(case, wrong, 160)


def test_the_scenario_table_prints_and_every_row_agrees(played):
    print("\n" + head(160))
    for name in NAMES:
        print(render(*played(name), 160))
    rows = [line for name in NAMES for line in played(name)[1]]
    print(f"{len(rows)} rows, {sum(not line.ok for line in rows)} wrong")
    assert all(line.ok for line in rows)


def test_every_scenario_has_a_case_and_every_recording_its_source():
    files = {path.stem: path.read_text(encoding="utf-8") for path in SCENARIOS.glob("*.scenario")}
    assert sorted(files) == sorted(NAMES)
    for case in RECORDINGS:
        comment = [line for line in files[case.name].splitlines() if line.startswith("#")]
        assert any(line.startswith("# Source: ") for line in comment), case.name


# --- what a poll costs in driver calls -------------------------------------------------------------------------------

EVERY_POLL = {
    "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetTemperature",
    "nvmlDeviceGetClockInfo", "nvmlDeviceGetCurrentClocksEventReasons", "nvmlGpmSampleGet",
}  # fmt: skip
LISTS = {
    "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v3",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3", "nvmlDeviceGetProcessUtilization",
    "nvmlDeviceGetProcessesUtilizationInfo",
}  # fmt: skip
HEALTH = {
    "nvmlDeviceGetTotalEccErrors", "nvmlDeviceGetRemappedRows", "nvmlDeviceGetRetiredPages",
    "nvmlDeviceGetRetiredPagesPendingStatus", "nvmlDeviceGetPcieReplayCounter",
}  # fmt: skip
FACTS = {
    "nvmlDeviceGetName", "nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetMinorNumber", "nvmlDeviceGetSerial",
    "nvmlDeviceGetAttributes_v2", "nvmlDeviceGetMaxPcieLinkGeneration", "nvmlDeviceGetVbiosVersion",
    "nvmlGpmQueryDeviceSupport", "nvmlDeviceRegisterEvents", "nvmlInitWithFlags", "nvmlEventSetCreate",
}  # fmt: skip


def test_two_minutes_of_polling_keep_to_the_budget_of_driver_calls(make_host):
    busy = {"proc": ["11 400"], "sample": ["11 5 10"], "gpm_support": 1, "gpm_2": 5, "encoder": 0, "decoder": 0}
    host = make_host(gpu(0, A, **busy), gpu(1, B, **busy))
    host.publish(facts("a", 11, ALL))
    host.poll(2)
    first = host.stub.count_calls()
    host.stub.forget_calls()
    for _ in range(60):
        host.poll(2)
    calls = host.stub.count_calls()
    print("\n" + _budget(first, calls, gpus=2, polls=60))
    # Two GPUs, 60 polls in 120 s.
    for name, count in calls.items():
        if name in EVERY_POLL:
            assert count <= 2 * 60 * (2 if name == "nvmlDeviceGetClockInfo" else 1), name
        elif name in LISTS:
            # The binding asks twice, for the size and for the list; at most one list in 5 s.
            assert count <= 2 * 2 * 120 / 5, name
        elif name in HEALTH:
            # Corrected and uncorrected errors, and retired pages for two causes, each asked for its size first.
            assert count <= 2 * 2 * (2 if name == "nvmlDeviceGetTotalEccErrors" else 4), name
        elif name in FACTS:
            assert count == 0, f"{name}: is asked again of a handle that is known"
    assert calls["nvmlDeviceGetUtilizationRates"] == 2 * 60
    assert calls["nvmlDeviceGetTotalEccErrors"] == 2 * 2 * 2
    assert calls["nvmlDeviceGetCount_v2"] == 2  # devices are listed anew once a minute
    assert calls["nvmlDeviceGetPcieThroughput"] == 0  # blocks 20 ms for each direction
    assert first["nvmlDeviceGetName"] == 2


def _budget(first, calls, *, gpus, polls):
    """The counts in words: a function, how often with the first poll and later per GPU and poll."""
    lines = [f"{'call':48} {'first poll':>10} {f'next {polls} polls':>14} {'per GPU and poll':>17}"]
    lines += [
        f"{name:48} {first[name]:10} {calls[name]:14} {calls[name] / gpus / polls:17.3f}"
        for name in sorted({*first, *calls}, key=lambda each: (-calls[each], each))
    ]
    return "\n".join(lines)


def test_a_released_driver_has_no_handle_open(make_host):
    host = make_host(gpu(0, A, gpm_support=1, gpm_2=5))
    for _ in range(3):
        host.poll()
        time.sleep(0.11)
    host.source.close()
    calls = host.stub.count_calls()
    assert calls["nvmlInitWithFlags"] == calls["nvmlShutdown"] == 1
    assert calls["nvmlGpmSampleGet"] == 3
    assert calls["nvmlGpmSampleAlloc"] - calls["nvmlGpmSampleFree"] <= 1  # the newest one waits for the next
    assert host.process._child is None
    # It is opened again by the next reading, which a driver upgrade may have come before.
    host.stub.write(gpu(0, A), driver="600.10")
    assert gpus(host.poll().rows)[A].state == "ok"
    host.source.close()
    calls = host.stub.count_calls()
    assert calls["nvmlInitWithFlags"] == calls["nvmlShutdown"] == 2


#: What every driver has and nothing goes without, and what is not asked once it was answered.
ESSENTIAL = {
    "nvmlInitWithFlags", "nvmlSystemGetDriverVersion", "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetUUID", "nvmlGpmSampleFree",
}  # fmt: skip


def test_no_single_call_that_is_missing_costs_more_than_its_own_numbers(make_host):
    world = gpu(
        0, A, busy=40, encoder=1, decoder=2, memory="1000 10 500", proc=["11 400"], sample=["11 5 10"], gpm_support=1,
        gpm_2=50, field_185=70000, field_138=1, field_139=1, field_197=1, field_198=1, field_230=0,
    )  # fmt: skip
    host = make_host(world)
    host.publish(facts("a", 11, ALL))
    host.poll()
    time.sleep(0.11)
    usual = _unknown(gpus(host.poll(60).rows)[A])
    asked = set(host.stub.count_calls()) - ESSENTIAL
    assert len(asked) > 25
    lost = {}
    for name in sorted(asked):
        host.process._child.kill()
        host.process._child.wait(5)
        host.stub.write(world, f"- call.{name} !13")  # what the binding makes of a symbol that the library lacks
        host.poll(60)
        time.sleep(0.11)
        row = gpus(host.poll(60).rows)[A]
        assert (row.state, row.gpu_index) == ("ok", 0), name
        lost[name] = _unknown(row) - usual
    print("\n" + "\n".join(f"{name:45} {', '.join(sorted(fields)) or '-'}" for name, fields in lost.items()))
    # Field values come with one call; of all others none has more than the pair of ECC counters or remapped rows.
    assert len(lost.pop("nvmlDeviceGetFieldValues")) == 6
    assert max(len(fields) for fields in lost.values()) == 2
    assert lost["nvmlDeviceGetMemoryInfo_v2"] == {"memory_reserved_bytes"}  # version 1 tells the rest
    assert lost["nvmlDeviceGetCurrentClocksEventReasons"] == set()  # by its name of before driver 535


def _unknown(row):
    return {field for field in type(row).__slots__ if getattr(row, field) is None}


# --- events ----------------------------------------------------------------------------------------------------------


def test_xids_typed_while_the_child_runs_arrive_once_each_with_their_gpu(make_host):
    host = make_host(gpu(0, A), gpu(1, B))
    host.poll()
    for place, number in ((1, 79), (0, 13), (1, 94)):
        host.stub.event(place, number)
    arrived = []
    end = time.monotonic() + 5
    while len(arrived) < 3 and time.monotonic() < end:
        time.sleep(0.1)
        arrived += [row for row in host.poll(0.1).rows if isinstance(row, Event)]
    assert [(row.gpu_uuid, row.attributes["xid"]) for row in arrived] == [(B, "79"), (A, "13"), (B, "94")]
    assert not [row for row in host.poll().rows if isinstance(row, Event)]


def test_an_xid_of_a_mig_instance_names_it(make_host):
    host = make_host(gpu(0, A, mig=1, busy="!3"), device("0.0", uuid="MIG-1", gi=2, ci=0, memory="10 0 1"))
    host.poll()
    host.stub.event(0, 94, instance=(2, 0))
    time.sleep(0.4)
    found = [row for row in host.poll().rows if isinstance(row, Event)]
    assert [(row.gpu_uuid, row.attributes) for row in found] == [
        (A, {"xid": "94", "gpu_instance": "2", "compute_instance": "0"})
    ]


def test_an_event_that_was_not_asked_for_does_not_arrive(make_host):
    host = make_host(gpu(0, A, event_types=0x8))
    host.poll()
    host.stub.event(0, 1, kind=0x2)
    host.stub.event(0, 31)
    time.sleep(0.4)
    assert [row.attributes for row in host.poll().rows if isinstance(row, Event)] == [{"xid": "31"}]


# --- the stub itself: what the unmodified binding reads from it ------------------------------------------------------

READ_ALL = """
import json, sys, pynvml as n
n.nvmlInit()
def tried(call):
    try:
        return call()
    except n.NVMLError as error:
        return f"!{error.value}"
h = n.nvmlDeviceGetHandleByIndex(0)
m = tried(lambda: n.nvmlDeviceGetMigDeviceHandleByIndex(h, 0))
sample = lambda row: [row.pid, row.timeStamp, row.smUtil, row.memUtil, row.encUtil, row.decUtil]
process = lambda row: [row.pid, row.usedGpuMemory, row.gpuInstanceId, row.computeInstanceId]
def fields(*ids):
    kinds = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal"}
    found = n.nvmlDeviceGetFieldValues(h, list(ids))
    return [getattr(f.value, kinds[f.valueType]) if f.nvmlReturn == 0 else f"!{f.nvmlReturn}" for f in found]
pci = n.nvmlDeviceGetPciInfo_v3(h)
print(json.dumps({
    "pci": [pci.domain, pci.bus, pci.device, pci.busId],
    "by": [n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByUUID(u)) for u in sys.argv[1:]],
    "mig": n.nvmlDeviceGetMigMode(h), "is_mig": [n.nvmlDeviceIsMigDeviceHandle(x).value for x in (h, m)],
    "attributes": n.nvmlDeviceGetAttributes_v2(m).gpuInstanceSliceCount,
    "mig_memory": n.nvmlDeviceGetMemoryInfo(m, n.nvmlMemory_v2).used,
    "mig_processes": [process(p) for p in n.nvmlDeviceGetComputeRunningProcesses_v3(m)],
    "processes": [process(p) for p in n.nvmlDeviceGetComputeRunningProcesses_v3(h)],
    "samples": [sample(s) for s in n.nvmlDeviceGetProcessUtilization(h, 10)],
    "infos": [[*sample(s), s.jpgUtil, s.ofaUtil] for s in n.nvmlDeviceGetProcessesUtilizationInfo(h, 10)],
    "none_newer": tried(lambda: n.nvmlDeviceGetProcessUtilization(h, 99)),
    "encoder": n.nvmlDeviceGetEncoderUtilization(h), "decoder": tried(lambda: n.nvmlDeviceGetDecoderUtilization(h)),
    "fields": fields(186, 82, 138, 197, 999),
    "margin": n.nvmlDeviceGetMarginTemperature(h), "retired": n.nvmlDeviceGetRetiredPages(h, 1),
    "remapped": n.nvmlDeviceGetRemappedRows(h),
    "ecc": [n.nvmlDeviceGetTotalEccErrors(h, kind, counter) for kind in (0, 1) for counter in (0, 1)],
    "refused": [tried(lambda: n.nvmlDeviceGetSerial(h)) for _ in range(3)],
    "parent": n.nvmlDeviceGetUUID(n.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(m)),
}))
n.nvmlShutdown()
try:
    n.nvmlDeviceGetName(h)
except n.NVMLError as error:
    assert error.value == 1, error
"""


def test_the_unmodified_binding_reads_every_structure_as_it_was_written(tmp_path, library):
    stub = NvmlStub(tmp_path, library)
    m = "MIG-10000000-0000-0000-0000-000000000000"
    stub.write(
        gpu(0, A, mig="1 0", pci="0001:2A:03.0", encoder="60 250000", field_186=70000, field_82="!3",
            field_138=(1 << 40) + 7, field_197=5, temperature_margin=46, retired_1=2, remapped="3 1 1 0",
            ecc_corrected=1, ecc_corrected_aggregate=2, ecc_uncorrected=3, ecc_uncorrected_aggregate=4, serial="165",
            proc=["11 400 2 0", "12 -1 3 0"], sample=["11 10 1 0 0 0", "12 11 2 3 4 5 6 7"]),
        device("0.0", uuid=m, gi=2, ci=0, memory="1000 0 400", attributes="60 3 3 0 3 0 3 2 40448"),
        "0 call.nvmlDeviceGetSerial !4*2",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, A, m], env=stub.environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "pci": [1, 0x2A, 3, "0001:2A:03.0"], "by": [0, 0], "mig": [1, 0], "is_mig": [0, 1], "attributes": 3,
        "mig_memory": 400, "mig_processes": [[11, 400, 2, 0]], "processes": [[11, 400, 2, 0], [12, None, 3, 0]],
        "samples": [[12, 11, 2, 3, 4, 5]], "infos": [[12, 11, 2, 3, 4, 5, 6, 7]], "none_newer": "!6",
        "encoder": [60, 250000], "decoder": "!3", "fields": [70000, "!3", (1 << 40) + 7, 5, "!3"], "margin": 46,
        "retired": [0x1000, 0x2000], "remapped": [3, 1, 1, 0], "ecc": [1, 2, 3, 4],
        "refused": ["!4", "!4", "165"], "parent": A,
    }  # fmt: skip
    assert stub.count_calls()["nvmlDeviceGetSerial"] == 3
