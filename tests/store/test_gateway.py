from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import clickhouse_connect
import httpx
import lz4.frame
import pyarrow as pa
import pytest
import zstandard

from fleet.model import Batch, ContainerSample, Host
from store import StoreError, StoreOptions, StoreUnavailable, open_store
from store.client import Engine
from store.gateway import GatewayLimits, GatewayTokens, gateway_app
from tests.store.stores import READER, ROOT, WRITER, engine_folder, gateway_process

AT = datetime(2026, 11, 22, 10, 0, 5, tzinfo=UTC)
SECRET = "top-secret-line"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with gateway_process(tmp_path_factory.mktemp("gateway") / "store") as port:
        store = open_store(f"clickhouse://x:{WRITER}@127.0.0.1:{port}/")
        store.migrate()
        row = ContainerSample(at=AT, host="h", tenant="t", container_key="k", container_id="i", interval_seconds=5)
        store.append(Batch(token="b", rows=(row, Host(seen_at=AT, host="h"))))
        store.close()
        yield port


@pytest.fixture(scope="module")
def reader(port: int) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"X-ClickHouse-Key": READER}) as client:
        yield client


@pytest.fixture(scope="module")
def writer(port: int) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"X-ClickHouse-Key": WRITER}) as client:
        yield client


def test_ping_answers_without_a_token(port: int) -> None:
    answer = httpx.get(f"http://127.0.0.1:{port}/ping")
    assert (answer.status_code, answer.text) == (200, "Ok.\n")


@pytest.mark.parametrize(
    "headers",
    [
        {"X-ClickHouse-Key": READER},
        {"Authorization": f"Bearer {READER}"},
        {"Authorization": "Basic " + base64.b64encode(f"anyone:{READER}".encode()).decode()},
    ],
)
def test_the_token_comes_in_any_of_three_headers(port: int, headers: dict[str, str]) -> None:
    answer = httpx.post(f"http://127.0.0.1:{port}/", content="SELECT 1", headers=headers)
    assert (answer.status_code, answer.text) == (200, "1\n")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-ClickHouse-Key": ""},
        {"X-ClickHouse-Key": "wrong"},
        {"X-ClickHouse-Key": READER + "x"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic " + base64.b64encode(READER.encode()).decode()},
        {"Authorization": f"Digest {READER}"},
    ],
)
def test_no_token_or_a_wrong_one_is_refused_with_clickhouses_code(port: int, headers: dict[str, str]) -> None:
    answer = httpx.post(f"http://127.0.0.1:{port}/", content="SELECT 1", headers=headers)
    assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (401, "516")


def test_sql_comes_in_the_body_or_the_address_or_both(reader: httpx.Client) -> None:
    assert reader.get("/", params={"query": "SELECT 2"}).text == "2\n"
    assert reader.post("/", params={"query": "SELECT"}, content="3").text == "3\n"
    answer = reader.post(
        "/", params={"param_a": "x'\\\\y\\tz", "param_b": "['p','q']"}, content="SELECT {a:String}, {b:Array(String)}"
    )
    assert answer.text == "x\\'\\\\y\\tz\t['p','q']\n"
    assert answer.headers["X-ClickHouse-Format"] == "TabSeparated"
    assert answer.headers["X-ClickHouse-Timezone"] == "UTC"
    assert answer.headers["X-ClickHouse-Query-Id"]


def test_a_query_id_is_given_back_and_cannot_smuggle_headers(reader: httpx.Client) -> None:
    answer = reader.post("/", params={"query_id": "a\r\nX-Evil: 1"}, content="SELECT 1")
    assert answer.headers["X-ClickHouse-Query-Id"] == "a__X-Evil:_1"
    assert "X-Evil" not in answer.headers


