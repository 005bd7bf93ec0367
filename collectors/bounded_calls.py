"""Calls that may hang for ever, made so that nobody waits for them longer than intended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")

_HANGING_LIMIT = 256


class BoundedCalls:
    """Runs calls in threads of their own and stops waiting at a deadline; a call that hangs is left behind.

    Daemon threads, not a ThreadPoolExecutor: the interpreter waits for an executor's threads when it ends, so one call
    that never returns would keep the whole process from ending.
    """

    def __init__(self, name: str, monotonic: Callable[[], float]) -> None:
        self._name = name
        self._monotonic = monotonic
        self._left_behind: list[threading.Thread] = []

    def each(self, jobs: Mapping[str, Callable[[], T]], deadline: float, *, workers: int) -> dict[str, T]:
        """Results of the calls that returned by the deadline, at most `workers` at a time. A call must not raise.

        Nothing is started while hundreds of earlier calls still hang.
        """
        self._left_behind = [thread for thread in self._left_behind if thread.is_alive()]
        if not jobs or len(self._left_behind) >= _HANGING_LIMIT:
            return {}
        results: dict[str, T] = {}
        waiting = iter(jobs.items())
        lock, done = threading.Lock(), threading.Event()

        def work() -> None:
            while not done.is_set():
                with lock:
                    job = next(waiting, None)
                if job is None:
                    return
                result = job[1]()
                with lock:
                    results[job[0]] = result
                    if len(results) == len(jobs):
                        done.set()

        threads = [threading.Thread(target=work, name=self._name, daemon=True) for _ in range(min(workers, len(jobs)))]
        for thread in threads:
            thread.start()
        done.wait(max(deadline - self._monotonic(), 0.0))
        done.set()
        self._left_behind += threads
        with lock:
            return dict(results)
