"""Secrets are found where they stand, harmless things are not, and nothing of a value comes out again."""

from __future__ import annotations

import copy
import hashlib
import hmac
import json
import pickle
import traceback
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.posture import report
from fleet.posture.catalogue import Severity
from fleet.posture.container import Container
from fleet.posture.evaluation import evaluate, evaluate_container
from fleet.posture.evidence import Evidence, Image
from fleet.posture.secrets_scan import fingerprint, scan_command, scan_environment, scan_labels, scan_text
from fleet.tools import ToolError
from fleet.tools.posture import main

TAIL = "Ab3x" * 10

#: Built here, so that no file holds what a scanner of repositories would take for a real one.
CONFIRMED = {
    "huggingface": "hf_" + "a1B2c3D4e5" * 4,
    "openai": "sk-proj-" + TAIL,
    "anthropic": "sk-ant-api03-" + TAIL,
    "nvidia": "nvapi-" + TAIL,
    "aws-key-id": "AKIA" + "ABCDEFGH234567IJ",
    "github": "ghp_" + "a1B2" * 9,
    "gitlab": "glpat-" + "a1B2" * 6,
    "slack": "xoxb-1234567890-abcdef",
    "slack-webhook": "https://hooks.slack.com/services/" + "T0" * 12,
    "google": "AIza" + "a1B2_" * 7,
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc_def-ghi",
    "private-key": "-----BEGIN RSA PRIVATE KEY-----\nMIIE" + TAIL + "\n-----END RSA PRIVATE KEY-----",
    "url-password": "postgresql://svc:N0tAReal.Pw@db.example.com:5432/app",
    "pypi": "pypi-AgEIcHlwaS5vcmcCJD" + "a" * 20,
    "docker-hub": "dckr_pat_" + "a1B2" * 6,
    "replicate": "r8_" + "a1B2" * 8,
    "langsmith": "lsv2_pt_" + "a1B2" * 8,
    "stripe": "sk_live_" + "a1B2" * 6,
    "bearer": "Bearer " + "a1B2c3D4" * 3,
}


def in_environment(*lines: str):
    return list(scan_environment(lines, place="env", path="Config.Env"))


@pytest.mark.parametrize("rule", CONFIRMED)
def test_a_providers_secret_is_confirmed_behind_any_name(rule: str):
    (hit,) = in_environment(f"X={CONFIRMED[rule]}")
    assert (hit.rule, hit.confirmed, hit.kind, hit.key, hit.path) == (rule, True, "secret", "X", "Config.Env[0]")


@pytest.mark.parametrize(
    "name",
    ["DB_PASSWORD", "MYSQL_ROOT_PASSWORD", "JUPYTER_TOKEN", "VLLM_API_KEY", "AWS_SECRET_ACCESS_KEY", "SECRET_KEY_BASE",
     "MINIO_SECRET_KEY", "WANDB_API_KEY", "REGISTRY_CREDENTIALS", "dbPassphrase"],
)  # fmt: skip
def test_a_name_that_says_secret_makes_its_value_probable(name: str):
    (hit,) = in_environment(f"{name}=hunter2xyz")
    assert (hit.confidence, hit.kind, hit.key) == ("probable", "secret", name)


HARMLESS = [
    "PATH=/usr/local/sbin:/usr/local/bin", "PWD=/app", "OLDPWD=/root", "NCCL_VERSION=2.17.1-1",
    "GPG_KEY=A035C8C19219BA82",
    "PYTHON_SHA256=" + "ab" * 32, "VLLM_BUILD_COMMIT=91df0fad4dc98a67c7659d9dbd915245d5c43d96",
    "HF_TOKEN_FILE=/run/secrets/hf", "TOKEN_PATH=/etc/token", "SECRETS_DIR=/run/secrets", "SECRET_NAME=prod/db",
    "MAX_BATCH_TOKENS=16384", "MAX_NEW_TOKENS=512", "CONTEXT_TOKENS=8192", "TOKENIZERS_PARALLELISM=false",
    "TOKEN_LIMIT=10", "PASSWORD=", "PASSWORD=${DB_PASSWORD}", "API_KEY=$API_KEY", "DB_PASSWORD=/run/secrets/db",
    "USE_AUTH_TOKEN=true", "URL=https://example.com/a?b=c", "IMAGE=sk-learn-inference-service-v2", "PASS_THROUGH=x",
    "DATABASE_URL=postgresql://app:${PW}@db/app", "LOG_LEVEL=debug", "CACHE_TTL=300", "no equals sign",
]  # fmt: skip


