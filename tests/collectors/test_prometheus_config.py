"""The shipped Prometheus configuration is one that Prometheus takes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.services.prometheus import PROMTOOL

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"


@pytest.mark.prometheus
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yml")), ids=lambda path: path.name)
def test_promtool_accepts_the_sample(path):
    done = subprocess.run([str(PROMTOOL), "check", "config", str(path)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
