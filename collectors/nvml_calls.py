"""One question to the driver at a time: its codes become data, and the one that ends a device becomes an exception."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

_T = TypeVar("_T")
Handle: TypeAlias = Any  # opaque pointers and ctypes structures of the untyped binding

# NVML return codes (nvml.h).
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NOT_FOUND = 6
INSUFFICIENT_SIZE = 7
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
NO_DATA = 21
VERSION_MISMATCH = 25

NOT_AVAILABLE_32 = 0xFFFFFFFF


class DeviceLostError(Exception):
    """The driver says that this GPU is gone: nothing more can be asked of it."""


class Calls:
    """Asks through `nvml`, the pynvml module."""

    def __init__(self, library: ModuleType) -> None:
        self.nvml = library

    def ask(self, name: str, call: Callable[[], _T], errors: dict[str, int]) -> _T | None:
        """The answer, or None with the driver's code in `errors`. Raises DeviceLostError."""
        try:
            return call()
        except self.nvml.NVMLError as error:
            if error.value == GPU_IS_LOST:
                raise DeviceLostError from error
            errors[name] = int(error.value)
            return None

    def attempt(self, call: Callable[[], _T]) -> _T | None:
        """The answer, or None when the driver has none; a lost GPU raises the binding's own error."""
        try:
            return call()
        except self.nvml.NVMLError as error:
            if error.value == GPU_IS_LOST:
                raise
            return None