@pytest.mark.parametrize(
    ("name", "decode"),
    [
        ("gzip", gzip.decompress),
        ("lz4", lz4.frame.decompress),
        ("zstd", lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data)),
    ],
)
def test_answers_are_compressed_as_the_client_asks(port: int, name: str, decode) -> None:
    with httpx.stream(
        "POST",
        f"http://127.0.0.1:{port}/?enable_http_compression=1",
        content="SELECT repeat('a', 1000)",
        headers={"X-ClickHouse-Key": READER, "Accept-Encoding": name},
    ) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["Content-Encoding"] == name
    assert len(raw) < 200
    assert decode(raw) == b"a" * 1000 + b"\n"


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("gzip", gzip.compress),
        ("lz4", lz4.frame.compress),
        ("zstd", zstandard.ZstdCompressor().compress),
        ("identity", bytes),
    ],
)
def test_bodies_may_be_compressed_and_chunked(writer: httpx.Client, name: str, encode) -> None:
    host = f"host-{name}"
    sink = io.BytesIO()
    table = pa.table({"host": [host], "os": ["x"]})
    with pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    data = encode(sink.getvalue())
    chunks = (data[start : start + 100] for start in range(0, len(data), 100))
    query = {"query": "INSERT INTO hosts (host, os) FORMAT Arrow"}
    answer = writer.post("/", params=query, content=chunks, headers={"Content-Encoding": name})
    assert answer.status_code == 200, answer.text
    assert "X-ClickHouse-Format" not in answer.headers
    assert (
        writer.post("/", params={"param_h": host}, content="SELECT os FROM hosts WHERE host = {h:String}").text == "x\n"
    )


@pytest.mark.parametrize(("encoding", "code"), [("gzip", "271"), ("lz4", "271"), ("zstd", "271"), ("br", "481")])
def test_a_body_that_cannot_be_decompressed_is_refused(writer: httpx.Client, encoding: str, code: str) -> None:
    answer = writer.post("/", content=b"no such thing", headers={"Content-Encoding": encoding})
    assert answer.status_code >= 400
    assert answer.headers["X-ClickHouse-Exception-Code"] == code


