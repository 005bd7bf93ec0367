"""What every test shares: which real parts this machine has, and what happens when one is missing.

On a developer's machine a test whose part is missing is skipped and listed at the end with the command that installs
it. In CI (CI=true) a missing part is a failure: a green run there has shown everything.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter

import pytest

PARTS = {
    "docker": (("dockerd", "docker", "busybox"), "a Docker daemon (dockerd, as root) and busybox"),
    "prometheus": (("prometheus", "promtool"), "a Prometheus server"),
    "browser": (("chromium",), "Chromium"),
    "cc": (("gcc",), "a C compiler"),
}
_skipped: Counter[str] = Counter()


def _missing(part: str) -> str | None:
    """What of a real part is missing here, None when it is all there."""
    for program in PARTS[part][0]:
        if shutil.which(program) is None:
            return program
    if part == "docker" and os.geteuid() != 0:
        return "root"
    return None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu", action="store_true", help="run the tests that need a real NVIDIA GPU")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is opt-in, and put the browser's tests last.

    Real hardware and a real server are deselected, not skipped, so that CI's count is honest.
    """
    deselected = [
        item
        for item in items
        if (item.get_closest_marker("gpu") and not config.getoption("--gpu"))
        or (item.get_closest_marker("server") and not os.environ.get("CLICKHOUSE_DSN"))
    ]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        gone = set(deselected)
        items[:] = [item for item in items if item not in gone]
    # Playwright keeps an event loop running in this thread until the session ends; in it asyncio.run() refuses.
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for part in PARTS:
        if item.get_closest_marker(part) is None:
            continue
        missing = _missing(part)
        if missing is None:
            continue
        message = f"{missing} not found: this test needs {PARTS[part][1]}; run `make test-services`"
        if os.environ.get("CI"):
            pytest.fail(message, pytrace=False)
        _skipped[part] += 1
        pytest.skip(message)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _skipped:
        return
    terminalreporter.section("not shown on this machine")
    for part, count in sorted(_skipped.items()):
        terminalreporter.write_line(f"  {count:4d} tests need {PARTS[part][1]}")
    terminalreporter.write_line("  install them all with: make test-services")
