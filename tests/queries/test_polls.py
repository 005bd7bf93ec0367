"""Polls summed by hour, with the broken hours at both ends read one by one, say what all polls one by one say."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest

from fleet.model import Batch, SourceRun, Window
from queries.polls import polls, silences
from tests.queries.three_tenants import END
from tests.store.stores import KINDS, store_of_kind

DAY = timedelta(days=1)


def runs(seed: int) -> list[SourceRun]:
    """Two days of a target polled each minute with failures, one that fell silent a day ago, and one with a gap."""
    dice = random.Random(seed)
    found: list[SourceRun] = []
    for target, first, last in (("always", 48, 0), ("gone", 40, 23), ("gap", 48, 9), ("gap", 6.5, 0)):
        for minute in range(round(first * 60), round(last * 60), -1):
            failed = dice.random() < 0.1
            found.append(
                SourceRun(
                    at=END - timedelta(minutes=minute - 1), source="docker", target=target,
                    state="failed" if failed else "ok", interval_seconds=60.0, took_seconds=0.1, rows=1,
                )
            )  # fmt: skip
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hours", [0.25, 1, 3.4, 24, 30.7])
def test_sums_times_and_states_are_those_of_the_polls_one_by_one(kind: str, hours: float, tmp_path):
    every = runs(7)
    with store_of_kind(kind, tmp_path / "store") as store:
        store.append(Batch(token="polls", rows=tuple(every)))
        # Ends within an hour, on a full hour, and past the last poll.
        for end in (END - timedelta(minutes=17), END, END + timedelta(minutes=25)):
            window = Window(start=end - timedelta(hours=hours), end=end)
            told = {one.target: one for one in polls(store, window, DAY)}
            expected = {run.target for run in every if window.start - DAY < run.at <= end}
            assert set(told) == expected
            for target, one in told.items():
                mine = [run for run in every if run.target == target and run.at <= end]
                inside = [run for run in mine if run.at > window.start]
                good = [run for run in inside if run.state == "ok"]
                assert (one.tried_seconds, one.good_seconds) == (60.0 * len(inside), 60.0 * len(good))
                hour = [run for run in mine if run.state == "ok" and run.at > end - timedelta(hours=1)]
                assert one.good_last_hour_seconds == 60.0 * len(hour)
                newest = max(mine, key=lambda run: run.at)
                assert (one.newest_ms, one.state) == (newest.at.timestamp() * 1000, newest.state)
                known_good = [run.at.timestamp() * 1000 for run in mine if run.state == "ok"]
                assert one.good_ms == max(known_good)


def test_only_hours_around_a_silence_are_read_for_it(tmp_path):
    with store_of_kind("chdb", tmp_path / "store") as store:
        store.append(Batch(token="polls", rows=tuple(runs(7))))
        found = silences(store, Window(start=END - timedelta(hours=20), end=END))
    quiet = {round((END.timestamp() - hour) / 3600) for hour in found.hours}
    # The gap is from 9 h to 6.5 h before the end: the hours it lies in, those beside them, and the last two.
    assert quiet & set(range(12, 20)) == set()
    assert {10, 9, 7, 6, 1, 0} <= quiet
    assert found.between("docker", "gap", END - timedelta(hours=9), END - timedelta(hours=6.5))
    assert not found.between("docker", "always", END - timedelta(hours=9), END - timedelta(hours=6.5))
