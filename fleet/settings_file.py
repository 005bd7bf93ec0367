"""Which file the settings come from, and its text: the same for every command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fleet.settings import Settings, SettingsError, load_settings

DEFAULT_FILE = "fleet.toml"
FILE_VARIABLE = "AIFLEET_CONFIG"


def read_settings(
    environment: Mapping[str, str], *, named: Path | None = None, folder: Path | None = None, host: str = "localhost"
) -> tuple[Settings, str]:
    """The settings in force, and in words where they come from.

    named: the file of the command line; else the one in AIFLEET_CONFIG; else fleet.toml in `folder` (the current one
    if None), which need not be there. host: name of this machine when nothing sets it.
    Raises SettingsError with every mistake, or when a named file cannot be read.
    """
    chosen = named or (Path(environment[FILE_VARIABLE]) if environment.get(FILE_VARIABLE) else None)
    path = chosen or (Path(DEFAULT_FILE) if folder is None else folder / DEFAULT_FILE)
    if chosen is None and not path.exists():
        return load_settings("", environment, origin=str(path), host=host), "defaults and environment"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        raise SettingsError((f"{path}: {reason}; write a readable file in --config or {FILE_VARIABLE}",)) from error
    except UnicodeDecodeError as error:
        raise SettingsError((f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8",)) from error
    return load_settings(text, environment, origin=str(path), host=host), str(path)