@pytest.mark.parametrize("line", HARMLESS)
def test_harmless_variables_are_left_alone(line: str):
    assert in_environment(line) == []


def test_the_environment_of_a_real_ai_image_has_none(recorded: ModuleType):
    assert in_environment(*recorded.load("image-configs/vllm-openai_v0.23.0.env.json")["Env"]) == []


@pytest.mark.parametrize(
    ("line", "kind"),
    [("HF_TOKEN=hf_xxxxREDACTED", "placeholder"), ("API_KEY=<your key>", "placeholder"),
     ("API_KEY=your-key-here", "placeholder"), ("DB_PASSWORD=changeme", "default-password"),
     ("POSTGRES_PASSWORD=postgres", "default-password"), ("URL=amqp://guest:guest@mq/", "default-password")],
)  # fmt: skip
def test_placeholders_and_default_passwords_are_told_apart(line: str, kind: str):
    (hit,) = in_environment(line)
    assert (hit.kind, hit.fingerprint) == (kind, "")


def test_command_lines_are_read_as_options_assignments_and_shell_text():
    def keys(*words: str):
        return [(hit.key, hit.path) for hit in scan_command(words, place="command", path="Args")]

    assert keys("serve", "--api-key", "abc123def", "--port", "80") == [("api-key", "Args[2]")]
    assert keys("--api-key=abc123def") == [("api-key", "Args[0]")]
    assert keys("sh", "-c", "export DB_PASSWORD=hunter2xyz && run --token abcdefgh") == [
        ("token", "Args[2]"), ("DB_PASSWORD", "Args[2]"),
    ]  # fmt: skip
    assert keys("curl", CONFIRMED["url-password"]) == [("", "Args[1]")]
    assert keys("--max-model-len", "4096", "--tokenizer", "mistral", "--served-model-name", "m") == []


def test_build_arguments_and_urls_in_history_are_found():
    url = "https://u:Sup3rS3cret@pypi.example.com/simple"
    step = f"|1 PIP_TOKEN={CONFIRMED['pypi']} /bin/sh -c pip install -i {url} x"
    hits = list(scan_text(step, place="history", path="History[0].CreatedBy"))
    assert sorted((hit.key, hit.rule) for hit in hits) == [("", "url-password"), ("PIP_TOKEN", "pypi")]


def test_a_fingerprint_is_an_hmac_and_none_of_what_could_be_guessed():
    value, key = "a-long-enough-value", b"installation"
    assert fingerprint(value, key) == hmac.new(key, value.encode(), hashlib.sha256).hexdigest()[:16]
    assert fingerprint(value, b"other") != fingerprint(value, key)
    assert fingerprint("hunter2", key) == fingerprint(value, b"") == ""


def test_what_the_image_brought_is_the_images_finding_once(recorded: ModuleType):
    found = evaluate(recorded.recorded_evidence())
    baked = [one for one in found if one.check in {"SEC-01", "SEC-02"} and "HF_TOKEN" in one.observed]
    real = [(one.kind, one.subject, one.details["origin"]) for one in baked if one.details["kind"] == "secret"]
    assert real == [("image", "sec-llm:latest", "image")]  # five containers run it, under four names


