"""Builds the stub NVML library and writes its world.

stub = NvmlStub(tmp_path, build(tmp_path))      # compiles libnvidia-ml.so.1
stub.write(gpu(0, A, memory="80 1 20", proc=["4711 1000"]))
stub.environment                                 # what a process needs to load it instead of the driver's
stub.event(0, 79)                                # an XID, while the process runs
"""

from __future__ import annotations

import collections
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml_stub.c")
WARNINGS = ("-Wall", "-Wextra", "-Werror")
Value = str | int | float | Sequence[str]


def build(folder: Path, omit: Sequence[str] = ()) -> Path:
    """Compile the library into `folder`. omit: symbols that this driver is too old to have."""
    library = folder / "libnvidia-ml.so.1"
    renames = [f"-D{symbol}=absent_{symbol}" for symbol in omit]
    options = ["-std=gnu11", "-O1", *WARNINGS, "-shared", "-fPIC", "-pthread", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run(["gcc", *options, *renames, "-o", library, SOURCE], check=True, timeout=60)
    return library


class NvmlStub:
    """One world, seen through one built library."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.folder = folder
        self.scenario = folder / "scenario"
        self.calls = folder / "calls"
        self.events = folder / "events"
        self.library = library
        if not self.events.exists():
            os.mkfifo(self.events)
        self.write()

    @property
    def environment(self) -> dict[str, str]:
        """Variables for a process whose NVML shall be this stub."""
        return {
            "LD_LIBRARY_PATH": str(self.library.parent),
            "NVML_STUB_SCENARIO": str(self.scenario),
            "NVML_STUB_CALLS": str(self.calls),
            "NVML_STUB_EVENTS": str(self.events),
        }

    def write(self, *lines: str | Sequence[str], driver: str = "595.45.04") -> None:
        """Replace the world; `count` follows from the GPUs named. Atomic: a reader sees the old or the new one."""
        flat = [line for item in lines for line in ([item] if isinstance(item, str) else item)]
        indices = [int(name) for line in flat if (name := line.split()[0]).isdigit()]
        head = [f"- driver {driver}", f"- count {max(indices, default=-1) + 1}"]
        with tempfile.NamedTemporaryFile("w", dir=self.folder, delete=False, encoding="utf-8") as file:
            file.write("\n".join([*head, *flat]) + "\n")
        Path(file.name).replace(self.scenario)

    def event(self, gpu_index: int, data: int, kind: int = 8, instance: tuple[int, int] | None = None) -> None:
        """Let the driver report an event (an XID by default); lost, as the driver's own, when nobody listens yet.

        instance: GPU and compute instance that it happened in.
        """
        # Open for reading too: else this would wait until somebody listens.
        with os.fdopen(os.open(self.events, os.O_RDWR | os.O_NONBLOCK), "wb", buffering=0) as end:
            place = " ".join(str(part) for part in instance or ())
            end.write(f"{gpu_index} {data} {kind} {place}\n".encode())

    def count_calls(self) -> collections.Counter[str]:
        """How often each function was called since the last `forget_calls`."""
        if not self.calls.exists():
            return collections.Counter()
        return collections.Counter(self.calls.read_text(encoding="utf-8").split())

    def forget_calls(self) -> None:
        """Start counting again."""
        self.calls.unlink(missing_ok=True)


def device(place: str, /, **keys: Value) -> list[str]:
    """Lines of one device (`0`, or `0.1` for MIG); a list gives one line per entry, `field_82` means `field.82`."""
    lines: list[str] = []
    for key, value in keys.items():
        head, _, tail = key.rpartition("_")
        shown = f"{head}.{tail}" if head and tail.isdigit() else key
        entries = [str(value)] if isinstance(value, str | int | float) else list(value)
        lines += [f"{place} {shown} {entry}" for entry in entries]
    return lines


def gpu(index: int, uuid_: str, /, **keys: Value) -> list[str]:
    """One H100-like GPU, idle: 80 GB, 600 MB reserved, 70 W. Any key can be replaced, by "!3" taken away."""
    idle: dict[str, Value] = {
        "uuid": uuid_, "name": "NVIDIA H100 80GB HBM3", "pci": f"00000000:{0x1B + index:02X}:00.0", "minor": index,
        "mig": 0, "busy": 0, "memory": "80000000000 600000000 0", "power": 70000, "power_limit": 700000,
        "field_186": 70000, "field_82": 45, "energy": 1000000, "temperature": 40, "clock_1": 345, "clock_2": 2619,
        "reasons": 1, "ecc_corrected": 0, "ecc_uncorrected": 0, "remapped": "0 0 0 0", "event_types": 0x800A,
    }  # fmt: skip
    return device(str(index), **{**idle, **keys})
