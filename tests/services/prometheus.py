"""A real, private Prometheus for tests: its own folder, a free loopback port, gone when the block ends."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

BINARY = shutil.which("prometheus")
PROMTOOL = shutil.which("promtool")


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class PrometheusService:
    """One running server. `url` is what a client dials; `reload` swaps the configuration without a restart."""

    folder: Path
    url: str
    process: subprocess.Popen[bytes]
    log: Path
    arguments: list[str] = field(default_factory=list)

    def reload(self, config: str) -> None:
        """Write a new configuration and have the server take it; raises when it refuses."""
        (self.folder / "prometheus.yml").write_text(config)
        request = urllib.request.Request(f"{self.url}/-/reload", method="POST")
        with urllib.request.urlopen(request, timeout=10):
            pass

    def pause(self) -> None:
        """Hang the server: it keeps its port and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self, seconds: float = 10.0) -> None:
        """End the server; kill it when it does not go by itself."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def scrape_config(targets: list[str], *, job: str = "vllm", interval: str = "1s", extra: str = "") -> str:
    """A configuration that scrapes fixed addresses; `extra` is YAML put under the job, indented by two."""
    listed = ", ".join(f'"{target}"' for target in targets)
    return (
        f"global: {{scrape_interval: {interval}, scrape_timeout: {interval}}}\n"
        "scrape_configs:\n"
        f"- job_name: {job}\n"
        f"  static_configs: [{{targets: [{listed}]}}]\n"
        f"{extra}"
    )


def wait_until(condition, seconds: float = 20.0, pause: float = 0.05):
    """The first true value of `condition()`; fails after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"still not true after {seconds} s: {condition}")
        time.sleep(pause)


@contextlib.contextmanager
def running_prometheus(
    folder: Path, config: str, *, arguments: tuple[str, ...] = (), port: int = 0
) -> Iterator[PrometheusService]:
    """Start Prometheus with `config` in `folder` and yield it when it is ready; stopped at the end. port 0 = any."""
    if BINARY is None:
        raise RuntimeError("no prometheus binary on PATH: install it (Debian: apt-get install prometheus)")
    folder.mkdir(parents=True, exist_ok=True)
    service = _start(BINARY, folder, config, list(arguments), port)
    try:
        yield service
    finally:
        service.stop()


def _start(binary: str, folder: Path, config: str, arguments: list[str], wanted_port: int) -> PrometheusService:
    (folder / "prometheus.yml").write_text(config)
    log = folder / "prometheus.log"
    for _attempt in range(3):  # somebody may take the port between the probe and the bind
        port = wanted_port or free_port()
        command = [
            binary,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--web.enable-lifecycle",
            "--log.level=warn",
            *arguments,
        ]
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        prefix = next((a.split("=", 1)[1] for a in arguments if a.startswith("--web.route-prefix=")), "")
        service = PrometheusService(folder, f"http://127.0.0.1:{port}{prefix}", process, log, arguments)
        if _ready(service):
            return service
        service.stop(2)
    raise RuntimeError(f"prometheus did not become ready; its log:\n{log.read_text()[-3000:]}")


def _ready(service: PrometheusService, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and service.process.poll() is None:
        try:
            with urllib.request.urlopen(f"{service.url}/-/ready", timeout=1) as answer:
                if answer.status == 200:
                    return True
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.05)
    return False
