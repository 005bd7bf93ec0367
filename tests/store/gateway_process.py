"""The gateway as a process of its own, for tests: prints its port, serves until it is ended."""

from __future__ import annotations

import socket

import uvicorn

from store.client import Engine
from store.gateway import GatewayLimits, GatewayTokens, gateway_app


def main(path: str, writer: str, reader: str, limits: GatewayLimits | None = None) -> None:
    engine = Engine(f"chdb://{path}")
    app = gateway_app(engine, GatewayTokens(writer=writer, reader=reader), limits)
    # With the protocol named: asyncio sets TCP_NODELAY only then, and without it every answer waits 40 ms for an ACK.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        print(listener.getsockname()[1], flush=True)
        server.run(sockets=[listener])
    engine.close()
