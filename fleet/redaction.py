"""What must never leave the collector, taken out at its edge: secrets; and what strangers wrote, made inert.

A value is a secret by what it looks like (a provider's prefix, a JWT, a PEM key, a password in a URL) or by what its
key is called (`api_key`, `DB_PASSWORD`); words that are only sometimes secret (`auth`, `key`) need a value of high
entropy as well. Entropy alone is never a reason: image digests and commit hashes have it too. Prefixes and key rules
were checked against gitleaks (MIT) and Trivy (Apache-2.0); NVIDIA's `nvapi-` is in neither.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

REDACTED = "[redacted]"
ELLIPSIS = "…"
TEXT_LIMIT = 512
LABELS_LIMIT = 128

#: What a secret looks like, whatever it is called. Group `keep` (if any) stays, so that a URL remains readable.
_VALUE_RULES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("private-key", r"-----BEGIN [A-Z ]*PRIVATE KEY[A-Z ]*-----[^-]*(?:-----END [A-Z ]*-----)?"),
        ("huggingface", r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}"),
        ("anthropic", r"\bsk-ant-[A-Za-z0-9_-]{16,}"),
        ("openai", r"\bsk-(?:proj-|svcacct-|admin-)?[A-Za-z0-9_-]{20,}"),
        ("nvidia", r"\bnvapi-[A-Za-z0-9_-]{20,}"),
        ("aws-key-id", r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b"),
        ("github", r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})"),
        ("gitlab", r"\bgl(?:pat|rt|dt|ptt|soat)-[A-Za-z0-9_-]{20,}"),
        ("slack", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
        ("slack-webhook", r"hooks\.slack\.com/services/[A-Za-z0-9/+]{20,}"),
        ("google", r"\bAIza[A-Za-z0-9_-]{30,}"),
        ("jwt", r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?"),
        ("pypi", r"\bpypi-AgE[A-Za-z0-9_-]{16,}"),
        ("docker-hub", r"\bdckr_(?:pat|oat)_[A-Za-z0-9_-]{16,}"),
        ("replicate", r"\br8_[A-Za-z0-9]{20,}"),
        ("langsmith", r"\blsv2_(?:pt|sk)_[A-Za-z0-9_]{16,}"),
        ("stripe", r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,}"),
        ("bearer", r"(?i)(?P<keep>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{12,}"),
        ("url-password", r"(?P<keep>\b[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s:/@'\"]{0,200}:)[^\s/@'\"]{1,512}(?=@)"),
    )
)  # fmt: skip

_SECRET_WORDS = frozenset(
    {"password", "passwd", "passphrase", "passcode", "pass", "pwd", "secret", "secrets", "token", "tokens", "apikey",
     "accesskey", "secretkey", "privatekey", "credential", "credentials", "creds", "dsn", "authorization", "bearer",
     "cookie"}
)  # fmt: skip
_SECRET_PAIRS = frozenset(
    {("api", "key"), ("access", "key"), ("private", "key"), ("secret", "key"), ("account", "key"), ("signing", "key"),
     ("encryption", "key"), ("master", "key"), ("client", "key"), ("ssh", "key"), ("auth", "key"),
     ("connection", "string")}
)  # fmt: skip
_MAYBE_WORDS = frozenset({"key", "auth", "cert", "signature", "sig", "salt", "hash", "session", "license", "webhook"})
#: Names that hold a secret word and no secret: where it lies, what it is called, how much of it there may be.
_HARMLESS_KEY = re.compile(
    r"(?:^|_)(?:file|path|dir|name|id|limit|limits|ttl|count|size|length|type|url|uri|endpoint|version|expiry|seconds)$"
    r"|^(?:max|min|num|total|n)_(?:\w+_)?tokens?(?:_|$)|_tokens?_(?:per|limit|count)_?|^tokenizers?(?:_|$)|_tokenizers?(?:_|$)"
    r"|^gpg_keys?$|sha256|commit|^path$|^pass_through$"
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_PLACEHOLDER = re.compile(
    r"""(?ix) ^(?: \s* | \$\{[^}]*\} | \$\w+ | <[^>]*> | \{\{.*\}\} | /run/secrets/\S* | x{3,} | \*{3,} | \[?redacted\]?
    | true | false | none | null | yes | no | on | off | auto | required | optional | \d{1,3} )$"""
)
_OPTION = re.compile(r"(?s)(?P<option>-{1,2}[A-Za-z][\w.-]*)(?:=(?P<value>.*))?")
_ASSIGNMENT = re.compile(r"(?s)(?P<key>[A-Za-z_][\w.-]{0,127})=(?P<value>.*)")
_TEXT_VALUE = r"""(?P<value>"[^"]*"|'[^']*'|[^\s"',;]+)"""
#: In prose ("the token expired") a bare space says nothing: it separates only an option from its value.
_OPTION_IN_TEXT = re.compile(r"(?P<key>(?<![\w.-])--?[A-Za-z][\w.-]{0,127})(?P<sign>\s+)(?!-)" + _TEXT_VALUE)
_ASSIGNMENT_IN_TEXT = re.compile(r"(?P<key>(?<![\w.])[A-Za-z_][\w.-]{0,127})(?P<sign>\s?[=:]\s?)" + _TEXT_VALUE)
#: Control characters, and those that turn the direction of the text around them.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufff9-\ufffb]"
)


