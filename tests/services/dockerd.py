"""A real, private Docker daemon for tests and benches: own socket, own data, own containers, nothing left behind.

    with running_dockerd() as daemon:
        daemon.run("web", "sleep", "1000", labels={"tenant": "acme"})

The image `busybox:latest` is made from Debian's busybox-static, so no registry is needed. Networks are off by default
(`--bridge=none`: several daemons may run at once on one machine); `networks=True` gives a private bridge.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container as DockerContainer

IMAGE = "busybox:latest"
_START_SECONDS = 60.0


def busybox_tar() -> bytes:
    """A root file system with busybox and its applets, as a tar."""
    program = shutil.which("busybox")
    if program is None:
        raise FileNotFoundError("busybox not found: install busybox-static")
    applets = subprocess.run([program, "--list"], check=True, capture_output=True, text=True).stdout.split()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("root", 0o700)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        tar.add(program, "bin/busybox", recursive=False)
        for applet in applets:
            if applet == "busybox":
                continue
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for name, text in (
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:10001:10001::/tmp:/bin/sh\n"),
            ("etc/group", "root:x:0:\napp:x:10001:\n"),
        ):
            body = text.encode()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(body), 0o644
            tar.addfile(entry, io.BytesIO(body))
    return out.getvalue()


class Dockerd:
    """One daemon; `url` is what the product is told, `folder` holds everything it writes."""

    def __init__(self, folder: Path, *, networks: bool = False, arguments: Sequence[str] = ()) -> None:
        self.folder = folder
        self.socket = folder / "docker.sock"
        self.url = f"unix://{self.socket}"
        self.log = folder / "dockerd.log"
        self._networks = networks
        self._bridge = f"af{secrets.token_hex(4)}" if networks else "none"
        self._arguments = tuple(arguments)
        self._subnet = f"100.{64 + secrets.randbelow(64)}"
        self._process: subprocess.Popen[bytes] | None = None
        self._client: docker.DockerClient | None = None
        self._bridges: set[str] = set()  # what a killed daemon cannot take down itself

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        if self._process is None:
            raise RuntimeError("dockerd is not running")
        return self._process.pid

    @property
    def pids(self) -> tuple[int, ...]:
        """The daemon and its containerd: what a poll costs the Docker side."""
        containerd = self._containerd_pid()
        return (self.pid,) if containerd is None else (self.pid, containerd)

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        if self._networks:
            self._make_bridge()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "dockerd",
                    *("-H", self.url),
                    *("--data-root", str(self.folder / "data")),
                    *("--exec-root", str(self.folder / "exec")),
                    *("--pidfile", str(self.folder / "dockerd.pid")),
                    *("--bridge", self._bridge),
                    "--iptables=false",
                    "--ip-forward=false",
                    *("--default-address-pool", f"base={self._subnet}.0.0/16,size=24"),
                    *self._arguments,
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "DOCKER_HOST": ""},
            )
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            if self._process.poll() is not None:
                break
            if self._answers():
                return
            time.sleep(0.05)
        tail = self.log.read_text(errors="replace")[-3000:]
        self.kill()
        raise RuntimeError(f"dockerd did not answer on {self.url} within {_START_SECONDS:.0f} s:\n{tail}")

    def client(self, *, timeout: float = 60) -> docker.DockerClient:
        """A new client of this daemon; the caller closes it."""
        return docker.DockerClient(base_url=self.url, timeout=timeout, version="auto")

    def cli(self, *arguments: str, check: bool = True, stdin: bytes | None = None) -> str:
        """Run the `docker` command against this daemon; its output."""
        done = subprocess.run(["docker", "-H", self.url, *arguments], capture_output=True, input=stdin, timeout=120)
        if check and done.returncode != 0:
            raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr.decode(errors='replace')}")
        return done.stdout.decode(errors="replace").strip()

    def import_busybox(self, tag: str = IMAGE, changes: Sequence[str] = ()) -> str:
        """Load the busybox image; its id."""
        options = [part for change in changes for part in ("--change", change)]
        return self.cli("import", *options, "-", tag, stdin=busybox_tar())

    def run(self, name: str, *command: str, image: str = IMAGE, wait: bool = True, **options: Any) -> DockerContainer:
        """Start a container (docker SDK keywords); `stop_signal` is KILL so that removal is quick."""
        options.setdefault("stop_signal", "SIGKILL")
        if not self._networks:
            options.setdefault("network_mode", "none")
        if self._client is None:
            self._client = self.client()
        container = self._client.containers.create(image, list(command) or ["sleep", "1000000"], name=name, **options)
        container.start()
        if wait:
            container.reload()
        return container

    def suspend(self) -> None:
        """Hang the daemon: it accepts connections and never answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Stop the daemon and start it again; containers without --live-restore die with it."""
        self.terminate()
        self.start()

    def terminate(self) -> None:
        """End the daemon in good order."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def kill(self) -> None:
        """End the daemon with SIGKILL; its containers go on."""
        self._note_bridges()
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)

    def close(self) -> None:
        """Remove every container, end the daemon and everything it started, delete its files."""
        if self._client is not None:
            self._client.close()
        if self._process is not None and self._process.poll() is None:
            self.resume()
            with contextlib.suppress(Exception), contextlib.closing(self.client(timeout=30)) as client:
                for container in client.api.containers(all=True, quiet=True):
                    with contextlib.suppress(docker.errors.APIError):
                        client.api.remove_container(container["Id"], force=True, v=True)
                client.networks.prune()
        self.terminate()
        self._end_leftovers()
        for bridge in (*self._bridges, *((self._bridge,) if self._networks else ())):
            subprocess.run(["ip", "link", "del", bridge], capture_output=True)
        for mount in sorted(_mounts_below(self.folder), reverse=True):
            subprocess.run(["umount", "-l", mount], capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
            probe.settimeout(5)
            try:  # by hand: the SDK leaks its socket when a connection is refused
                probe.connect(str(self.socket))
                probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in probe.recv(64)
            except OSError:
                return False

    def _note_bridges(self) -> None:
        """The bridges of the networks that tests made, so that `close` can remove them after a kill."""
        if self._networks and self._process is not None and self._answers():
            with contextlib.closing(self.client()) as client:
                self._bridges |= {f"br-{network.id[:12]}" for network in client.networks.list()}

    def _containerd_pid(self) -> int | None:
        try:
            return int((self.folder / "exec/containerd/containerd.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _end_leftovers(self) -> None:
        """End what a killed daemon left: processes whose command line names our private folder."""
        marker = os.fsencode(self.folder)
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if marker in command and command.split(b"\0")[0].rsplit(b"/")[-1].startswith((b"containerd", b"dockerd")):
                children = _descendants(int(entry.name))
                for pid in (int(entry.name), *children):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    def _make_bridge(self) -> None:
        if Path("/sys/class/net", self._bridge).exists():
            return
        for arguments in (
            ("link", "add", "name", self._bridge, "type", "bridge"),
            ("addr", "add", f"{self._subnet}.255.1/24", "dev", self._bridge),
            ("link", "set", self._bridge, "up"),
        ):
            subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _descendants(pid: int) -> tuple[int, ...]:
    try:
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return ()
    return tuple(found for child in children for found in (child, *_descendants(child)))


def _mounts_below(folder: Path) -> list[str]:
    with Path("/proc/mounts").open(errors="replace") as mounts:
        return [line.split()[1] for line in mounts if line.split()[1].startswith(f"{folder}/")]


@contextlib.contextmanager
def running_dockerd(
    *,
    networks: bool = False,
    arguments: Sequence[str] = (),
    settings: Mapping[str, object] | None = None,
    image: bool = True,
) -> Iterator[Dockerd]:
    """A private daemon for the length of the block. `settings` are the contents of its daemon.json."""
    folder = Path(tempfile.mkdtemp(prefix="aifleet-dockerd-", dir="/tmp"))
    config = folder / "daemon.json"
    config.write_text(json.dumps(dict(settings or {})))
    daemon = Dockerd(folder, networks=networks, arguments=("--config-file", str(config), *arguments))
    try:
        daemon.start()
        if image:
            daemon.import_busybox()
        yield daemon
    finally:
        daemon.close()
