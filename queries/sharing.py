"""Questions of one page that rest on the same facts read them once.

Five panels of Overview need the live fleet; asked separately it would be read five times within 100 ms. An answer is
shared for a second, long enough for one look of one page and too short for anyone to see an old one. Callers that ask
at the same time wait for the one that reads.
"""

from __future__ import annotations

import functools
import math
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar, cast

from store import Store, StoreError

P = ParamSpec("P")
T = TypeVar("T")

SHARED_SECONDS = 1.0
#: So long is kept what ended at a round time in the past, and can be changed only by rows that come late.
KEPT_SECONDS = 120.0
_ROUND_SECONDS = 600
_lock = threading.Lock()
_answers: weakref.WeakKeyDictionary[Store, dict[Hashable, tuple[float, Future[object]]]] = weakref.WeakKeyDictionary()


def shared_for(seconds: float) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """The same question with the same arguments is read once in so many seconds for each store; errors are not kept.

    More than a second is for what has ended and can only be changed by rows that come late.
    """

    def share(question: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(question)
        def ask(*args: P.args, **kwargs: P.kwargs) -> T:
            return cast("T", _ask(seconds, question, args, kwargs))

        return ask

    return share


def shared(question: Callable[P, T]) -> Callable[P, T]:
    """`shared_for` one look of a page."""
    return shared_for(SHARED_SECONDS)(question)


def _ask(seconds: float, question: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
    store = cast("Store", args[0])
    key = (question, args[1:], tuple(sorted(kwargs.items())))
    future: Future[object] = Future()
    with _lock:
        now = time.monotonic()
        kept = _answers.setdefault(store, {})
        for old in [name for name, (end, _) in kept.items() if now >= end]:
            del kept[old]
        entry = kept.get(key)
        if entry is None:
            kept[key] = (math.inf, future)  # while it is being read, nobody else begins
    if entry is not None:
        return entry[1].result()
    try:
        answer = question(*args, **kwargs)
    except BaseException as error:
        with _lock:
            _answers.get(store, {}).pop(key, None)
        # The exception itself, or a bug would read as a store that is away. What stops one thread (an interrupt) is no
        # business of those that wait: they only learn that there is no answer.
        future.set_exception(error if isinstance(error, Exception) else StoreError(0, "question was interrupted"))
        raise
    with _lock:
        _answers.setdefault(store, {})[key] = (time.monotonic() + seconds, future)
    future.set_result(answer)
    return answer


Frozen = tuple[tuple[str, object], ...]


def frozen(parameters: Mapping[str, object]) -> Frozen:
    """A query's parameters as a value that its answer can be shared by."""
    return tuple(
        (name, tuple(cast("list[object]", value)) if isinstance(value, list) else value)
        for name, value in sorted(parameters.items())
    )


def thawed(parameters: Frozen) -> dict[str, object]:
    """The parameters that `frozen` was given."""
    return {n: list(cast("tuple[object, ...]", v)) if isinstance(v, tuple) else v for n, v in parameters}


def round_time_before(end: datetime) -> datetime:
    """The round time, 10 to 20 minutes before, up to which history is shared: rows are rarely later than that."""
    seconds = (int(end.timestamp()) // _ROUND_SECONDS - 1) * _ROUND_SECONDS
    return datetime.fromtimestamp(seconds, tz=UTC)
