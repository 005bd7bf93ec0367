"""The only cache between pages and store: one answer per question, scope, window and snapshot, shared by all viewers.

Everything is keyed by the scope, so no viewer can be served what was read for another. Answers are immutable Arrow,
so they are shared as they are (Streamlit's own cache would copy each on every hit). Questions run on threads of our
own: Streamlit starts a new thread for every run of a page, and a store connection belongs to its thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import pyarrow as pa

from store import Store, StoreError, StoreUnavailable

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

#: Longest wait of a page for one answer; the store's own limit ends the question itself.
PATIENCE_SECONDS = 25.0
#: Windows end on shared snapshots; a few of them, for pages with different ranges, are enough.
_SNAPSHOTS_KEPT = 6
#: Slots of slowly read questions that are remembered: one for each range and pace, the newest last.
_SLOTS_KEPT = 64
#: ClickHouse: wrong password, required password, unknown user, authentication failed.
_CREDENTIALS_REFUSED = frozenset({192, 193, 194, 516})


class _Statements:
    """An open store as questions see it: a statement is read once for a snapshot, whichever question needs it.

    Questions of one page share most of their statements (all of them need the live containers). There is one object
    for all snapshots, because `queries.sharing` keeps what outlives a snapshot by the store it was read from.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._thread = threading.local()
        self._tables: OrderedDict[Hashable, dict[Hashable, Future[pa.Table]]] = OrderedDict()

    def answer(
        self, snapshot: Hashable, question: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        """What the question answers for this snapshot, asked on this thread."""
        self._thread.snapshot = snapshot
        return question(self, *args, **kwargs)

    def query(
        self, sql: str, parameters: Mapping[str, object] | None = None, *, settings: Mapping[str, object] | None = None
    ) -> pa.Table:
        """As `Store.query`. Statement and parameters say everything that decides the answer, the scope included."""
        key = (sql, _frozen(parameters or {}), _frozen(settings or {}))
        with self._lock:
            tables = self._tables.setdefault(self._thread.snapshot, {})
            while len(self._tables) > _SNAPSHOTS_KEPT:
                self._tables.popitem(last=False)
            future = tables.get(key)
            mine = future is None
            if future is None:
                future = tables[key] = Future()
        if mine:
            try:
                future.set_result(self._store.query(sql, parameters, settings=settings))
            except StoreError as error:
                with self._lock:
                    tables.pop(key, None)
                future.set_exception(error)
        return future.result(timeout=PATIENCE_SECONDS)


def _frozen(value: object) -> Hashable:
    if isinstance(value, Mapping):
        return tuple(sorted((name, _frozen(item)) for name, item in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item) for item in value)
    return cast("Hashable", value)


class Reader:
    """Asks the store, remembers the answers of the newest snapshots.

    opener: opens the store at the first question; raises StoreUnavailable while it cannot.
    """

    def __init__(
        self,
        opener: Callable[[], Store],
        *,
        threads: int = 4,
        entries: int = 256,
        pulse_seconds: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._opener = opener
        self._store: Store | None = None
        self._statements: _Statements | None = None
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="store-reader")
        self._entries = entries
        self._pulse_seconds = pulse_seconds
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._answers: OrderedDict[Hashable, Future[object]] = OrderedDict()
        self._pulses: dict[Hashable, tuple[float, Future[object]]] = {}
        self._slots: OrderedDict[Hashable, object] = OrderedDict()
        self._away = False
        self.asked = 0

    def ask(
        self, snapshot: Hashable, question: Callable[Concatenate[Store, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The answer to a question, read at most once per snapshot and arguments.

        Raises StoreUnavailable when the store does not answer, StoreError when it refuses; neither is remembered.
        """
        key, future = self._begin(snapshot, question, args, kwargs)
        try:
            return cast("T", self._wait(future))
        except StoreError:
            with self._lock:
                self._answers.pop(key, None)
            raise

    def ahead(
        self, snapshot: Hashable, question: Callable[Concatenate[Store, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Start reading what `ask` will want, without waiting: the questions of a page are read side by side."""
        self._begin(snapshot, question, args, kwargs)

    def _begin(
        self, snapshot: Hashable, question: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Hashable, Future[object]]:
        key = (question, snapshot, args, tuple(sorted(kwargs.items())))
        with self._lock:
            future = self._answers.get(key)
            if future is None:
                future = self._start(snapshot, question, args, kwargs)
                self._answers[key] = future
                while len(self._answers) > self._entries:
                    self._answers.popitem(last=False)
            else:
                self._answers.move_to_end(key)
        return key, future

    def pulse(self, question: Callable[Concatenate[Store, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Like `ask` for the question "what is the newest snapshot": read at most once a second for all viewers."""
        key = (question, args, tuple(sorted(kwargs.items())))
        now = self._monotonic()
        with self._lock:
            read = self._pulses.get(key)
            if read is None or now - read[0] >= self._pulse_seconds:
                self._pulses = {k: v for k, v in self._pulses.items() if now - v[0] < 60}
                read = (now, self._start(None, question, args, kwargs))
                self._pulses[key] = read
        return cast("T", self._wait(read[1]))

    def first(self, slot: Hashable, value: T) -> T:
        """The value that was given first for this slot, by whichever viewer: from then on it is that of all."""
        with self._lock:
            kept = self._slots.setdefault(slot, value)
            while len(self._slots) > _SLOTS_KEPT:
                self._slots.popitem(last=False)
        return cast("T", kept)

    def close(self) -> None:
        """Stop the threads and let go of the store."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._let_go()

    def _start(
        self, snapshot: Hashable, question: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[object]:
        self.asked += 1
        return self._pool.submit(self._put, snapshot, question, args, kwargs)

    def _put(
        self, snapshot: Hashable, question: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        """Runs on a thread of the pool. Opens the store late, so that the pages come up before the collector does."""
        with self._opening:
            if self._store is None or self._statements is None:
                self._store = self._opener()
                self._statements = _Statements(self._store)
            store, statements = self._store, self._statements
        try:
            if snapshot is None:
                return question(store, *args, **kwargs)
            return statements.answer(snapshot, question, args, kwargs)
        except StoreError as error:
            if error.code in _CREDENTIALS_REFUSED:  # the collector began anew with a new token: read it again
                self._let_go()
            raise

    def _let_go(self) -> None:
        with self._opening:
            store, self._store, self._statements = self._store, None, None
        if store is not None:
            store.close()

    def _wait(self, future: Future[object]) -> object:
        try:
            answer = future.result(timeout=PATIENCE_SECONDS)
        except FutureTimeoutError as error:
            raise StoreUnavailable(0, f"no answer within {PATIENCE_SECONDS:g} s") from error
        except StoreUnavailable as error:
            if not self._away:
                self._away = True
                log.warning("store does not answer: %s", error)
            raise
        if self._away:
            self._away = False
            log.info("store answers again")
        return answer
