"""Secrets are taken out at the edge, harmless values stay, hostile text becomes inert."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.redaction import (
    ELLIPSIS,
    LABELS_LIMIT,
    REDACTED,
    inert,
    redact_command,
    redact_labels,
    redact_text,
    redact_value,
    secret_rule,
)

HEX = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

SECRETS = {
    ("HF_TOKEN", "hf_" + "a1B2c3D4e5" * 4): "huggingface",
    ("X", "hf_" + "a1B2c3D4e5" * 4): "huggingface",
    ("X", "sk-proj-" + "Ab3_" * 12): "openai",
    ("X", "sk-ant-api03-" + "Ab3_" * 12): "anthropic",
    ("X", "nvapi-" + "Ab3_" * 12): "nvidia",
    ("AWS_ACCESS_KEY_ID", "AKIA" + "IOSFODNN7EXAMPLE".replace("8", "7")): "aws-key-id",
    ("X", "ghp_" + "a1B2" * 9): "github",
    ("X", "github_pat_" + "a1B2_" * 6): "github",
    ("X", "glpat-" + "a1B2" * 6): "gitlab",
    ("X", "xoxb-1234567890-abcdef"): "slack",
    ("X", "AIza" + "a1B2_" * 7): "google",
    ("X", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc_def-ghi"): "jwt",
    ("X", "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU\n-----END OPENSSH PRIVATE KEY-----"):
        "private-key",
    ("X", "redis://:s3cret@cache:6379/0"): "url-password",
    ("DATABASE_URL", "postgresql://app:hunter2@db/app"): "url-password",
    ("X", "pypi-AgEIcHlwaS5vcmcCJD" + "a" * 20): "pypi",
    ("X", "dckr_pat_" + "a1B2" * 6): "docker-hub",
    ("X", "r8_" + "a1B2" * 8): "replicate",
    ("X", "lsv2_pt_" + "a1B2" * 8): "langsmith",
    ("JUPYTER_TOKEN", "hunter2"): "key-name",
    ("DB_PASSWORD", "hunter2"): "key-name",
    ("dbPassword", "hunter2"): "key-name",
    ("com.acme.api-key", "hunter2"): "key-name",
    ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"): "key-name",
    ("VLLM_API_KEY", "abc"): "key-name",
    ("HUGGING_FACE_HUB_TOKEN", "abc"): "key-name",
    ("WEBHOOK_SIGNATURE", "q8Zr3LmX0aPw7TnB"): "key-name-and-entropy",
}  # fmt: skip

HARMLESS = [
    ("PATH", "/usr/local/sbin:/usr/local/bin"),
    ("NCCL_VERSION", "2.17.1-1"),
    ("MAX_BATCH_TOKENS", "16384"),
    ("max-num-batched-tokens", "2048"),
    ("TOKENIZERS_PARALLELISM", "false"),
    ("HF_TOKEN_PATH", "/run/secrets/hf"),
    ("DB_PASSWORD_FILE", "/run/secrets/db"),
    ("SECRET_NAME", "db"),
    ("GPG_KEY", "E3FF2839C048B25C084DEBE9B26995E310250568"),
    ("PYTHON_SHA256", HEX),
    ("org.opencontainers.image.revision", "6b8819d0c2f3a4b5c6d7e8f90123456789abcdef"),
    ("org.opencontainers.image.version", "1.2.3"),
    ("com.docker.compose.config-hash", "short"),
    ("API_KEY", "${API_KEY}"),
    ("API_KEY", ""),
    ("API_KEY", "<your key>"),
    ("com.example.key", "primary"),
    ("NVIDIA_REQUIRE_CUDA", "cuda>=12.1 brand=tesla,driver>=470"),
    ("com.docker.compose.project", "acme"),
    ("image", f"registry.example/app@sha256:{HEX}"),
]


@pytest.mark.parametrize(("pair", "rule"), SECRETS.items(), ids=lambda part: str(part)[:40])
def test_a_secret_is_found_by_its_looks_or_by_its_key(pair: tuple[str, str], rule: str) -> None:
    assert secret_rule(*pair) == rule


@pytest.mark.parametrize("pair", SECRETS, ids=lambda pair: pair[1][:30])
def test_nothing_of_a_secret_is_left_in_a_label(pair: tuple[str, str]) -> None:
    key, value = pair
    shown = redact_labels({key: value})[key]
    assert REDACTED in shown
    secret = value.split("://")[-1].split(":")[1].split("@")[0] if "://" in value else value
    assert all(secret[i : i + 6] not in shown for i in range(len(secret) - 5))


@pytest.mark.parametrize("pair", HARMLESS, ids=lambda pair: f"{pair[0]}={pair[1]}"[:40])
def test_a_harmless_value_stays_as_it_is(pair: tuple[str, str]) -> None:
    assert redact_value(*pair) == pair[1]


def test_a_command_line_loses_its_secrets_and_keeps_the_rest() -> None:
    assert redact_command(
        ("vllm", "serve", "--api-key", "s3cretvalue", "--port=8000", "--hf-token=abc", "DB_PASSWORD=x1y2", "--verbose",
         "--max-num-batched-tokens", "2048")
    ) == (
        "vllm", "serve", "--api-key", REDACTED, "--port=8000", f"--hf-token={REDACTED}", f"DB_PASSWORD={REDACTED}",
        "--verbose", "--max-num-batched-tokens", "2048",
    )  # fmt: skip


def test_a_shell_line_loses_its_secrets_and_keeps_its_words() -> None:
    line = "sh -c 'export DB_PASSWORD=hunter2; run --api-key abcdef --port 80 redis://u:pw12@c/0'"
    safe = redact_text(line)
    assert "hunter2" not in safe
    assert "abcdef" not in safe
    assert "pw12" not in safe
    assert "--port 80 redis://u:[redacted]@c/0" in safe


def test_prose_about_tokens_is_no_secret() -> None:
    text = "could not refresh the token because the password file is missing"
    assert redact_text(text) == text


def test_a_whole_pem_key_goes_not_only_its_header() -> None:
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIEabcdef\nghijkl\n-----END RSA PRIVATE KEY-----"
    assert redact_value("x", f"a {key} b") == f"a {REDACTED} b"
    assert redact_value("x", key[:40]) == REDACTED


def test_hostile_text_becomes_inert() -> None:
    assert inert("a\x1b[31mred\x00\r\n\tb") == "a\ufffd[31mred\ufffd   b"
    assert inert("\ud83d half") == "\ufffd half"
    assert inert("evil\u202egnp.exe") == "evil\ufffdgnp.exe"
    assert inert("<script>alert(1)</script>") == "<script>alert(1)</script>"
    assert inert("=cmd|'/c calc'!A1") == "=cmd|'/c calc'!A1"


def test_a_long_text_ends_with_an_ellipsis_at_the_limit() -> None:
    assert inert("x" * 10_000, 100) == "x" * 99 + ELLIPSIS
    assert inert("x" * 100, 100) == "x" * 100


def test_too_many_labels_are_cut() -> None:
    assert len(redact_labels({f"k{i:05d}": "v" for i in range(5000)})) == LABELS_LIMIT


@given(st.dictionaries(st.text(st.characters(), max_size=40), st.text(st.characters(), max_size=200), max_size=5))
def test_any_labels_at_all_come_out_as_valid_text(labels: dict[str, str]) -> None:
    json.dumps(redact_labels(labels), ensure_ascii=False).encode("utf-8")


@given(st.lists(st.text(max_size=60), max_size=8))
def test_a_command_line_keeps_its_length(arguments: list[str]) -> None:
    assert len(redact_command(arguments)) == len(arguments)


@pytest.mark.timeout(10)
def test_a_hostile_ten_kilobyte_value_takes_no_time() -> None:
    for value in ("a" * 10_000, "a=" * 5_000, "://" * 3_000 + ":" * 1000, "-----BEGIN " + "A" * 10_000, "eyJ" * 3000):
        redact_labels({"x": value})
        redact_command((value, value))
