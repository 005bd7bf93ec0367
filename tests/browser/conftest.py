"""A dashboard process and a Chromium for it; the data comes from a store filled by the synthetic source."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, process, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, f"process ended with {process.returncode}"
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"nothing listens on {port} after {seconds} s")


def stop(process):
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def filled_store(tmp_path_factory):
    """(port, token) of a gateway before a store with three hours of the synthetic fleet."""
    folder, port = tmp_path_factory.mktemp("store"), free_port()
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("demo_store.py")), str(folder / "store"), str(port)], cwd=ROOT
    )
    wait_for(port, process, 120)
    yield port, "reader-token-of-the-tests"
    stop(process)


def dashboard(folder, dsn, extra=()):
    port = free_port()
    environment = {
        **os.environ,
        "AIFLEET_DATA_DIR": str(folder),
        "AIFLEET_DASHBOARD_PORT": str(port),
        "AIFLEET_DASHBOARD_DSN": dsn,
        **dict(extra),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "dashboard"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
    )
    wait_for(port, process)
    return process, f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def demo_url(filled_store, tmp_path_factory):
    port, token = filled_store
    process, url = dashboard(tmp_path_factory.mktemp("demo"), f"clickhouse://reader:{token}@127.0.0.1:{port}/default")
    yield url
    stop(process)


@pytest.fixture(scope="session")
def storeless_url(tmp_path_factory):
    process, url = dashboard(tmp_path_factory.mktemp("none"), f"clickhouse://reader:x@127.0.0.1:{free_port()}/default")
    yield url
    stop(process)


@pytest.fixture(scope="session")
def chromium():
    # While Playwright's loop runs in this thread, asyncio.run() in any other test refuses: tests/conftest.py puts the
    # browser's tests last.
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def probe(message):
    """On a deep link Streamlit's own script first looks for its server below the page's path, and finds it above."""
    return "/_stcore/" in message.location.get("url", "") and "404" in message.text


@pytest.fixture
def visit(chromium):
    """Open a page and wait until it has drawn; every error on the console or in the page fails the test."""
    opened = []

    def go(url, *, scheme="dark", width=1440, height=900):
        page = chromium.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        page.faults = []
        page.on("console", lambda m: page.faults.append(m.text) if m.type == "error" and not probe(m) else None)
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        opened.append(page)
        page.goto(url)
        settle(page)
        return page

    yield go
    faults = [fault for page in opened for fault in page.faults]
    for page in opened:
        page.close()
    assert faults == []


def settle(page):
    page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]', timeout=60_000)
    page.wait_for_selector('[data-testid="stMainBlockContainer"] [data-testid="stMarkdown"]', timeout=60_000)
    page.wait_for_timeout(1200)  # fonts, canvas tables and figures draw after the run has ended
