from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.model import (
    Batch,
    Container,
    ContainerGpuSample,
    ContainerSample,
    Event,
    Gpu,
    GpuSample,
    Histogram,
    Host,
    InferenceSample,
    Row,
    SourceRun,
)
from store import Store, StoreError, StoreOptions, StoreUnavailable, open_store
from store.client import parse_dsn
from tests.store.stores import ROOT, embedded_store, engine_folder

AT = datetime(2026, 11, 22, 10, 0, 5, tzinfo=UTC)
HOSTILE = (
    "<script>alert(1)</script>",
    "\x1b[31mred\x1b[0m",
    "x" * 10_000,
    '=HYPERLINK("http://evil")',
    "'; DROP TABLE hosts; --",
    "a\tb\nc\\d\0e",
    "{a:String} %s $1 ?",
    "наме 名前 🚀",
)


def sample(at: datetime = AT, **values: object) -> ContainerSample:
    fixed = {
        "at": at,
        "host": "h",
        "tenant": "t",
        "container_key": "h:c",
        "container_id": "id",
        "interval_seconds": 5.0,
    }
    return ContainerSample(**{**fixed, **values})  # type: ignore[arg-type]


def histogram(at: datetime = AT, **values: object) -> Histogram:
    fixed: dict[str, object] = {"at": at, "host": "h", "tenant": "t", "container_key": "h:c", "container_id": "id"}
    fixed |= {"endpoint": "e", "server": "vllm", "model": "m", "field": "ttft_seconds", "interval_seconds": 5.0}
    fixed |= {"bounds": (0.5, math.inf), "increments": (3.0, 1.0), "sum_increment": 2.5}
    return Histogram(**{**fixed, **values})  # type: ignore[arg-type]


def one_of_each() -> tuple[Row, ...]:
    who = {"host": "h", "tenant": "t", "container_key": "h:c", "container_id": "id"}
    return (
        sample(cpu_seconds=1.5, memory_working_set_bytes=100),
        histogram(),
        GpuSample(at=AT, host="h", gpu_uuid="G", gpu_index=0, interval_seconds=5.0, busy_ratio=0.5, energy_joules=10.0),
        ContainerGpuSample(at=AT, **who, gpu_uuid="G", interval_seconds=5.0, held=True, energy_joules=4.0),
        InferenceSample(
            at=AT,
            **who,
            prometheus="p",
            endpoint="e",
            server="vllm",
            model="m",
            interval_seconds=5.0,
            up=True,
            requests=7,
        ),
        Event(at=AT, event_id="e1", host="h", source="docker", kind="die", title="died", attributes={"code": "137"}),
        Container(
            seen_at=AT,
            **who,
            team="",
            owner="",
            tenant_origin="none",
            name="c",
            image="i",
            image_id="",
            image_digest="",
        ),
        Gpu(seen_at=AT, host="h", gpu_uuid="G", gpu_index=0, name="H100"),
        Host(seen_at=AT, host="h"),
        SourceRun(at=AT, source="docker", target="h", state="ok", interval_seconds=5.0, took_seconds=0.1, rows=1),
    )


def one(store: Store, sql: str, **parameters: object) -> dict[str, object]:
    (row,) = store.query(sql, parameters).to_pylist()
    return row


def test_a_batch_sent_again_counts_once_in_the_raw_tables_and_in_both_rollups(any_store: Store) -> None:
    for token in ("b1", "b1", "b2", "b1"):
        any_store.append(Batch(token=token, rows=one_of_each()))
    for table in ("container_samples", "histograms", "gpu_samples", "container_gpu_samples", "inference_samples"):
        assert one(any_store, f"SELECT count() AS n FROM {table}") == {"n": 2}
        for suffix in ("1m", "1h"):
            got = one(any_store, f"SELECT sum(samples) AS n, sum(interval_seconds) AS s FROM {table}_{suffix}")
            assert got == {"n": 2, "s": 10.0}
    for suffix in ("1m", "1h"):
        got = one(
            any_store,
            "SELECT sumForEachMerge(increments) AS i, sum(sum_increment) AS s "
            f"FROM histograms_{suffix} GROUP BY bounds, field",
        )
        assert got == {"i": [6.0, 2.0], "s": 5.0}
        assert one(any_store, f"SELECT sum(cpu_seconds) AS c FROM container_samples_{suffix}") == {"c": 3.0}
        assert one(any_store, f"SELECT sum(held_seconds) AS h FROM container_gpu_samples_{suffix}") == {"h": 10.0}
        assert one(any_store, f"SELECT sum(up_seconds) AS u, sum(requests) AS r FROM inference_samples_{suffix}") == {
            "u": 10.0,
            "r": 14.0,
        }
    assert one(any_store, "SELECT count() AS n FROM events FINAL") == {"n": 1}
    assert one(any_store, "SELECT attributes['code'] AS code FROM events FINAL") == {"code": "137"}