def test_a_readers_body_is_not_unpacked(reader: httpx.Client) -> None:
    bomb = gzip.compress(b"SELECT 1 " + b" " * 50_000_000)
    answer = reader.post("/", content=bomb, headers={"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (500, "481")


def test_a_result_too_large_to_hold_is_refused() -> None:
    engine = Engine(f"chdb://{engine_folder()}")
    app = gateway_app(engine, GatewayTokens(writer="w", reader="r"), GatewayLimits(result_bytes=100_000))

    async def ask(sql: str) -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.post("/", content=sql, headers={"X-ClickHouse-Key": "r"})

    answer = asyncio.run(ask("SELECT repeat('x', 1000) FROM numbers(1000)"))
    assert answer.headers["X-ClickHouse-Exception-Code"] == "396"
    assert asyncio.run(ask("SELECT repeat('x', 1000) FROM numbers(90)")).status_code == 200
    engine.close()


def test_each_question_of_a_reader_is_announced_before_it_is_asked_and_nothing_else_is() -> None:
    engine = Engine(f"chdb://{engine_folder()}")
    looks: list[str] = []
    app = gateway_app(engine, GatewayTokens(writer="w", reader="r"), on_look=lambda: looks.append("look"))

    async def ask(sql: str, token: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            await client.get("/ping")
            return await client.post("/", content=sql, headers={"X-ClickHouse-Key": token})

    assert asyncio.run(ask("SELECT 1", "wrong")).status_code == 401
    assert asyncio.run(ask("SELECT 1", "w")).status_code == 200
    assert asyncio.run(ask("DROP TABLE x", "r")).status_code != 200
    assert looks == []
    assert asyncio.run(ask("SELECT 1", "r")).status_code == 200
    assert looks == ["look"]
    engine.close()


def test_errors_carry_code_and_words(reader: httpx.Client) -> None:
    answer = reader.post("/", content="SELECT * FROM nothing_here")
    assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (404, "60")
    assert "UNKNOWN_TABLE" in answer.text
    answer = reader.post("/", content="SELEC 1")
    assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (400, "62")


def test_the_unmodified_client_inserts_and_reads_native_and_arrow(port: int) -> None:
    client = clickhouse_connect.get_client(host="127.0.0.1", port=port, username="w", password=WRITER, database="fleet")
    client.command(
        "CREATE TABLE native_check (a UInt32, s String, t DateTime64(3, 'UTC')) ENGINE = MergeTree ORDER BY a"
    )
    client.insert("native_check", [[1, "x", AT], [2, "y", AT]], column_names=["a", "s", "t"])
    client.insert_arrow("native_check", pa.table({"a": pa.array([3], pa.uint32()), "s": ["z"], "t": [AT]}))
    client.command("INSERT INTO native_check VALUES (4, 'v', 0)")
    got = client.query("SELECT a, s, t FROM native_check WHERE a < {top:UInt32} ORDER BY a", parameters={"top": 4})
    assert [(a, s, t.replace(tzinfo=UTC)) for a, s, t in got.result_rows] == [(1, "x", AT), (2, "y", AT), (3, "z", AT)]
    assert client.query("SELECT a FROM native_check LIMIT 0").column_names == ("a",)
    assert client.query_df("SELECT count() AS n FROM native_check")["n"][0] == 4
    client.command("DROP TABLE native_check")
    client.close()


def test_many_parameters_come_as_form_fields(port: int) -> None:
    client = clickhouse_connect.get_client(
        host="127.0.0.1", port=port, username="r", password=READER, database="fleet", form_encode_query_params=True
    )
    names = [f"name-{number}" for number in range(5000)]
    assert client.query("SELECT length({n:Array(String)})", parameters={"n": names}).result_rows == [(5000,)]
    client.close()


INJECTIONS = [
    "SELECT * FROM file('{secret}', 'LineAsString')",
    "SELECT * FROM FiLe('{secret}', 'LineAsString')",
    "SELECT * /* c */ FROM/**/file/**/('{secret}', LineAsString)",
    "SELECT file('{secret}')",
    "SELECT (SELECT file('{secret}'))",
    "WITH file('{secret}') AS x SELECT x",
    "SELECT * FROM '{secret}'",
    "SELECT * FROM `{secret}`",
    "SELECT * FROM default.`{secret}`",
    "SELECT * FROM `default`.'{secret}'",
    "SELECT * APPLY(file) FROM (SELECT '{secret}')",
    "SELECT COLUMNS('.*') APPLY file FROM (SELECT '{secret}' AS a)",
    "SELECT arrayMap(x -> file(x), ['{secret}'])",
    "SELECT 1 LIMIT length(file('{secret}'))",
    "SELECT 1 LIMIT 1 OFFSET length(file('{secret}'))",
    "SELECT sum(1) OVER (ORDER BY host ROWS BETWEEN length(file('{secret}')) PRECEDING AND CURRENT ROW) FROM hosts",
    "SELECT host FROM hosts LIMIT length(file('{secret}')) BY host",
    "SELECT host FROM hosts LIMIT 1 OFFSET length(file('{secret}')) BY host",
    "SELECT * FROM numbers(length(file('{secret}')))",
    "SELECT * FROM values('a String', file('{secret}'))",
    "SELECT 1 FROM hosts SAMPLE 1 OFFSET length(file('{secret}'))",
    "SELECT host FROM hosts ORDER BY host WITH FILL STALENESS length(file('{secret}'))",
    "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT length(file('{secret}')) FROM t) SELECT * FROM t",
    "SELECT number FROM numbers(3) ORDER BY number WITH FILL FROM 0 TO length(file('{secret}'))",
    "SELECT number AS a, '' AS b FROM numbers(3) ORDER BY a WITH FILL INTERPOLATE (b AS file('{secret}'))",
    "SELECT quantile(length(file('{secret}')))(1)",
    "SELECT * REPLACE (file('{secret}') AS a) FROM (SELECT '' AS a)",
    "SELECT x FROM (SELECT 1) ARRAY JOIN [file('{secret}')] AS x",
    "SELECT DISTINCT ON (file('{secret}')) 1",
    "SELECT 1 FROM hosts SAMPLE 1 QUALIFY file('{secret}') != ''",
    "SELECT 1 GROUP BY GROUPING SETS ((file('{secret}')))",
    "SELECT count() FROM hosts PREWHERE file('{secret}') = 'x'",
    "SELECT count() FROM hosts a JOIN hosts b ON file('{secret}') = a.host",
    "SELECT 1 WHERE '{secret}' IN file('{secret}', 'LineAsString')",
    "SELECT 1 UNION ALL SELECT length(file('{secret}'))",
    "SELECT 1 INTERSECT SELECT length(file('{secret}'))",
    "SELECT * FROM view(SELECT file('{secret}'))",
    "SELECT * FROM viewExplain('EXPLAIN', '', (SELECT file('{secret}')))",
    "SELECT * FROM (EXPLAIN SELECT file('{secret}'))",
    "WITH t AS (SELECT file('{secret}') AS a) SELECT * FROM t",
    "SELECT * FROM loop(file('{secret}', 'LineAsString'))",
    "SELECT * FROM filesystem('{secret}')",
    "SELECT * FROM fileCluster('default', '{secret}', 'LineAsString')",
    "SELECT * FROM sqlite('{secret}', 't')",
    "SELECT * FROM url('http://127.0.0.1:{trap}/x', 'LineAsString')",
    "SELECT 1 IN url('http://127.0.0.1:{trap}/x', 'LineAsString')",
    "SELECT * FROM s3('http://127.0.0.1:{trap}/b/x', 'CSV', 'a String')",
    "SELECT * FROM gcs('http://127.0.0.1:{trap}/b/x', 'CSV', 'a String')",
    "SELECT * FROM iceberg('http://127.0.0.1:{trap}/b/x')",
    "SELECT * FROM deltaLake('http://127.0.0.1:{trap}/b/x')",
    "SELECT * FROM hdfs('hdfs://127.0.0.1:{trap}/x', 'CSV', 'a String')",
    "SELECT * FROM azureBlobStorage('http://127.0.0.1:{trap}', 'c', 'b', 'a', 'k')",
    "SELECT * FROM remote('127.0.0.1:{trap}', system.one)",
    "SELECT * FROM remoteSecure('127.0.0.1:{trap}', system.one)",
    "SELECT * FROM cluster('default', system.one)",
    "SELECT * FROM clusterAllReplicas('default', system.one)",
    "SELECT * FROM mysql('127.0.0.1:{trap}', 'd', 't', 'u', 'p')",
    "SELECT * FROM postgresql('127.0.0.1:{trap}', 'd', 't', 'u', 'p')",
    "SELECT * FROM mongodb('127.0.0.1:{trap}', 'd', 't', 'u', 'p', 'a String')",
    "SELECT * FROM redis('127.0.0.1:{trap}', 'k', 'k String')",
    "SELECT * FROM odbc('DSN=x', 'd', 't')",
    "SELECT * FROM jdbc('x', 'd', 't')",
    "SELECT * FROM executable('touch {out}', 'TSV', 'a String')",
    "SELECT * FROM python('x')",
    "SELECT * FROM input('a String')",
    "SELECT * FROM dictionary('d')",
    "SELECT * FROM merge('system', '.*')",
    "SELECT * FROM merge(REGEXP('.*'), '.*')",
    "SELECT * FROM mergeTreeIndex('fleet', 'hosts')",
    "SELECT dictGet('d', 'a', 1)",
    "SELECT joinGet('t', 'a', 1)",
    "SELECT * FROM eval('SELECT 1')",
    "SELECT 1 INTO OUTFILE '{out}'",
    "SELECT 1 INTO OUTFILE '{out}' FORMAT CSV",
    "SELECT 1 INTO /**/ OUTFILE '{out}' AND STDOUT FORMAT Native",
    "SELECT 1 FORMAT CSV INTO OUTFILE '{out}'",
    "INSERT INTO FUNCTION file('{out}', 'CSV', 'a String') SELECT 'x'",
    "INSERT INTO hosts (host) SELECT 'x'",
    "INSERT INTO hosts (host) FORMAT CSV\nevil",
    "CREATE TABLE evil (a String) ENGINE = File(CSV, '{out}')",
    "CREATE FUNCTION evil AS (x) -> file(x)",
    "ALTER TABLE hosts DELETE WHERE 1",
    "DROP TABLE hosts",
    "TRUNCATE TABLE hosts",
    "RENAME TABLE hosts TO evil",
    "OPTIMIZE TABLE hosts FINAL",
    "SYSTEM FLUSH LOGS",
    "SYSTEM SHUTDOWN",
    "KILL QUERY WHERE 1",
    "ATTACH TABLE evil",
    "BACKUP TABLE hosts TO Disk('d', 'x')",
    "GRANT ALL ON *.* TO default",
    "USE system",
    "SET readonly = 0",
    "SET max_execution_time = 0",
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT * FROM (SELECT 1 SETTINGS max_execution_time = 0)",
    "SELECT 1; DROP TABLE hosts",
    "SELECT 1;\nSELECT file('{secret}')",
    "EXPLAIN SELECT file('{secret}')",
    "EXPLAIN AST SELECT 1",
    "DESCRIBE TABLE file('{secret}', 'LineAsString')",
    "DESCRIBE TABLE url('http://127.0.0.1:{trap}/x')",
    "SHOW CREATE TABLE hosts",
    "SHOW TABLES FROM system",
    "CHECK TABLE hosts",
    "WATCH hosts",
    "TABLE system.users",
    "SELECT * FROM system.users",
    "SELECT * FROM `system`.`users`",
    "SELECT * FROM SYSTEM.users",
    "SELECT * FROM system.processes",
    "SELECT * FROM system.query_log",
    "SELECT * FROM system.named_collections",
    "SELECT * FROM system.server_settings",
    "SELECT * FROM information_schema.tables",
    "SELECT name FROM system.one WHERE dummy IN system.users",
    "SELECT ('x') IN (system.users)",
    "SELECT getSetting('max_threads')",
    "SELECT getServerSetting('path')",
    "SELECT hostName(), FQDN(), serverUUID()",
    "SELECT getMacro('x')",
    "SELECT getClientHTTPHeader('X-ClickHouse-Key')",
    "SELECT addressToLine(1)",
    "SELECT demangle('x')",
    "SELECT logTrace('x')",
    "SELECT aiGenerate('x')",
    "SELECT chdb('SELECT 1')",
    "SELECT sleep(3)",
    "SELECT sleepEachRow(1) FROM numbers(3)",
    "SELECT catboostEvaluate('{secret}', 1)",
    "SELECT filesystemAvailable()",
    "SELECT currentUser()",
    "SELECT encrypt('aes-128-ecb', 'x', 'y')",
    "SELECT generateRandomStructure()",
    "SELECT * FROM generateRandom('a String')",
    "SELECT 1 FORMAT Template SETTINGS format_template_row = '{secret}'",
    "SELECT 1 FORMAT Prometheus",
    "SELECT 1 FORMAT Protobuf",
    "SELECT * FROM hosts FORMAT `CSV` INTO OUTFILE '{out}'",
]


class Trap:
    """A listening port that nothing may reach."""

    def __init__(self) -> None:
        import socket

        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(0)
        self.port = self.listener.getsockname()[1]

    def reached(self) -> bool:
        try:
            self.listener.accept()
        except BlockingIOError:
            return False
        return True


@pytest.fixture(scope="module")
def trap() -> Iterator[Trap]:
    trap = Trap()
    yield trap
    trap.listener.close()


@pytest.mark.parametrize("sql", INJECTIONS)
def test_a_reader_reaches_no_file_no_host_no_program_and_no_other_table(
    reader: httpx.Client, trap: Trap, tmp_path: Path, sql: str
) -> None:
    secret, out = tmp_path / "secret.txt", tmp_path / "out.txt"
    secret.write_text(SECRET)
    text = sql.replace("{secret}", str(secret)).replace("{out}", str(out)).replace("{trap}", str(trap.port))
    answer = reader.post("/", content=text)
    assert answer.status_code >= 400, answer.text
    assert answer.headers["X-ClickHouse-Exception-Code"] in ("497", "62", "164"), answer.text
    assert SECRET not in answer.text
    assert not out.exists()
    assert not trap.reached()


@pytest.mark.parametrize("table", ["system.users", "{secret}", "default.{secret}", "file"])
def test_a_table_named_by_a_parameter_is_judged_like_one_in_the_text(
    reader: httpx.Client, tmp_path: Path, table: str
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    name = table.replace("{secret}", str(secret))
    answer = reader.post("/", params={"param_t": name}, content="SELECT * FROM {t:Identifier}")
    assert answer.status_code >= 400
    assert SECRET not in answer.text
    assert reader.post("/", params={"param_t": "hosts"}, content="SELECT count() > 0 FROM {t:Identifier}").text == "1\n"


@pytest.mark.parametrize(
    "arguments",
    [
        {"database": "system"},
        {"database": "information_schema"},
        {"database": "x`; DROP"},
        {"allow_introspection_functions": "1"},
        {"format_template_row": "/etc/passwd"},
        {"output_format_arrow_x": "1"},
        {"additional_table_filters": "{}"},
        {"http_response_headers": "{'X': 'y'}"},
    ],
)
def test_a_reader_chooses_no_other_database_and_no_setting_off_the_list(
    reader: httpx.Client, arguments: dict[str, str]
) -> None:
    answer = reader.post("/", params=arguments, content="SELECT 1")
    assert answer.status_code >= 400
    assert answer.headers["X-ClickHouse-Exception-Code"] in ("452", "497")


ALLOWED = [
    "SELECT version(), timezone()",
    "SELECT name, value, readonly FROM system.settings LIMIT 10000 FORMAT Native",
    "WITH t AS (SELECT host, sum(cpu_seconds) AS s FROM container_samples GROUP BY host) SELECT t.*, "
    "row_number() OVER (PARTITION BY host ORDER BY s) FROM t ORDER BY s LIMIT 1 BY host",
    "SELECT bounds, sumForEachMerge(increments), quantileTDigestIf(0.5)(interval_seconds, 1) FROM histograms_1m "
    "GROUP BY bounds",
    "SELECT 'file(''/etc/passwd'') -- /* ; INTO OUTFILE ''x''' AS text",
    "SELECT 'x' AS `INTO OUTFILE`, 'y' AS `url(`",
    "SELECT argMax(state, at), anyLast(health), uniqExact(host), topK(3)(host) FROM fleet.container_samples",
    "SELECT toStartOfInterval(at, INTERVAL 5 MINUTE) AS b, avgOrNull(cpu_seconds) FROM container_samples GROUP BY b "
    "ORDER BY b WITH FILL STEP 300 UNION ALL SELECT now(), 1",
    "SELECT a.host FROM container_samples AS a ASOF JOIN gpu_samples AS b ON a.host = b.host AND a.at >= b.at",
    "SELECT table, sum(bytes_on_disk) FROM system.parts WHERE active AND database = currentDatabase() GROUP BY table",
    "SELECT * EXCEPT (host) REPLACE (1 AS os) FROM hosts FINAL",
    "SELECT count() FROM hosts WHERE host IN (SELECT host FROM container_samples) AND NOT exists(SELECT 1 FROM gpus)",
    "SELECT arrayMap(x -> x + 1, [1, 2]), map('a', 1)['a'], CASE WHEN 1 THEN 2 ELSE 3 END, (1, 2).1, x::UInt8 "
    "FROM (SELECT 1 AS x) ARRAY JOIN [1] AS zz",
    "SELECT number FROM numbers(10)",
    "SELECT 1 SETTINGS_ FROM (SELECT 1)",
    "(SELECT 1) UNION DISTINCT (SELECT 2)",
    "SELECT sum(x) OVER w FROM (SELECT 1 AS x) WINDOW w AS (ORDER BY x ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)",
]


@pytest.mark.parametrize("sql", ALLOWED)
def test_the_sql_that_dashboards_write_is_allowed(reader: httpx.Client, sql: str) -> None:
    answer = reader.post("/", content=sql)
    assert answer.status_code == 200, answer.text


def test_a_reader_is_stopped_at_the_row_and_time_limits(reader: httpx.Client) -> None:
    answer = reader.post("/", content="SELECT number FROM numbers(3000000)")
    assert answer.headers["X-ClickHouse-Exception-Code"] == "396"
    started = time.monotonic()
    answer = reader.post(
        "/",
        params={"max_execution_time": "1"},
        content="SELECT count() FROM numbers(100000000000) WHERE sipHash64(number) = 5",
    )
    assert answer.headers["X-ClickHouse-Exception-Code"] == "159"
    assert time.monotonic() - started < 10


def test_a_limit_can_be_asked_tighter_but_never_wider(reader: httpx.Client) -> None:
    names = "('max_execution_time', 'max_result_rows', 'readonly')"
    sql = f"SELECT name, value FROM system.settings WHERE name IN {names} FORMAT JSON"
    wide = {"max_execution_time": "0", "max_result_rows": "999999999", "readonly": "0"}
    rows = json.loads(reader.post("/", params=wide, content=sql).text)["data"]
    assert {row["name"]: row["value"] for row in rows} == {
        "max_execution_time": "15",
        "max_result_rows": "1000000",
        "readonly": "2",
    }
    tight = {"max_execution_time": "2", "max_result_rows": "50"}
    rows = json.loads(reader.post("/", params=tight, content=sql).text)["data"]
    assert {row["name"]: row["value"] for row in rows} == {
        "max_execution_time": "2",
        "max_result_rows": "50",
        "readonly": "2",
    }


def test_a_body_over_the_limit_is_refused_without_being_held(reader: httpx.Client) -> None:
    answer = reader.post("/", content=b"SELECT '" + b"x" * (2 << 20) + b"'")
    assert answer.status_code >= 400
    assert "larger than" in answer.text


def test_settings_of_one_request_do_not_reach_the_next(writer: httpx.Client) -> None:
    sql = "SELECT value FROM system.settings WHERE name = 'max_block_size'"
    before = writer.post("/", content=sql).text
    assert writer.post("/", params={"max_block_size": "123"}, content=sql).text == "123\n"
    assert writer.post("/", content=sql).text == before


def test_readers_and_a_writer_at_the_same_time_do_not_disturb_each_other(port: int) -> None:
    failures: list[str] = []

    def read() -> None:
        store = open_store(f"clickhouse://r:{READER}@127.0.0.1:{port}/")
        for _ in range(10):
            try:
                store.query("SELECT host, count() FROM container_samples GROUP BY host")
            except StoreError as error:
                failures.append(str(error))
        store.close()

    def write() -> None:
        store = open_store(f"clickhouse://w:{WRITER}@127.0.0.1:{port}/")
        for turn in range(10):
            store.append(Batch(token=f"busy-{turn}", rows=(Host(seen_at=AT, host=f"busy-{turn}"),)))
        store.close()

    threads = [threading.Thread(target=read) for _ in range(3)] + [threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_an_empty_token_closes_its_role(tmp_path: Path) -> None:
    code = f"from tests.store.gateway_process import main; main({str(tmp_path / 's')!r}, '', 'r')"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        for headers in ({"X-ClickHouse-Key": ""}, {}):
            assert httpx.post(f"http://127.0.0.1:{port}/", content="SELECT 1", headers=headers).status_code == 401
        assert (
            httpx.post(f"http://127.0.0.1:{port}/", content="SELECT 1", headers={"X-ClickHouse-Key": "r"}).text == "1\n"
        )
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def test_a_gateway_that_goes_away_is_unavailable_and_comes_back(tmp_path: Path) -> None:
    with gateway_process(tmp_path / "s") as port:
        store = open_store(f"clickhouse://w:{WRITER}@127.0.0.1:{port}/", StoreOptions(query_timeout_seconds=5))
        store.migrate()
    with pytest.raises(StoreUnavailable):
        store.query("SELECT 1")
    store.close()


def test_a_gateway_that_hangs_is_unavailable_after_the_timeout(tmp_path: Path) -> None:
    code = f"from tests.store.gateway_process import main; main({str(tmp_path / 's')!r}, 'w', 'r')"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        store = open_store(f"clickhouse://r:r@127.0.0.1:{port}/", StoreOptions(query_timeout_seconds=1))
        assert store.query("SELECT 1 AS one").to_pylist() == [{"one": 1}]
        process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match="timed out"):
            store.query("SELECT 1")
        assert time.monotonic() - started < 5
        process.send_signal(signal.SIGCONT)
        assert store.query("SELECT 1 AS one").to_pylist() == [{"one": 1}]
        store.close()
    finally:
        process.kill()
        process.wait(20)
        process.stdout.close()


def test_a_native_block_with_garbage_is_an_error_and_not_a_crash(writer: httpx.Client) -> None:
    body = b"INSERT INTO hosts (host) FORMAT Native\n" + b"\x01\x01\x04host\x05Strin" + b"\xff" * 50
    assert writer.post("/", content=body).status_code >= 400
    assert writer.post("/", content="SELECT 1").text == "1\n"
