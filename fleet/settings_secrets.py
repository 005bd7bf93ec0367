"""Secrets stay in files: reading them, putting them into a DSN, and keeping them out of what is shown.

SettingsError        the settings cannot be used; holds every mistake, not only the first
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, urlsplit


class SettingsError(Exception):
    """The settings cannot be used. `mistakes`: one line each, saying where, what was found and what to write."""

    def __init__(self, mistakes: tuple[str, ...]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


def with_password(dsn: str, password: str) -> str:
    """The DSN with its user's password set (percent-encoded)."""
    parts = urlsplit(dsn)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(
        netloc=f"{quote(parts.username or 'default', safe='')}:{quote(password, safe='')}@{host}"
    ).geturl()


def masked(dsn: str) -> str:
    """The address with a password replaced by `***`, fit for a log or a page."""
    try:
        parts = urlsplit(dsn)
    except ValueError:  # no address at all, yet it may hold a password
        scheme, separator, rest = dsn.partition("://")
        return f"{scheme}{separator}***@{rest.rpartition('@')[2]}" if "@" in rest else dsn
    if parts.password is None:
        return dsn
    return parts._replace(netloc=f"{parts.username}:***@{parts.netloc.rpartition('@')[2]}").geturl()


def read_secret(path: Path, name: str) -> str:
    """The first line of a secret file, without its line end. Raises SettingsError saying which setting named it."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            (f"{name}: {path} cannot be read ({error.strerror}); write the secret into that file",)
        ) from error
    except UnicodeDecodeError as error:
        raise SettingsError((f"{name}: {path} is not text; write one line of UTF-8 into that file",)) from error
    secret = text.partition("\n")[0].strip()
    if not secret:
        raise SettingsError((f"{name}: {path} is empty; write the secret into that file",))
    return secret