def test_unknown_stays_unknown_through_the_rollup_and_is_never_zero(any_store: Store) -> None:
    any_store.append(Batch(token="u", rows=(sample(cpu_seconds=None, memory_working_set_bytes=None, pids=3),)))
    any_store.append(Batch(token="v", rows=(sample(cpu_seconds=None, memory_working_set_bytes=None, pids=None),)))
    got = one(
        any_store,
        "SELECT sum(cpu_seconds) AS cpu, max(memory_working_set_bytes_max) AS m, "
        "sum(memory_working_set_bytes_weight_seconds) AS w, sum(pids_weighted) / sum(pids_weight_seconds) AS pids "
        "FROM container_samples_1m",
    )
    assert got == {"cpu": None, "m": None, "w": 0.0, "pids": 3.0}


def test_numbers_that_are_not_finite_become_unknown_and_bounds_keep_infinity(store: Store) -> None:
    rows = (sample(cpu_seconds=math.nan, cpu_limit_cores=math.inf, interval_seconds=math.nan), histogram())
    store.append(Batch(token="n", rows=(*rows, histogram(field="itl_seconds", increments=(math.nan, 1.0)))))
    got = one(store, "SELECT cpu_seconds AS c, cpu_limit_cores AS l, interval_seconds AS i FROM container_samples")
    assert got == {"c": None, "l": None, "i": 0.0}
    got = one(store, "SELECT bounds, increments FROM histograms WHERE field = 'ttft_seconds'")
    assert got == {"bounds": [0.5, math.inf], "increments": [3.0, 1.0]}
    got = one(store, "SELECT sumForEachMerge(increments) AS i FROM histograms_1h WHERE field = 'itl_seconds'")
    assert got == {"i": []}


def test_hostile_strings_come_back_as_they_went_in_and_do_nothing(any_store: Store) -> None:
    for text in HOSTILE:
        rows = (
            sample(container_key=text, state=text),
            Event(at=AT, event_id=text, host=text, source="docker", kind="die", title=text, attributes={text: text}),
        )
        any_store.append(Batch(token=text, rows=rows))
        sql = "SELECT container_key AS k, state AS s FROM container_samples WHERE container_key = {k:String}"
        assert one(any_store, sql, k=text) == {"k": text, "s": text}
        got = one(any_store, "SELECT title, attributes FROM events FINAL WHERE event_id = {k:String}", k=text)
        assert got == {"title": text, "attributes": [(text, text)]}
        assert one(any_store, "SELECT {a:Array(String)} AS a", a=[text, "b"]) == {"a": [text, "b"]}


def test_bytes_that_are_no_utf_8_are_marked_and_break_no_batch(store: Store) -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    store.append(Batch(token=f"token {name}", rows=(sample(container_key=name), sample(container_key="fine"))))
    got = store.query("SELECT container_key FROM container_samples ORDER BY container_key").to_pylist()
    assert [row["container_key"] for row in got] == ["caf\ufffd", "fine"]
    got = one(store, "SELECT {a:String} AS a, {b:Array(String)} AS b", a=name, b=[name])
    assert got == {"a": "caf\ufffd", "b": ["caf\ufffd"]}


def test_rows_around_midnight_and_the_end_of_a_month_land_in_their_partitions(store: Store) -> None:
    last = datetime(2026, 11, 30, 23, 59, 59, 999000, tzinfo=UTC)
    rows = (sample(last), sample(last + timedelta(milliseconds=1)))
    for token in ("m", "m"):
        store.append(Batch(token=token, rows=rows))
    got = store.query("SELECT DISTINCT _partition_id AS p FROM container_samples ORDER BY p").to_pylist()
    assert [row["p"] for row in got] == ["20261130", "20261201"]
    assert one(store, "SELECT sum(samples) AS n FROM container_samples_1h") == {"n": 2}


def test_times_are_utc_whatever_zone_they_came_in(store: Store) -> None:
    tokyo = datetime.fromisoformat("2026-11-23T01:30:00.250+09:00")
    store.append(Batch(token="z", rows=(sample(tokyo),)))
    got = one(store, "SELECT at, toString(at) AS text FROM container_samples")
    assert got["at"] == datetime(2026, 11, 22, 16, 30, 0, 250000, tzinfo=UTC)
    assert got["text"] == "2026-11-22 16:30:00.250"
    assert one(store, "SELECT toString(at) AS a FROM container_samples_1m") == {"a": "2026-11-22 16:30:00"}


def test_a_time_without_zone_is_refused_with_its_table(store: Store) -> None:
    with pytest.raises(StoreError, match=r"batch b: container_samples: .* has no time zone"):
        store.append(Batch(token="b", rows=(sample(datetime(2026, 1, 1)),)))  # noqa: DTZ001


