"""What callers that ask at the same time get from the one that reads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from queries.sharing import shared
from store import StoreUnavailable


class Anything:
    """A store that only has to be told from others."""


@pytest.mark.parametrize("failure", [KeyError("no_such_column"), StoreUnavailable(0, "connection refused")])
def test_everyone_who_waits_gets_the_very_exception_of_the_one_that_reads(failure: Exception) -> None:
    # One caller begins to read; the second asks meanwhile and waits; then the reading fails.
    reading, may_fail = threading.Event(), threading.Event()
    reads: list[str] = []

    @shared
    def question(store: object, words: str) -> str:
        reads.append(words)
        reading.set()
        assert may_fail.wait(10)
        raise failure

    store = Anything()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(question, store, "same")
        assert reading.wait(10)
        second = threads.submit(question, store, "same")
        threading.Timer(0.5, may_fail.set).start()
        # A bug stays a bug for both, or the page of the second says that the store is away.
        assert first.exception(10) is failure
        assert second.exception(10) is failure
    assert reads == ["same"]
