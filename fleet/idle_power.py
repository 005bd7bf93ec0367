"""What a GPU draws when nothing runs on it: the part of its power that no container is charged with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast


class IdlePower:
    """Lowest power seen while idle, per GPU and driver version (a new driver may idle differently).

    A GPU that is always busy never shows it; then it is unknown, until it is configured. Taking the lowest power of
    a busy GPU instead would charge containers with too little.
    """

    def __init__(self, configured_watts: Mapping[str, float] | None = None, every_watts: float | None = None) -> None:
        """configured_watts: per GPU UUID, used instead of what is seen; every_watts: the same for every other GPU."""
        self._configured = dict(configured_watts or {})
        self._every = every_watts
        self._lowest: dict[str, float] = {}
        self.changed = False  # since the last `dump`

    def observe(self, uuid: str, driver_version: str, power_watts: float | None, busy_ratio: float | None) -> None:
        """Take one reading into account; only one without any work counts."""
        if power_watts is None or busy_ratio != 0:
            return
        key = f"{uuid} {driver_version}"
        lowest = self._lowest.get(key)
        if lowest is None or power_watts < lowest:
            self._lowest[key] = power_watts
            # A tenth of a watt less is not worth writing a file for.
            self.changed = self.changed or lowest is None or power_watts < lowest - 1

    def watts(self, uuid: str, driver_version: str) -> float | None:
        """Idle draw in watts, None when it was neither configured nor seen."""
        configured = self._configured.get(uuid, self._every)
        return self._lowest.get(f"{uuid} {driver_version}") if configured is None else configured

    def dump(self) -> str:
        """What was seen, as JSON text for `load` in a later life."""
        self.changed = False
        return json.dumps(self._lowest, indent=1, sort_keys=True)

    def load(self, text: str) -> None:
        """Take over what an earlier life saw; raises ValueError when the text is not from `dump`."""
        document: object = json.loads(text)
        if not isinstance(document, dict):
            raise ValueError("idle power: expected an object")  # noqa: TRY004 - one kind for the caller
        for key, value in cast("dict[str, object]", document).items():
            if not isinstance(value, int | float):
                raise ValueError(f"idle power: {key}: expected watts, found {value!r}")  # noqa: TRY004
            self._lowest[key] = min(float(value), self._lowest.get(key, float(value)))
