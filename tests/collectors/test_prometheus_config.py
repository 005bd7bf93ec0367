"""The Prometheus configuration that is printed and shipped is one that Prometheus takes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from collectors.__main__ import main
from collectors.prometheus_config import RULES_FILE, SCRAPE_FILE, recording_rules, scrape_config
from fleet.profiles import builtin_profiles
from fleet.settings import DEFAULT_DOCKER_URL
from tests.services.prometheus import PROMTOOL

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"


def promtool(*words: str) -> str:
    done = subprocess.run([str(PROMTOOL), "check", *words], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_shipped_files_are_what_the_command_prints():
    shipped = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.yml")}
    assert shipped == {
        SCRAPE_FILE: scrape_config(docker_url=DEFAULT_DOCKER_URL, host="gpu-host-1"),
        RULES_FILE: recording_rules(builtin_profiles()),
    }, "write: python -m collectors prometheus-config --out deploy/prometheus (and keep docker_host: gpu-host-1)"


@pytest.mark.prometheus
def test_promtool_accepts_what_the_command_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert main(["prometheus-config", "--out", str(tmp_path / "made")]) == 0
    assert "1 rule files found" in promtool("config", str(tmp_path / "made" / SCRAPE_FILE))
    assert "16 rules found" in promtool("rules", str(tmp_path / "made" / RULES_FILE))
    capsys.readouterr()
    assert main(["prometheus-config", "--rules"]) == 0
    assert capsys.readouterr().out == (tmp_path / "made" / RULES_FILE).read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main(["prometheus-config", "--out", str(tmp_path / "file" / "x")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_gateways_and_web_frameworks_are_in_no_rule():
    """Their requests are counted by the server behind or inside them too."""
    rules = recording_rules(builtin_profiles())
    assert "vllm:time_to_first_token_seconds_bucket" in rules
    assert "litellm" not in rules
    assert "rate(http_requests_total" not in rules
    # Microseconds become seconds, and "anything but OK" is one that Prometheus can evaluate.
    assert "1e-06 * histogram_quantile(0.95, sum by" in rules
    assert "status!='OK'" in rules
