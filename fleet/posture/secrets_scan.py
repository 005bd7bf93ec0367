"""Where a secret stands in texts that anybody may read, and the little that may be said about it.

What is a secret is decided by the rules of `fleet.redaction`, so that whatever is found here is also what is hidden
everywhere else. A value that looks like a provider's secret is "confirmed", one that only stands behind a name such as
TOKEN is "probable"; entropy alone is never a finding. Of the value itself nothing leaves this module but an
HMAC under the installation's key, and none of a short or well-known one: those could be guessed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from fleet.posture.reading import safe
from fleet.redaction import secret_rule

Kind = Literal["secret", "placeholder", "default-password"]

FINGERPRINT_DIGITS = 16
#: A fingerprint of less could be reversed by trying all values, even though the key is unknown to a reader.
_SHORTEST_FINGERPRINTED = 12
#: Cheap sieve in front of the value rules: a line without any of these matches none of them.
_SIEVE = re.compile(
    r"hf_|api_org_|sk-|nvapi-|AKIA|ASIA|ABIA|ACCA|gh[pousr]_|github_pat_|gl[a-z]{2,4}-|xox|hooks\.slack|AIza|eyJ"
    r"|pypi-AgE|dckr_|r8_|lsv2_|k_(?:live|test)_|-----BEGIN|://[^\s/]*:[^\s/]*@|(?i:bearer|basic)\s"
)
_URL_PASSWORD = re.compile(r"://[^\s:/@'\"]{0,200}:(?P<password>[^\s/@'\"]{1,512})@")
_OPENAI = re.compile(r"\bsk-[A-Za-z0-9_-]{20,}")
#: Nothing is there: a reference to another place, or a switch.
_EMPTY = re.compile(
    r"(?is)^(?:\s*|\$\{[^}]*\}|\$\w+|\$\([^)]*\)|\{\{.*\}\}|true|false|none|null|yes|no|on|off|auto|/run/secrets/.*"
    r"|/vault/secrets/.*)$"
)
_PLACEHOLDER = re.compile(r"(?i)^<[^>]*>$|x{4,}|\*{3,}|redacted|placeholder|^\[.*\]$|^your[-_ ]|replace[-_ ]?me|^todo$")
_DEFAULTS = frozenset(
    {"changeme", "change-me", "change_me", "changeit", "admin", "administrator", "password", "passwd", "pass", "secret",
     "root", "postgres", "mysql", "redis", "guest", "test", "minio", "minioadmin", "minio123", "default", "letmein",
     "123456", "12345678"}
)  # fmt: skip
#: Named like a secret, and never one.
_HARMLESS = re.compile(
    r"(?i)^(?:OLD)?PWD$|^GPG_KEYS?$|^TOKENIZER|(?:^|_)TOKENIZERS?(?:_|$)|SHA256|COMMIT|^PASS_|_(?:FILE|PATH|DIR|NAME|LIMIT|TTL|VERSION)$"
)
_COUNT = re.compile(r"-?\d+(?:\.\d+)?")
_PATH = re.compile(r"\.{0,2}/[\w.@+/-]*")
_OPTION = re.compile(r"-{1,2}[A-Za-z][\w.-]*")
_QUOTED = r"""(?P<value>"[^"]*"|'[^']*'|[^\s"',;]+)"""
_OPTION_IN_TEXT = re.compile(r"(?<![\w.-])--?(?P<key>[A-Za-z][\w.-]{0,127})(?:\s+(?!-)|=)" + _QUOTED)
_ASSIGNMENT_IN_TEXT = re.compile(r"(?<![\w.])(?P<key>[A-Za-z_][\w.-]{0,127})=" + _QUOTED)
_STRONG_PROBE, _WEAK_PROBE = "q8Zr3LmX0aPw7TnB2kVe", "abcdefgh"
#: A long text (an inline script in history) is read this far.
_MOST_CHARACTERS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One secret: what kind, by which rule, behind which name, where. `fingerprint` "" when none is kept."""

    rule: str
    kind: Kind
    key: str
    place: str
    path: str
    fingerprint: str = ""

    @property
    def confirmed(self) -> bool:
        """True when the value itself looks like a provider's secret."""
        return not self.rule.startswith("key-name")

    @property
    def confidence(self) -> str:
        """In a word."""
        return "confirmed" if self.confirmed else "probable"

    @property
    def subject(self) -> str:
        """What tells it apart from others of the same place: its name, else its rule."""
        return self.key or self.rule


def fingerprint(value: str, key: bytes) -> str:
    """The first 16 hex digits of HMAC-SHA256 of the value; "" without a key, or for a value that could be guessed."""
    if not key or len(value) < _SHORTEST_FINGERPRINTED:
        return ""
    return hmac.new(key, value.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:FINGERPRINT_DIGITS]


def scan_environment(lines: Sequence[str], *, place: str, path: str, key: bytes = b"") -> Iterator[Hit]:
    """The secrets among `NAME=value` lines."""
    for number, line in enumerate(lines):
        name, separator, value = line.partition("=")
        found = _judge(name, value) if separator else _judge("", line)
        if found is not None:
            yield _hit(found, name if separator else "", value or line, place, f"{path}[{number}]", key)


