"""The metric profiles in force: those that come with the product, and those of the operator's own folder."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib import resources
from pathlib import Path

from fleet.profile import HISTOGRAM_FIELDS, SAMPLE_FIELDS, Profile, ProfileError, ProfileField
from fleet.profile_file import load_profile

__all__ = [
    "HISTOGRAM_FIELDS", "SAMPLE_FIELDS", "Profile", "ProfileError", "ProfileField", "builtin_profiles",
    "detection_names", "load_profile", "profiles_in", "speaking",
]  # fmt: skip


def speaking(profiles: Sequence[Profile], names: Collection[str]) -> tuple[Profile, ...]:
    """The profiles that speak on a target with these metrics: a generic one only where no other does."""
    found = [profile for profile in profiles if profile.speaks(names)]
    taken = {profile.table for profile in found if not profile.generic}
    return tuple(profile for profile in found if not profile.generic or profile.table not in taken)


def detection_names(profiles: Sequence[Profile]) -> tuple[str, ...]:
    """Metric names that tell which profiles speak on a target, in a stable order."""
    return tuple(dict.fromkeys(name for one in profiles for name in (*one.anchors, *one.requires, *one.excludes)))


def builtin_profiles() -> tuple[Profile, ...]:
    """The profiles that come with the product, by file name."""
    folder = resources.files("fleet") / "catalog" / "profiles"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    return tuple(load_profile(file.read_text(encoding="utf-8"), origin=file.name) for file in files)


def profiles_in(folder: Path, builtin: Sequence[Profile] = ()) -> tuple[Profile, ...]:
    """`builtin` and every *.toml of a folder; a file with the id of a built-in profile replaces it.

    Raises ProfileError with the mistakes of all files, also two files with one id or a file that cannot be read.
    """
    mistakes: list[str] = []
    found: dict[str, tuple[str, Profile]] = {}
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == ".toml")
    except OSError as error:
        raise ProfileError([f"{folder}: {error.strerror}; write the folder of your profiles"]) from error
    for path in files:
        try:
            profile = load_profile(path.read_text(encoding="utf-8"), origin=path.name)
        except ProfileError as error:
            mistakes += error.mistakes
        except (OSError, UnicodeDecodeError) as error:
            mistakes.append(f"{path.name}: cannot be read ({error}); write a UTF-8 text file")
        else:
            if profile.id in found:
                mistakes.append(f"{path.name}: id {profile.id!r} is taken by {found[profile.id][0]}; choose another")
            else:
                found[profile.id] = (path.name, profile)
    if mistakes:
        raise ProfileError(mistakes)
    return (*(one for one in builtin if one.id not in found), *(profile for _, profile in found.values()))
