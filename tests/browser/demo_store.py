"""A gateway before a store with three hours of the synthetic fleet, as a process of its own; stays live."""

from __future__ import annotations

import socket
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import uvicorn

from collectors import demo
from collectors.build import MigratingStore
from collectors.job_building import demo_job_source
from collectors.sources.synthetic import SyntheticSource
from fleet.model import Batch
from fleet.settings import load_settings
from store import open_store
from store.client import Engine
from store.gateway import GatewayTokens, gateway_app


def main(folder, port):
    demo.HISTORY = timedelta(hours=3)
    dsn = f"chdb://{folder}"
    store = open_store(dsn)
    store.migrate()
    position = demo.find_position(store, 7, datetime.now(UTC))
    filled_to = demo.fill(store, position, datetime.now(UTC), lambda *_: None)
    source = SyntheticSource(position.fleet, filled_to)
    settings = load_settings("", {"AIFLEET_DATA_DIR": str(Path(folder).parent)}, origin="test")
    jobs = demo_job_source(settings, MigratingStore(store), position.fleet, filled_to - demo.HISTORY, filled_to)

    def live():
        while True:
            at = datetime.now(UTC)
            rows = (*source.collect(at).rows, position.fleet.run_row(at, 5.0, 0.01, 1))
            store.append(Batch(token=at.isoformat(), rows=rows))
            jobs.collect(at)
            time.sleep(5)

    threading.Thread(target=live, daemon=True).start()
    app = gateway_app(Engine(dsn), GatewayTokens(writer="w" * 32, reader="reader-token-of-the-tests"))
    # Named protocol: asyncio sets TCP_NODELAY only then, and without it each answer waits 40 ms for an acknowledgement.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", port))
    listener.listen(64)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off")).run(sockets=[listener])


main(sys.argv[1], int(sys.argv[2]))