def test_without_the_image_its_origin_stays_open(recorded: ModuleType):
    one = Container(recorded.inspected("containers/sec-gpus-all.json"))
    (hit,) = [f for f in evaluate_container(Evidence(), one) if f.check == "SEC-01"]
    assert (hit.result, hit.details["origin"]) == ("fail", "image or operator")


def test_files_under_run_secrets_and_vault_agents_are_the_good_way(recorded: ModuleType):
    inspect = recorded.inspected("containers/sec-envsecret.json")

    def mechanism(**change):
        one = copy.deepcopy(inspect)
        one["Mounts"] = change.get("mounts", [])
        one["Config"]["Env"] += change.get("env", [])
        one["Config"]["Labels"].update(change.get("labels", {}))
        return next(f for f in evaluate_container(Evidence(), Container(one), include_low=True) if f.check == "SEC-04")

    mount = {"Type": "bind", "Source": "/srv/s", "Destination": "/run/secrets/db", "RW": False}
    assert (mechanism().result, mechanism().severity) == ("fail", Severity.INFO)
    assert mechanism(mounts=[mount]).observed == "files under /run/secrets"
    assert mechanism(env=["DB_PASSWORD_FILE=/run/secrets/db"]).observed == "a *_FILE variable"
    assert mechanism(labels={"vault.hashicorp.com/agent-inject": "true"}).observed == "a Vault agent"


# --- nothing of a value comes out ----------------------------------------------------------------------------------

LETTERS = st.text(alphabet="ghijklmnopqrstuvwxyzGHIJKLMNOPQRSTUVWXYZ", min_size=16, max_size=32)
SHAPES = ("{}", "hf_{}{}", "sk-proj-9A{}{}", "nvapi-{}{}", "ghp_{}{}{}", "postgresql://svc:{}@db/app", "pypi-AgE{}{}",
          "dckr_pat_{}{}", "AKIA{}", "Bearer {}",
          "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----")  # fmt: skip


def planted(recorded: ModuleType, secret: str, value: str) -> Evidence:
    """A fleet with the secret wherever one can stand, as a value of its shape and as a bare word behind a name."""
    inspect = copy.deepcopy(recorded.inspected("containers/sec-envsecret.json"))
    inspect["Image"] = "sha256:" + "1" * 64
    inspect["Config"]["Env"] += [f"SOME_TOKEN={value}", f"DB_PASSWORD={secret}"]
    inspect["Config"]["Labels"] |= {"com.acme.api-key": secret, "com.acme.secret": value}
    inspect["Config"]["Healthcheck"] = {"Test": ["CMD-SHELL", f"curl --password {secret} http://localhost"]}
    inspect["Args"] = ["--api-key", value, f"--token={secret}", "sh", "-c", f"TOKEN={secret} run --password '{secret}'"]
    inspect["HostConfig"]["LogConfig"] = {"Type": "splunk", "Config": {"splunk-token": secret, "tag": "x"}}
    image = copy.deepcopy(recorded.inspected("images/sec-llm_latest.inspect.json"))
    image["Id"], image["Config"]["Env"] = inspect["Image"], [f"BAKED_TOKEN={value}", f"BAKED_PASSWORD={secret}"]
    image["Config"]["Labels"] = {"build.secret": secret}
    history = [
        {"CreatedBy": f"|2 PIP_TOKEN={value} PASSWORD={secret} /bin/sh -c make", "Size": 9},
        {"CreatedBy": f"RUN /bin/sh -c wget --password {secret} https://u:{secret}@example.com # buildkit", "Size": 9},
        {"CreatedBy": f"/bin/sh -c #(nop)  ENV API_KEY={secret}", "Size": 0},
        {"CreatedBy": "/bin/sh -c #(nop) ADD file:0 in / ", "Size": 5},
    ]
    return recorded.recorded_evidence(
        containers=[Container(inspect)], images=[Image(image, history)], fingerprint_key=b"k" * 32
    )


