"""The metric profiles that the settings put in force."""

from __future__ import annotations

from pathlib import Path

from fleet.profiles import Profile, ProfileError, builtin_profiles, profiles_in
from fleet.settings import Settings, SettingsError


def profiles_of(settings: Settings) -> tuple[Profile, ...]:
    """Those of the product and of `profiles_dir`. Raises SettingsError with the mistakes of all its files."""
    folder = settings.general.profiles_dir
    if not folder:
        return builtin_profiles()
    try:
        return profiles_in(Path(folder), builtin_profiles())
    except ProfileError as error:
        raise SettingsError(tuple(f"profiles_dir: {mistake}" for mistake in error.mistakes)) from error