def test_a_value_that_does_not_fit_is_refused_with_its_table(store: Store) -> None:
    with pytest.raises(StoreError, match="batch b: container_samples:"):
        store.append(Batch(token="b", rows=(sample(memory_limit_bytes=2**80),)))


numbers = st.none() | st.integers(min_value=0, max_value=1000)


@st.composite
def batches(draw: st.DrawFn) -> list[list[ContainerSample | Histogram]]:
    rows = st.builds(
        lambda second, key, interval, cpu, memory: sample(
            AT + timedelta(seconds=second),
            container_key=key,
            interval_seconds=float(interval),
            cpu_seconds=None if cpu is None else cpu / 4,
            memory_working_set_bytes=memory,
        ),
        st.integers(0, 2 * 3600),
        st.sampled_from(["a", "b"]),
        st.integers(1, 10),
        numbers,
        numbers,
    )
    buckets = st.builds(
        lambda second, wide, increments: histogram(
            AT + timedelta(seconds=second),
            bounds=(1.0, 2.0, math.inf) if wide else (1.0, math.inf),
            increments=tuple(float(value) for value in increments[: 3 if wide else 2]),
        ),
        st.integers(0, 2 * 3600),
        st.booleans(),
        st.lists(st.integers(0, 50), min_size=3, max_size=3),
    )
    return draw(st.lists(st.lists(rows | buckets, min_size=1, max_size=12), min_size=1, max_size=4))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=batches())
def test_a_rollup_is_the_sum_of_its_raw_rows(store: Store, batches: list[list[ContainerSample | Histogram]]) -> None:
    tables = ("container_samples", "histograms")
    for table in (f"{name}{suffix}" for name in tables for suffix in ("", "_1m", "_1h")):
        store.command(f"TRUNCATE TABLE {table}")
    for number, rows in enumerate(batches):
        for _ in range(1 + number % 2):
            store.append(Batch(token=f"p{number}", rows=tuple(rows)))
    flat = [row for rows in batches for row in rows]
    samples = [row for row in flat if isinstance(row, ContainerSample)]
    sums: dict[str, list[ContainerSample]] = defaultdict(list)
    for row in samples:
        sums[row.container_key].append(row)
    buckets: dict[tuple[float, ...], list[Histogram]] = defaultdict(list)
    for row in flat:
        if isinstance(row, Histogram):
            buckets[row.bounds].append(row)
    for suffix in ("1m", "1h"):
        got = store.query(
            "SELECT container_key AS k, sum(samples) AS n, sum(interval_seconds) AS s, sum(cpu_seconds) AS cpu, "
            "sum(memory_working_set_bytes_weighted) AS mw, sum(memory_working_set_bytes_weight_seconds) AS ms, "
            f"max(memory_working_set_bytes_max) AS mm FROM container_samples_{suffix} GROUP BY k"
        ).to_pylist()
        assert {row["k"] for row in got} == set(sums)
        for row in got:
            mine = sums[row["k"]]
            cpu = [item.cpu_seconds for item in mine if item.cpu_seconds is not None]
            memory = [
                (item.memory_working_set_bytes, item.interval_seconds)
                for item in mine
                if item.memory_working_set_bytes is not None
            ]
            assert row["n"] == len(mine)
            assert row["s"] == sum(item.interval_seconds for item in mine)
            assert row["cpu"] == (sum(cpu) if cpu else None)
            assert row["mw"] == (sum(value * seconds for value, seconds in memory) if memory else None)
            assert row["ms"] == sum(seconds for _, seconds in memory)
            assert row["mm"] == (max(value for value, _ in memory) if memory else None)
        got = store.query(
            "SELECT bounds, sum(samples) AS n, sumForEachMerge(increments) AS i "
            f"FROM histograms_{suffix} GROUP BY bounds"
        ).to_pylist()
        assert {tuple(row["bounds"]): (row["n"], row["i"]) for row in got} == {
            bounds: (len(mine), [sum(column) for column in zip(*(item.increments for item in mine), strict=True)])
            for bounds, mine in buckets.items()
        }


def test_threads_write_and_read_at_the_same_time(any_store: Store) -> None:
    failures: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            for turn in range(5):
                any_store.append(Batch(token=f"{worker}-{turn}", rows=(sample(container_key=f"{worker}"),)))
                any_store.query(
                    "SELECT count() FROM container_samples WHERE container_key = {k:String}", {"k": str(worker)}
                )
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert one(any_store, "SELECT count() AS n FROM container_samples") == {"n": 20}
    assert one(any_store, "SELECT sum(samples) AS n FROM container_samples_1m") == {"n": 20}