def said(evidence: Evidence) -> str:
    found = evaluate(evidence, include_low=True)
    texts = [report.as_text(found), report.as_json(found), report.as_sarif(found, files={}, version="0")]
    return "\n".join([*texts, repr(found), pickle.dumps(found).decode("latin-1")])


def windows(value: str) -> set[str]:
    return {value[at : at + 4] for at in range(len(value) - 3)}


def shaped(shape: str, secret: str) -> str:
    # A provider's secret has one length; what is cut off here was never planted.
    return shape.format(secret[:16], secret[8:], secret) if "{}" in shape else shape


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(secret=LETTERS, shape=st.sampled_from(SHAPES))
def test_no_four_bytes_of_a_planted_secret_are_in_any_output(recorded: ModuleType, secret: str, shape: str):
    value = shaped(shape, secret)
    other = "".join("0" for _ in secret)
    without = said(planted(recorded, other, shaped(shape, other)))
    found = said(planted(recorded, secret, value))
    leaked = {window for window in windows(secret) | windows(value) if window in found and window not in without}
    assert not leaked


def test_planted_secrets_are_found_at_every_place(recorded: ModuleType):
    found = evaluate(planted(recorded, "kLmNoPqRsTuVwXyZ", "hf_" + "kLmNoPqRsTuVwXyZ" * 2))
    places = {
        (one.check, one.details["place"]) for one in found if one.check.startswith("SEC") and one.result == "fail"
    }
    assert places == {
        ("SEC-01", "env"), ("SEC-03", "command"), ("SEC-03", "labels"), ("SEC-03", "log options"),
        ("SEC-03", "health check"), ("SEC-02", "image env"), ("SEC-02", "image labels"),
        ("SEC-02", "build argument"), ("SEC-02", "history"),
    }  # fmt: skip
    assert all("fingerprint" in one.details for one in found if one.details.get("rule") == "huggingface")


@pytest.mark.parametrize(
    "text",
    [
        '[{"Config": {"Env": ["TOKEN=%s"',
        '"%s"',
        '[1, "%s"]',
        '{"Env": "%s"}',
        '{"TOKEN": %s}',
        "TOKEN: %s\n",
        '\xff"%s"',
    ],
)
def test_an_error_says_nothing_of_what_is_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture, text: str):
    secret = "kLmNoPqRsTuVwXyZ"
    file = tmp_path / "inspect.json"
    file.write_text(text % secret, encoding="latin-1")
    for option in ("--inspect", "--image", "--info", "--compose", "--networks"):
        words = [option, str(file)] if option != "--networks" else ["--info", str(file), option, str(file)]
        try:
            main(words)
        except ToolError:
            shown = traceback.format_exc()
        else:
            shown = ""
        output = capsys.readouterr()
        assert not {window for window in windows(secret) if window in shown + output.out + output.err}


def test_names_that_are_secrets_themselves_are_not_shown(recorded: ModuleType):
    inspect = copy.deepcopy(recorded.inspected("containers/sec-hardened.json"))
    token = CONFIRMED["huggingface"]
    inspect["Name"] = f"/{token}"
    inspect["Config"]["Image"] = f"https://user:{TAIL}@registry.example.com/x:1"
    inspect["Config"]["Env"].append(f"{token}_PASSWORD=hunter2xyz")
    inspect["Mounts"].append({"Type": "bind", "Source": f"/etc/{token}", "Destination": "/x", "RW": True})
    found = json.dumps([repr(one) for one in evaluate(Evidence(containers=[Container(inspect)]), include_low=True)])
    assert token not in found
    assert TAIL not in found


def test_labels_are_scanned_by_their_names():
    (hit,) = scan_labels({"com.acme.password": "hunter2xyz", "tenant": "acme"}, place="labels", path="Config.Labels")
    assert (hit.key, hit.path) == ("com.acme.password", "Config.Labels")
