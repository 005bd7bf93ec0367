"""Keeps what GPUs draw when idle over a restart: a GPU that is always busy would never show it again."""

from __future__ import annotations

import logging
from pathlib import Path

from fleet.idle_power import IdlePower

logger = logging.getLogger(__name__)


def load_idle(idle: IdlePower, path: Path | None) -> None:
    """Take over what was kept; a file that is missing or damaged costs nothing but the learning."""
    if path is None or not path.exists():
        return
    try:
        idle.load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        logger.warning("%s: not used (%s); idle power is learned anew", path, error)


def save_idle(idle: IdlePower, path: Path | None) -> None:
    """Write what was learned, if anything changed; whole or not at all."""
    if path is None or not idle.changed:
        return
    try:
        new = path.with_suffix(".new")
        new.write_text(idle.dump(), encoding="utf-8")
        new.replace(path)
    except OSError as error:
        logger.warning("%s: cannot be written (%s); idle power will be learned anew", path, error)
