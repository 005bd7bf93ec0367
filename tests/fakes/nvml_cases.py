"""What must come out of every scenario, worked out by hand. Units: percent, MiB, watts, joules.

Power: what a GPU draws above its idle draw goes to containers by their part of max(sum of shares, busy); the rest,
with the idle draw, stays unattributed.
"""

from __future__ import annotations

from fleet.inventory import GpuRequest
from tests.fakes.gpu_host import container_id
from tests.fakes.nvml_world import Case

ALL = GpuRequest(kind="all", text="--gpus all")
ONE = GpuRequest(kind="count", count=1, text="--gpus 1")
NOT_ASKED = GpuRequest()
DESKTOP = "/user.slice/user-1000.slice/session-1.scope"
FOREIGN = f"/docker/{container_id('f')}"
# What driver 470 does not export, of what we call.
SINCE_470 = (
    "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetProcessesUtilizationInfo",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3", "nvmlDeviceGetMarginTemperature", "nvmlGpmQueryDeviceSupport",
    "nvmlGpmSampleAlloc", "nvmlGpmSampleGet", "nvmlGpmMigSampleGet", "nvmlGpmMetricsGet", "nvmlGpmSampleFree",
)  # fmt: skip


def _slice(position: str) -> GpuRequest:
    return GpuRequest(kind="ids", ids=(position,), text=f"--gpus device={position}")