def scan_labels(labels: Mapping[str, object], *, place: str, path: str, key: bytes = b"") -> Iterator[Hit]:
    """The secrets among labels or log options."""
    for name, value in labels.items():
        if isinstance(value, str) and (found := _judge(name, value)) is not None:
            yield _hit(found, name, value, place, path, key)


def scan_command(words: Sequence[str], *, place: str, path: str, key: bytes = b"") -> Iterator[Hit]:
    """The secrets on a command line: `--api-key X`, `--api-key=X`, `TOKEN=X`, and those in a `sh -c` text."""
    option = ""
    for number, word in enumerate(words):
        at = f"{path}[{number}]"
        if option and not _OPTION.fullmatch(word):
            found = _judge(option, word)
            name, option = option, ""
            if found is not None:
                yield _hit(found, name, word, place, at, key)
                continue
        option = word.lstrip("-") if _OPTION.fullmatch(word) else ""
        if option and _judge("", word) is None:
            continue
        yield from scan_text(word, place=place, path=at, key=key)


def scan_text(text: str, *, place: str, path: str, key: bytes = b"") -> Iterator[Hit]:
    """The secrets in a shell line or a step of an image's history: assignments, options, and secrets by their looks."""
    rest = text[:_MOST_CHARACTERS]
    if "=" not in rest and "-" not in rest and _SIEVE.search(rest) is None:
        return
    # Options before assignments, each taken out once read: the middle of one secret must not pass for another's name.
    for pattern in (_OPTION_IN_TEXT, _ASSIGNMENT_IN_TEXT):
        taken: list[tuple[int, int]] = []
        for found in pattern.finditer(rest):
            value = found["value"].strip("\"'")
            judged = _judge(found["key"], value)
            if judged is not None:
                yield _hit(judged, found["key"], value, place, path, key)
                taken.append(found.span("value"))
        for start, end in reversed(taken):
            rest = f"{rest[:start]} {rest[end:]}"
    while (judged := _judge("", rest)) is not None:
        password = _URL_PASSWORD.search(rest) if judged[0] == "url-password" else None
        yield _hit(judged, "", password["password"] if password else "", place, path, key)
        if password is None:
            return
        rest = f"{rest[: password.start()]} {rest[password.end() :]}"


def _hit(found: tuple[str, Kind], name: str, value: str, place: str, path: str, key: bytes) -> Hit:
    rule, kind = found
    kept = fingerprint(value, key) if kind == "secret" else ""
    if len(name) == 1 and place != "env":
        name = ""  # an option of one letter names nothing
    return Hit(rule=rule, kind=kind, key=safe(name, 80), place=place, path=path, fingerprint=kept)


def _judge(name: str, value: str) -> tuple[str, Kind] | None:
    """(rule, kind) of the value behind a name; None when it is no secret."""
    if _EMPTY.match(value):
        return None
    if _SIEVE.search(value) is not None and (rule := _by_looks(value)) is not None:
        return rule
    named = _names_secret(name) if name else "never"
    if named == "never" or _PATH.fullmatch(value) or (_COUNT.fullmatch(value) and _counts(name)):
        return None
    if _PLACEHOLDER.search(value):
        return "key-name", "placeholder"
    if value.lower() in _DEFAULTS:
        return "key-name", "default-password"
    if named == "always":
        return "key-name", "secret"
    rule = secret_rule(name, value)
    return (rule, "secret") if rule is not None else None


def _by_looks(value: str) -> tuple[str, Kind] | None:
    rule = secret_rule("", value)
    if rule is None:
        return None
    if rule == "openai":
        # "sk-learn-inference-service-v2" has the prefix too.
        token = _OPENAI.search(value)
        if token is not None and not (re.search(r"\d", token[0]) and re.search(r"[A-Z]", token[0])):
            return None
    if rule == "url-password":
        passwords = [found["password"] for found in _URL_PASSWORD.finditer(value)]
        real = [one for one in passwords if not _EMPTY.match(one) and not _PLACEHOLDER.search(one)]
        if passwords and not real:
            return None if all(_EMPTY.match(one) for one in passwords) else (rule, "placeholder")
        if real and all(one.lower() in _DEFAULTS for one in real):
            return rule, "default-password"
    return rule, "secret"


def _counts(name: str) -> bool:
    """True for names that end in a plural, `MAX_NEW_TOKENS`: a number there is a number."""
    return name.lower().endswith("tokens")


@lru_cache(maxsize=4096)
def _names_secret(name: str) -> Literal["always", "maybe", "never"]:
    """Whether a name says that its value is a secret, by the rules of redaction; "maybe" needs a look at the value."""
    if _HARMLESS.search(name):
        return "never"
    if secret_rule(name, _WEAK_PROBE) is not None:
        return "always"
    return "maybe" if secret_rule(name, _STRONG_PROBE) is not None else "never"