def test_errors_carry_the_engines_code(any_store: Store) -> None:
    with pytest.raises(StoreError) as caught:
        any_store.query("SELECT * FROM no_such_table")
    assert caught.value.code == 60
    assert not isinstance(caught.value, StoreUnavailable)
    with pytest.raises(StoreError) as caught:
        any_store.query("SELECT {x:UInt8}", {"x": "not a number"})
    assert caught.value.code in (457, 27, 72, 41)
    assert one(any_store, "SELECT 1 AS one") == {"one": 1}


def test_a_query_that_failed_half_way_leaves_nothing_in_the_next_answer(any_store: Store) -> None:
    # chDB puts what it had written of the failed answer in front of the next one on the same connection.
    for _ in range(2):
        with pytest.raises(StoreError):
            any_store.query("SELECT throwIf(number = 3, 'half way') FROM numbers(5)")
        assert any_store.query("SELECT 1 AS one").to_pylist() == [{"one": 1}]


def test_a_query_has_a_time_limit_and_a_command_has_none(tmp_path) -> None:
    with embedded_store(tmp_path) as made:
        dsn = f"chdb://{made.dsn.path}?database={made.dsn.database}"
        store = open_store(dsn, StoreOptions(query_timeout_seconds=1))
        slow = "SELECT count() FROM numbers(30) WHERE sleepEachRow(0.05) = 0"
        with pytest.raises(StoreUnavailable):
            store.query(slow)
        store.command(f"CREATE TABLE waited ENGINE = Memory AS {slow}")
        store.close()


def test_a_query_with_a_format_is_told_to_leave_it_out(store: Store) -> None:
    with pytest.raises(StoreError):
        store.query("SELECT 1 FORMAT CSV")


def test_a_closed_store_says_so_and_closing_twice_is_fine() -> None:
    with embedded_store(migrate=False) as other:
        store = open_store(f"chdb://{engine_folder()}?database={other.dsn.database}")
        store.query("SELECT 1")
        store.close()
        store.close()
        with pytest.raises(StoreUnavailable, match="it is closed"):
            store.query("SELECT 1")
        assert one(other, "SELECT 1 AS one") == {"one": 1}


def test_a_folder_held_by_another_process_is_unavailable_and_names_the_folder() -> None:
    code = (
        "import sys\nfrom store import *\n"
        "try:\n    open_store(sys.argv[1]).query('SELECT 1')\n"
        "except StoreUnavailable as error:\n    print('AWAY', error)\n"
    )
    with embedded_store(migrate=False) as store:
        store.query("SELECT 1")
        run = subprocess.run(
            [sys.executable, "-c", code, f"chdb://{engine_folder()}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert run.stdout.startswith("AWAY store "), run.stderr
    assert "another process holds it" in run.stdout
    assert str(engine_folder()) in run.stdout


def test_a_server_that_is_not_there_is_unavailable_in_one_short_line() -> None:
    store = open_store("clickhouse://user:hunter2@127.0.0.1:1/fleet")
    with pytest.raises(StoreUnavailable, match=r"^store 127\.0\.0\.1:1: .*refused$"):
        store.query("SELECT 1")
    assert "hunter2" not in repr(store.dsn)


@pytest.mark.parametrize("dsn", ["", "chdb://relative/path", "http://host:1", "clickhouse://", "postgres://h/db"])
def test_an_address_of_another_kind_is_refused_with_what_to_write(dsn: str) -> None:
    with pytest.raises(StoreError, match="write chdb:///absolute/folder"):
        open_store(dsn)


def test_an_address_is_read_in_parts() -> None:
    dsn = parse_dsn("clickhouses://user:p%40ss@host:9/db")
    assert (dsn.user, dsn.password, dsn.host, dsn.port, dsn.database, dsn.secure) == (
        "user",
        "p@ss",
        "host",
        9,
        "db",
        True,
    )
    assert parse_dsn("clickhouse://host").port == 8123
    assert parse_dsn("clickhouses://host").port == 8443
    assert parse_dsn("chdb:///a/b").database == "fleet"


def test_a_rollup_that_missed_a_batch_gets_it_from_the_retry_while_the_raw_table_does_not_double(store: Store) -> None:
    store.command("DETACH TABLE container_samples_1m_mv")
    store.append(Batch(token="b", rows=(sample(),)))
    store.command("ATTACH TABLE container_samples_1m_mv")
    assert one(store, "SELECT sum(samples) AS n FROM container_samples_1m") == {"n": 0}
    store.append(Batch(token="b", rows=(sample(),)))
    assert one(store, "SELECT count() AS n FROM container_samples") == {"n": 1}
    assert one(store, "SELECT sum(samples) AS n FROM container_samples_1m") == {"n": 1}
    assert one(store, "SELECT sum(samples) AS n FROM container_samples_1h") == {"n": 1}
