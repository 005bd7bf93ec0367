"""XID and recovery events: a thread of the child waits for them, so that none is lost between two sweeps."""

from __future__ import annotations

import ctypes
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, TypeAlias

from collectors.nvml_messages import DriverEvent

Handle: TypeAlias = Any  # opaque pointers of the untyped binding
logger = logging.getLogger(__name__)

DOUBLE_BIT_ECC = 0x2
XID = 0x8
RECOVERY_ACTION = 0x8000
_WANTED = DOUBLE_BIT_ECC | XID | RECOVERY_ACTION
_TIMEOUT = 10
_WAIT_MILLISECONDS = 500
_MOST_WAITING = 1000


class EventListener:
    """Listens on the devices it was told to watch; a driver without events costs nothing and is not an error."""

    def __init__(self, library: ModuleType, clock: Callable[[], float] = time.time) -> None:
        self._nvml = library
        self._clock = clock
        self._uuids: dict[int, str] = {}
        self._events: queue.Queue[DriverEvent] = queue.Queue(_MOST_WAITING)
        self._set: Handle = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def watch(self, devices: Mapping[str, Handle]) -> None:
        """Register the devices not registered yet, and start waiting with the first."""
        for uuid, handle in devices.items():
            address = _address(handle)
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

    def drain(self) -> tuple[DriverEvent, ...]:
        """What arrived since the last call, oldest first."""
        found: list[DriverEvent] = []
        while True:
            try:
                found.append(self._events.get_nowait())
            except queue.Empty:
                return tuple(found)

    def stop(self) -> None:
        """Stop waiting; returns after at most two waits."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(2 * _WAIT_MILLISECONDS / 1000)

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                data = self._nvml.nvmlEventSetWait_v2(self._set, _WAIT_MILLISECONDS)
            except self._nvml.NVMLError as error:
                if error.value != _TIMEOUT:
                    logger.warning("waiting for GPU events failed (NVML code %d)", error.value)
                    self._stopping.wait(10)
                continue
            event = DriverEvent(
                at=self._clock(),
                uuid=self._uuids.get(_address(data.device), ""),
                kind=int(data.eventType),
                data=int(data.eventData),
            )
            try:
                self._events.put_nowait(event)
            except queue.Full:
                logger.warning("more than %d GPU events between two sweeps: one dropped", _MOST_WAITING)


def _address(handle: Handle) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
