"""A proxy in front of a real daemon that a test can turn into a slow, lying or refusing one."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

Answer = bytes | None


class DockerProxy:
    """Forwards each request over a connection of its own. `on_request(path)` runs first; its bytes are the answer."""

    def __init__(self, daemon: Path, socket_path: Path) -> None:
        self.url = f"unix://{socket_path}"
        self.paths: list[str] = []
        self.on_request: Callable[[str], Answer] = lambda path: None
        self._daemon = daemon
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(socket_path))
        self._server.listen(128)
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for each in tuple(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def asked(self, pattern: str) -> int:
        """How many requests for a path were made."""
        return sum(re.search(pattern, path) is not None for path in self.paths)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._handle, args=(client,), daemon=True).start()

    def _handle(self, client: socket.socket) -> None:
        with contextlib.closing(client), contextlib.suppress(OSError):
            self._open.add(client)
            head = b""
            while b"\r\n\r\n" not in head:
                part = client.recv(65536)
                if not part:
                    return
                head += part
            path = head.split(b" ", 2)[1].decode()
            self.paths.append(path)
            answer = self.on_request(path)
            if answer is not None:
                client.sendall(answer)
                return
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as daemon:
                self._open.add(daemon)
                daemon.connect(str(self._daemon))
                daemon.sendall(head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
                while part := daemon.recv(65536):
                    client.sendall(part)
            self._open.discard(daemon)
        self._open.discard(client)


def http_answer(status: int, body: bytes, kind: str = "application/json") -> bytes:
    """A whole HTTP answer."""
    return (
        f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode() + body


@contextlib.contextmanager
def docker_proxy(daemon: Path, folder: Path) -> Iterator[DockerProxy]:
    proxy = DockerProxy(daemon, folder / "proxy.sock")
    try:
        yield proxy
    finally:
        proxy.close()
