"""The gateway as a process of its own, for tests: prints its port, serves until it is ended."""

from __future__ import annotations

import socket

import uvicorn

from store.client import Engine
from store.gateway import GatewayLimits, GatewayTokens, gateway_app


def main(path: str, writer: str, reader: str, limits: GatewayLimits | None = None) -> None:
    engine = Engine(f"chdb://{path}")
    app = gateway_app(engine, GatewayTokens(writer=writer, reader=reader), limits)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        print(listener.getsockname()[1], flush=True)
        server.run(sockets=[listener])
    engine.close()