def inert(text: str, limit: int = TEXT_LIMIT) -> str:
    """The text with nothing in it that a terminal, an encoder or a table could trip over, at most `limit` long.

    Line ends and tabs become spaces, other control, direction and half (surrogate) characters U+FFFD; a cut ends with
    an ellipsis. HTML is left as it is: escaping belongs to whoever draws it.
    """
    head = text[: limit + 1]
    clean = _UNSEEN.sub(lambda found: " " if found[0] in "\t\r\n" else "\ufffd", head)
    return clean if len(head) <= limit else clean[: limit - 1] + ELLIPSIS


def secret_rule(key: str, value: str) -> str | None:
    """Name of the rule by which the value of `key` is a secret; None when none applies."""
    if _PLACEHOLDER.match(value):
        return None
    for name, pattern in _VALUE_RULES:
        if pattern.search(value):
            return name
    return _key_rule(key, value)


def redact_value(key: str, value: str) -> str:
    """The value, or what may be shown of it: nothing when the key names a secret, else without the secrets in it."""
    if _PLACEHOLDER.match(value):
        return value
    if _key_rule(key, value) is not None:
        return REDACTED
    return redact_text(value)


def redact_labels(labels: Mapping[str, str], *, limit: int = TEXT_LIMIT) -> dict[str, str]:
    """Labels safe to store: inert, secrets redacted, at most LABELS_LIMIT of them in order of their names."""
    safe: dict[str, str] = {}
    for key in sorted(labels)[:LABELS_LIMIT]:
        safe[inert(redact_text(key), 256)] = inert(redact_value(key, labels[key]), limit)
    return safe


def redact_command(arguments: Sequence[str]) -> tuple[str, ...]:
    """A command line without its secrets: `--api-key X`, `--api-key=X`, `TOKEN=X`, and secrets by their looks."""
    safe: list[str] = []
    pending = ""  # an option whose value is the next argument
    for argument in arguments:
        option = _OPTION.fullmatch(argument)
        if pending and option is None:
            safe.append(redact_value(pending, argument))
            pending = ""
            continue
        pending = ""
        if option is not None and option["value"] is None:
            pending = option["option"].lstrip("-")
            safe.append(redact_text(argument))
            continue
        assignment = _ASSIGNMENT.fullmatch(argument.lstrip("-"))
        if assignment is None:
            safe.append(redact_text(argument))
            continue
        dashes = argument[: len(argument) - len(argument.lstrip("-"))]
        safe.append(f"{dashes}{assignment['key']}={redact_value(assignment['key'], assignment['value'])}")
    return tuple(safe)


def redact_text(text: str) -> str:
    """Free text (an error message, a shell line) without the secrets in it; the rest stays readable."""
    for _, pattern in _VALUE_RULES:
        text = pattern.sub(lambda found: (found.groupdict().get("keep") or "") + REDACTED, text)
    return _ASSIGNMENT_IN_TEXT.sub(_without_value, _OPTION_IN_TEXT.sub(_without_value, text))


def _without_value(found: re.Match[str]) -> str:
    """The match without its value if that is a secret; a quoted shell line after `-c` is looked into."""
    value = found["value"].strip("\"'")
    lead = found["key"] + found["sign"]
    if REDACTED in found[0] or _PLACEHOLDER.match(value) or _key_rule(found["key"], value) is None:
        return lead + _OPTION_IN_TEXT.sub(_without_value, found["value"])
    return lead + REDACTED


def _key_rule(key: str, value: str) -> str | None:
    words = tuple(word.lower() for word in _WORD.findall(key))
    if not words or _HARMLESS_KEY.search("_".join(words)):
        return None
    if _SECRET_WORDS.intersection(words) or _SECRET_PAIRS.intersection(itertools.pairwise(words)):
        return "key-name"
    if _MAYBE_WORDS.intersection(words) and len(value) >= 16 and " " not in value and _entropy_bits(value) >= 3.5:
        return "key-name-and-entropy"
    return None


def _entropy_bits(value: str) -> float:
    """Shannon entropy per character, in bits."""
    sample = value[:4096]
    return -sum(n / len(sample) * math.log2(n / len(sample)) for n in Counter(sample).values())