RECORDINGS = (
    Case(
        name="h200-idle", says="H200 that one container holds and nobody uses", repeat=2,
        containers={"keeper": (ALL, ())},
        expect={
            "0": {"state": "ok", "busy": 0, "memory": 0, "reserved": 623, "total": 143771, "watts": 83.32, "limit": 700,
                  "celsius": 38, "hbm": 38, "clock": 345, "memclock": 3201, "throttle": "", "active": 0,
                  "processes": 0},
            "keeper@0": {"held": True, "memory": 0, "sm": 0, "watts": 0, "attribution": "measured"},
            "@0": {"memory": 0, "sm": 0, "watts": 83.32},
        },
    ),
    Case(
        name="h200-load", says="H200, a burner (79 %), a second user (19 %) and a third that only keeps memory",
        containers={"burn": (ALL, (12003,)), "second": (NOT_ASKED, (12001,)), "third": (NOT_ASKED, (12002,))},
        expect={
            "0": {"busy": 100, "memory": 32362, "watts": 628, "joules": 3140, "throttle": "", "processes": 3},
            # 551 W above the idle 77 W, and of 3140 J all but 5 s x 77 W.
            "burn@0": {"held": True, "memory": 28234, "sm": 79, "watts": 551 * 0.79, "joules": 2755 * 0.79,
                       "attribution": "measured"},
            "second@0": {"held": False, "memory": 2566, "sm": 19, "watts": 551 * 0.19},
            "third@0": {"held": False, "memory": 1542, "sm": 0, "watts": 0},
            "@0": {"memory": 20, "sm": 2, "watts": 628 - 551 * 0.98},
        },
    ),
    Case(
        name="h100-load", says="H100, one container with all three processes",
        containers={"burn": (ONE, (11345, 11327, 11328))},
        expect={
            "0": {"busy": 100, "memory": 19818, "reserved": 479, "watts": 625.68, "celsius": 59, "hbm": 54,
                  "clock": 1980},
            "burn@0": {"held": True, "memory": 19798, "sm": 99, "watts": (625.68 - 69.62) * 0.99},
            "@0": {"memory": 20, "sm": 1, "watts": 69.62 + (625.68 - 69.62) * 0.01},
        },
    ),
    Case(
        name="h100-mig", says="H100 MIG: one user in GPU instance 2, one holder without a process on 3", repeat=2,
        containers={"burn": (_slice("0:0"), (21180, 21181, 21198)), "keeper": (_slice("0:1"), ())},
        expect={
            "0": {"busy": None, "memory": 11125, "watts": 447.35, "celsius": 53, "processes": 3,
                  "reason": "not supported"},
            "0.0": {"memory": 11091, "total": 40448, "active": 91, "watts": None, "processes": 3},
            "burn@0.0": {"held": True, "memory": 11052, "sm": 91, "watts": None, "reason": "only user"},
            "@0.0": {"memory": 39},
            "keeper@0.1": {"held": True, "memory": 0, "sm": 0},
            "@0.1": {"memory": 17}, "@0.2": {"memory": 9}, "@0.3": {"memory": 9},
            "@0": {"memory": 0, "watts": 447.35},
        },
    ),
    Case(
        name="h200-mig", says="H200 MIG: two compute instances in one GPU instance show its memory twice", repeat=2,
        containers={"hogs": (NOT_ASKED, (12249, 12250)), "burn": (_slice("0:1"), (12267,))},
        expect={
            "0": {"busy": None, "memory": 16959, "watts": 294.14},
            "0.0": {"memory": 16925, "processes": 0}, "0.1": {"memory": 16925, "processes": 3},
            # 16925 in the instance, 16890 by processes: the 35 between are counted once, on its first device.
            "@0.0": {"memory": 35},
            "hogs@0.1": {"held": False, "memory": 3364, "sm": None, "reason": "MIG"},
            "burn@0.1": {"held": True, "memory": 13526, "sm": None, "reason": "MIG"},
            "@0.1": {"memory": 0},
            "@0.2": {"memory": 17}, "@0.3": {"memory": 9}, "@0.4": {"memory": 9}, "@0": {"memory": 0, "watts": 294.14},
        },
    ),
    Case(
        name="a100-mig", says="A100 MIG, held and idle: no utilisation, no GPM", repeat=2, omit=SINCE_470[1:],
        containers={"keeper": (_slice("0:0"), ())},
        expect={
            "0": {"busy": None, "memory": 38, "reserved": 605, "watts": 66.92, "celsius": 36, "hbm": 44,
                  "throttle": ""},
            "0.0": {"memory": 19, "total": 19968, "active": None}, "0.1": {"memory": 19, "active": None},
            "keeper@0.0": {"held": True, "memory": 0, "sm": 0, "watts": 0},
            "@0.0": {"memory": 19}, "@0.1": {"memory": 19}, "@0": {"memory": 0, "watts": 66.92},
        },
    ),
    Case(
        name="a100-mig-busy", says="A100 MIG with a process: what it does cannot be known", repeat=2,
        omit=SINCE_470[1:],
        containers={"trainer": (_slice("0:1"), (4001,))},
        expect={
            "trainer@0.1": {"held": True, "memory": 5000, "sm": None, "watts": None, "reason": "MIG"},
            "@0.0": {"memory": 19}, "@0.1": {"memory": 19}, "@0": {"memory": 0, "watts": 66.92},
        },
    ),
    Case(
        name="l40s-encoders", says="L40S, two video encoders; never seen idle, so nobody's watts are known",
        containers={"low": (ONE, (20037,)), "high": (ONE, (20038,))},
        expect={
            "0": {"busy": 9, "encoder": 60, "decoder": 0, "memory": 1235, "watts": 112.38, "celsius": 54, "hbm": None,
                  "reason": "not supported"},
            "low@0": {"held": True, "memory": 538, "sm": 2, "watts": None,
                      "reason": "power: known once this GPU was seen without work"},
            "high@0": {"held": True, "memory": 681, "sm": 6, "watts": None},
            "@0": {"memory": 16, "sm": 1},
        },
    ),
    Case(
        name="l40s-busy-alone", says="L40S, 100 % and 242 W without a process: nobody's", repeat=2,
        containers={"keeper": (ALL, ())},
        expect={
            "0": {"busy": 100, "watts": 242, "processes": 0},
            "keeper@0": {"held": True, "memory": 0, "sm": 0, "watts": 0},
            "@0": {"memory": 0, "sm": 100, "watts": 242},
        },
    ),
    Case(
        name="rtx2080s-encoders", says="RTX 2080 SUPER: two encoders beside a desktop",
        containers={"first": (ALL, (5267,)), "second": (ALL, (5268,))}, processes={1696: DESKTOP, 4584: DESKTOP},
        expect={
            "0": {"busy": 8, "encoder": 100, "memory": 819, "watts": 111.5, "limit": 250, "hbm": None, "processes": 4},
            "first@0": {"memory": 230, "sm": 8, "attribution": "measured"},
            "second@0": {"memory": 370, "sm": 0, "attribution": "measured"},
            "@0": {"memory": 219, "sm": 0, "reason": "2 x host process"},
        },
    ),
    Case(
        name="rtx4090-idle", says="RTX 4090, driver 535, idle",
        expect={"0": {"busy": 0, "memory": 2, "reserved": 346, "watts": 26, "celsius": 40, "clock": 210,
                      "throttle": ""}},
    ),
    Case(
        name="rtx3060-idle", says="RTX 3060 of a notebook, idle, without a power limit",
        expect={"0": {"busy": 0, "memory": 5, "reserved": 197, "watts": 8.7, "limit": None, "celsius": 45,
                      "state": "ok"}},
    ),
    Case(
        name="t4-idle", says="T4, idle",
        expect={"0": {"busy": 0, "memory": 0, "reserved": 448, "total": 15360, "watts": 33.51, "limit": 70, "hbm": None,
                      "celsius": 33, "clock": 1590, "throttle": "", "remapped": None, "remap pending": False,
                  "state": "ok"}},
    ),
)  # fmt: skip

