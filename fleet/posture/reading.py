"""Docker's JSON, read so that what is missing or of a wrong shape raises Unread instead of standing for "nothing"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from fleet.posture.verdicts import Unread
from fleet.redaction import inert, redact_text

Json = Mapping[str, object]
#: Stands for a key that is not there; no reader accepts it.
MISSING: Final = object()
#: Too short and too simple for any rule of redaction; most of what is shown is of this kind.
_PLAIN = re.compile(r"[\w./-]{0,12}", re.ASCII)


def safe(text: object, limit: int = 160) -> str:
    """A stranger's text fit to be shown: no secret by its looks, no control characters, short."""
    if not isinstance(text, str):
        return ""
    if _PLAIN.fullmatch(text):
        return text
    return inert(redact_text(text[:4096]), limit)


def mapping(value: object, path: str) -> Json:
    """The object at `path`; null is an empty one. Raises Unread."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Unread(path, "not in the data" if value is MISSING else "not an object")
    return cast("Json", value)


def texts(value: object, path: str) -> tuple[str, ...]:
    """The list of texts at `path`; null is an empty one. Raises Unread."""
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in cast("list[object]", value)):
        raise Unread(path, "not in the data" if value is MISSING else "not a list of texts")
    return tuple(cast("list[str]", value))


def objects(value: object, path: str) -> tuple[Json, ...]:
    """The list of objects at `path`; null is an empty one. Raises Unread."""
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, Mapping) for one in cast("list[object]", value)):
        raise Unread(path, "not in the data" if value is MISSING else "not a list of objects")
    return tuple(cast("list[Json]", value))


@dataclass(frozen=True, slots=True)
class Section:
    """One object of the JSON and where it stands; every reader raises Unread."""

    values: Json
    path: str
    unread: frozenset[str] = frozenset()

    def raw(self, key: str) -> object:
        """The value, or a marker that no reader accepts."""
        if self.unread and self.at(key) in self.unread:
            raise Unread(self.at(key), "decided by the image, which was not given")
        return self.values.get(key, MISSING)

    def at(self, key: str) -> str:
        """Path of a key."""
        return f"{self.path}.{key}" if self.path else key

    def flag(self, key: str, *, absent: bool | None = None) -> bool:
        """True or false; `absent` is what a left-out key means, None = unknown."""
        value = self.raw(key)
        if value is MISSING and absent is not None:
            return absent
        if not isinstance(value, bool):
            raise Unread(self.at(key), "not in the data" if value is MISSING else "not true or false")
        return value

    def number(self, key: str, *, absent: int | None = None) -> int | None:
        """A whole number, None for null; `absent` is what a left-out key means."""
        value = self.raw(key)
        if value is MISSING and absent is not None:
            return absent
        if value is None:
            return None
        if type(value) is not int:
            raise Unread(self.at(key), "not in the data" if value is MISSING else "not a whole number")
        return value

    def text(self, key: str, *, absent: str | None = None) -> str:
        """A text; null is empty."""
        value = self.raw(key)
        if value is MISSING and absent is not None:
            return absent
        if value is None:
            return ""
        if not isinstance(value, str):
            raise Unread(self.at(key), "not in the data" if value is MISSING else "not a text")
        return value

    def texts(self, key: str, *, optional: bool = False) -> tuple[str, ...]:
        """A list of texts; `optional` when Docker leaves it out if empty."""
        value = self.raw(key)
        return texts(None if optional and value is MISSING else value, self.at(key))

    def objects(self, key: str, *, optional: bool = False) -> tuple[Json, ...]:
        """A list of objects."""
        value = self.raw(key)
        return objects(None if optional and value is MISSING else value, self.at(key))

    def section(self, key: str, *, optional: bool = False) -> Section:
        """The object below `key`."""
        value = self.raw(key)
        path = self.at(key)
        return Section(mapping(None if optional and value is MISSING else value, path), path, self.unread)

    def is_null(self, key: str) -> bool:
        """True for an explicit null."""
        return self.raw(key) is None

    def has(self, key: str) -> bool:
        """True when the key is there at all."""
        return self.raw(key) is not MISSING
