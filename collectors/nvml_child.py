"""The loop of the child process: requests in, answers out, events at any time."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterable
from types import ModuleType
from typing import Protocol

from collectors.nvml_messages import Answer, DriverEvent, Happened, decode_request, encode
from collectors.nvml_reader import NvmlReader

logger = logging.getLogger(__name__)


class Output(Protocol):
    """Where answers go."""

    def write(self, data: bytes, /) -> int | None:
        """Write all of it."""
        ...


def serve(library: ModuleType, requests: Iterable[bytes], output: Output) -> None:
    """Answer requests until there are no more or nobody listens, then release the driver. library: pynvml."""
    lock = threading.Lock()

    def send(answer: Answer) -> None:
        message = encode(answer)
        with lock:  # the listener for events has a thread of its own
            output.write(message)

    def tell(event: DriverEvent) -> None:
        with contextlib.suppress(BrokenPipeError):  # the parent is gone, which the main thread notices
            send(Happened(event=event))

    reader = NvmlReader(library, tell=tell)
    try:
        for line in requests:
            for answer in reader.sweep(decode_request(line)):
                send(answer)
    except BrokenPipeError:
        return  # the parent is gone
    finally:
        try:
            reader.close()
        except library.NVMLError as error:
            logger.warning("closing: %s", error)