_TRAINER = {"trainer": (ALL, (101,))}
_TWO = {"trainer": (ALL, (101,)), "embed": (NOT_ASKED, (201,))}
TROUBLES = (
    Case(
        name="shared", says="two containers, an idle holder, a host process, an ended one and a foreign container",
        containers={"trainer": (ONE, (101, 102)), "embed": (NOT_ASKED, (201,)), "keeper": (ONE, ())},
        processes={301: DESKTOP, 302: "", 303: FOREIGN},
        expect={
            "0": {"busy": 90, "memory": 10000, "watts": 370, "throttle": "power cap reached", "processes": 6},
            # 300 W above idle, of 90 % busy.
            "trainer@0": {"held": True, "memory": 5000, "sm": 50, "watts": 300 * 50 / 90, "attribution": "measured"},
            "embed@0": {"held": False, "memory": 2000, "sm": 20, "watts": 300 * 20 / 90},
            "keeper@0": {"held": True, "memory": 0, "sm": 0, "watts": 0},
            "@0": {"memory": 3000, "sm": 20, "watts": 370 - 300 * 70 / 90,
                   "reason": "1 x Docker container of another daemon; 1 x host process; 1 x process ended"},
        },
    ),
    Case(
        name="samples-noise", says="shares above 100 %, unlisted processes and old rows do not count",
        containers={"trainer": (ALL, (101,)), "embed": (ALL, (102,))},
        expect={
            "trainer@0": {"sm": 30, "watts": 200 * 30 / 40}, "embed@0": {"sm": 0, "watts": 0},
            "@0": {"sm": 10, "watts": 270 - 150, "memory": 0},
        },
    ),
    Case(
        name="wsl", says="WSL: nothing about single processes", containers=_TWO,
        expect={
            "0": {"busy": 60, "memory": 9000, "watts": 270, "processes": 2},
            "trainer@0": {"held": True, "memory": None, "sm": None, "attribution": "declared",
                          "reason": "memory: 1 of 1 processes cannot be read"},
            "embed@0": {"held": False, "memory": None, "sm": None, "attribution": "unknown",
                        "reason": "SM share: not supported"},
            "@0": {"memory": None, "sm": None},
        },
    ),
    Case(
        name="private-pids", says="a collector that does not see the host's processes", containers=_TWO,
        private_pids=True,
        expect={
            "0": {"busy": 60, "memory": 9000},
            "trainer@0": {"held": True, "memory": None, "sm": None, "attribution": "unknown", "reason": "--pid=host"},
            "embed@0": {},
            "@0": {"memory": None, "attribution": "unknown"},
        },
    ),
    Case(
        name="mps", says="MPS: clients from their own list, shares are estimates", containers=_TWO,
        processes={900: "/system.slice/nvidia-mps.service"}, process_names={900: "nvidia-cuda-mps"},
        expect={
            "0": {"busy": 80, "processes": 3},
            "trainer@0": {"memory": 4000, "sm": 60, "watts": 200 * 60 / 80, "attribution": "estimated",
                          "reason": "MPS"},
            "embed@0": {"memory": 2000, "sm": 15, "watts": 200 * 15 / 80, "attribution": "estimated", "reason": "MPS"},
            "@0": {"memory": 500, "sm": 5, "watts": 270 - 187.5, "reason": "1 x MPS server"},
        },
    ),
    Case(
        name="three-lists", says="one process in three lists has its memory once", containers=_TRAINER,
        expect={"0": {"processes": 1}, "trainer@0": {"memory": 4000, "sm": 50}, "@0": {"memory": 1000, "sm": 0}},
    ),
    Case(
        name="rows-of-32", says="driver 535.54: torn rows are not believed", containers=_TWO,
        expect={
            "0": {"busy": 50, "memory": 5000},
            "trainer@0": {"held": True, "memory": None, "sm": None, "attribution": "declared", "reason": "damaged"},
            "@0": {"memory": None, "attribution": "unknown"},
        },
    ),
    Case(
        name="list-race", says="the list grew between two calls", containers=_TRAINER,
        expect={"trainer@0": {"memory": 4000, "sm": 50, "attribution": "measured"}, "@0": {"memory": 1000, "sm": 0}},
    ),
    Case(
        name="gpm-denied", says="GPM not permitted", repeat=2,
        expect={"0": {"state": "ok", "active": None, "busy": 0, "watts": 70, "reason": "no permission"}},
    ),
    Case(
        name="old-driver", says="driver 470 through what it has", containers=_TRAINER, repeat=2, last_seconds=60,
        omit=SINCE_470,
        expect={
            "0": {"memory": 800, "reserved": None, "total": 16160, "watts": 39, "throttle": "power cap reached",
                  "active": None, "remap pending": True},
            "trainer@0": {"held": True, "memory": 400, "sm": 0}, "@0": {"memory": 400},
        },
    ),
    Case(
        name="sick", says="remap pending, uncorrectable errors, slowed down by heat, XID 94", xid=(0, 94),
        last_seconds=60,
        expect={
            "0": {"state": "ok", "remapped": 3, "remap pending": True, "ecc": 2, "celsius": 93,
                  "throttle": "hardware slowdown: too hot",
                  "xid": 94, "recovery": 2},
            "event": {"kind": "xid", "severity": "warning", "title": "XID 94"},
        },
    ),
    Case(
        name="traffic", says="bytes over PCIe and NVLink between two readings",
        expect={"0": {"pcie_out": 500_000, "pcie_in": 2_000_000, "nvlink_out": 10 * 1024, "nvlink_in": 30 * 1024}},
    ),
    Case(name="energy-reset", says="the driver was loaded anew", expect={"0": {"joules": 350, "watts": 70}}),
    Case(
        name="lost", says="one of two GPUs falls off the bus", containers=_TRAINER,
        expect={
            "0": {"state": "ok", "busy": 30, "memory": 1000}, "trainer@0": {"memory": 900},
            "1": {"state": "lost", "busy": None, "watts": None, "reason": "fallen off the bus"},
            "event": {"kind": "gpu_lost", "severity": "critical"}, "source": {"fails": "", "gaps": "gone"},
        },
    ),
    Case(
        name="hang", says="the driver stops answering about one of two GPUs", containers=_TRAINER,
        call_timeout_seconds=1.0,
        expect={
            "0": {"state": "ok", "busy": 30, "memory": 1000},
            "1": {"state": "driver_unresponsive", "busy": None, "reason": "did not answer for 1 s"},
            "source": {"fails": "", "gaps": "timeout", "next": "dmesg"},
        },
    ),
    Case(
        name="mismatch", says="the driver was upgraded under the collector",
        expect={
            "0": {"state": "driver_unavailable", "busy": None},
            "source": {"fails": "unreachable", "words": "do not match"},
        },
    ),
    Case(
        name="mig-again", says="partitioned anew: dead handles are listed again with the next reading", repeat=2,
        containers=_TRAINER,
        expect={
            "0.0": {"state": "ok", "memory": 3000, "total": 9984}, "trainer@0.0": {"memory": 2000},
                    "@0.0": {"memory": 1000},
            "@0": {"memory": 0, "watts": 200},
        },
    ),
)  # fmt: skip
CASES = (*RECORDINGS, *TROUBLES)
