"""A remote daemon's socket, here: a private unix socket whose every connection goes through the `ssh` program.

The far side runs `docker system dial-stdio`, as the docker command itself does for ssh:// addresses. The Python SDK's
own ssh transport knows no read timeout and leaves its processes behind; behind a unix socket both are ordinary.
Keys, jump hosts and known hosts are those of the user's ssh configuration; nothing is ever asked.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from urllib.parse import urlsplit

from fleet.redaction import inert, redact_text

_OPTIONS = ("-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15")


class SshBridge:
    """Listens until closed. `url` is the local address, `last_error` what ssh last complained about."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        where = [*(("-p", str(parts.port)) if parts.port else ()), *(("-l", parts.username) if parts.username else ())]
        self._command = ("ssh", *_OPTIONS, *where, "--", parts.hostname or "", "docker", "system", "dial-stdio")
        self._folder = Path(tempfile.mkdtemp(prefix="aifleet-ssh-"))
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self._folder / "docker.sock"))
        self._server.listen(128)
        self.url = f"unix://{self._folder}/docker.sock"
        self.last_error = ""
        threading.Thread(target=self._serve, name=f"ssh-{parts.hostname}", daemon=True).start()

    def close(self) -> None:
        """Stop listening and end every connection."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        with self._lock:
            processes = tuple(self._processes)
        for process in processes:
            process.kill()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(connection,), name="ssh-connection", daemon=True).start()

    def _carry(self, connection: socket.socket) -> None:
        with connection:
            try:
                process = subprocess.Popen(  # noqa: S603 - our own words and the host of the settings, no shell
                    self._command, stdin=connection.fileno(), stdout=connection.fileno(), stderr=subprocess.PIPE
                )
            except OSError as error:
                self.last_error = f"ssh cannot be run ({error.strerror}); install an ssh client"
                return
        with self._lock:
            self._processes.add(process)
        with process:
            complaint = b"" if process.stderr is None else process.stderr.read()[-2000:]
        with self._lock:
            self._processes.discard(process)
        words = complaint.decode(errors="replace").strip().splitlines()
        if process.returncode > 0 and words:
            self.last_error = inert(redact_text(words[-1]), 200)
