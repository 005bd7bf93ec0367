"""XID and recovery events: a thread of the child waits for them and passes each on at once.

An XID is often the last thing a driver says before it hangs, so it must not wait for the next sweep to end.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TypeAlias

from collectors.nvml_calls import GPU_IS_LOST, NOT_AVAILABLE_32, Handle
from collectors.nvml_messages import DriverEvent

Tell: TypeAlias = Callable[[DriverEvent], None]
logger = logging.getLogger(__name__)

DOUBLE_BIT_ECC = 0x2
XID = 0x8
RECOVERY_ACTION = 0x8000
_WANTED = DOUBLE_BIT_ECC | XID | RECOVERY_ACTION
_TIMEOUT = 10
_WAIT_MILLISECONDS = 500
_PAUSE_SECONDS = 10.0


class EventListener:
    """Listens on the devices it was told to watch; a driver without events costs nothing and is not an error."""

    def __init__(self, library: ModuleType, tell: Tell, clock: Callable[[], float] = time.time) -> None:
        """tell: called for each event on the listener's thread."""
        self._nvml = library
        self._tell = tell
        self._clock = clock
        self._uuids: dict[int, str] = {}
        self._sequence = 0
        self._set: Handle = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def watch(self, devices: Mapping[str, Handle]) -> None:
        """Register the devices not registered yet, and start waiting with the first."""
        for uuid, handle in devices.items():
            address = self.address(handle)
            if self._uuids.get(address) == uuid:
                continue
            self._uuids[address] = uuid  # also when it fails: once is enough
            try:
                if self._set is None:
                    self._set = self._nvml.nvmlEventSetCreate()
                kinds = int(self._nvml.nvmlDeviceGetSupportedEventTypes(handle)) & _WANTED
                if not kinds:
                    continue
                self._nvml.nvmlDeviceRegisterEvents(handle, kinds, self._set)
            except self._nvml.NVMLError as error:
                logger.info("gpu %s: the driver reports no events (NVML code %d)", uuid, error.value)
                continue
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen, name="nvml-events", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Stop waiting; returns after at most two waits."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(2 * _WAIT_MILLISECONDS / 1000)

    @staticmethod
    def address(handle: Handle) -> int:
        """The pointer of a handle as a number: handles of one device are equal by nothing else."""
        return ctypes.cast(handle, ctypes.c_void_p).value or 0

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                data = self._nvml.nvmlEventSetWait_v2(self._set, _WAIT_MILLISECONDS)
            except self._nvml.NVMLError as error:
                if error.value != _TIMEOUT:
                    # A lost GPU ends the wait for all; the set goes on with the others, so no alarm in the log for it.
                    level = logging.INFO if error.value == GPU_IS_LOST else logging.WARNING
                    logger.log(level, "waiting for GPU events failed (NVML code %d)", error.value)
                    self._stopping.wait(_PAUSE_SECONDS)
                continue
            self._sequence += 1
            self._tell(
                DriverEvent(
                    at=self._clock(),
                    uuid=self._uuids.get(self.address(data.device), ""),
                    kind=int(data.eventType),
                    data=int(data.eventData),
                    sequence=self._sequence,
                    gpu_instance=_instance(data.gpuInstanceId),
                    compute_instance=_instance(data.computeInstanceId),
                )
            )


def _instance(value: int) -> int | None:
    return None if value == NOT_AVAILABLE_32 else int(value)
