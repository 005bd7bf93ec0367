from __future__ import annotations

import dataclasses
import datetime
import re
import types
import typing
from collections.abc import Mapping

import pytest

from fleet.model import ROW_TYPES, Row
from store import Store, StoreError, migrations
from store.client import Engine
from store.columns import COLUMNS
from tests.store.stores import embedded_store, engine_folder


def expected_type(annotation: object) -> str:
    """What a dataclass annotation must look like in the schema, widths and LowCardinality left out."""
    if isinstance(annotation, types.UnionType):
        (inner,) = (member for member in typing.get_args(annotation) if member is not types.NoneType)
        return f"Nullable({expected_type(inner)})"
    origin = typing.get_origin(annotation)
    if origin is typing.Literal or annotation is str:
        return "String"
    if origin is tuple:
        return f"Array({expected_type(typing.get_args(annotation)[0])})"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "Map(String, String)"
    return {float: "Float", int: "Int", bool: "Int", datetime.datetime: "DateTime64(3, 'UTC')"}[annotation]  # type: ignore[index]


def plain(stored: str) -> str:
    stored = re.sub(r"LowCardinality\((\w+)\)", r"\1", stored)
    return re.sub(r"\bU?Int\d+\b", "Int", re.sub(r"\bFloat\d+\b", "Float", stored))


@pytest.fixture(scope="module")
def migrated():
    with embedded_store() as store:
        yield store


def columns_of(store: Store, table: str) -> dict[str, str]:
    rows = store.query(
        "SELECT name, type FROM system.columns "
        "WHERE database = currentDatabase() AND table = {t:String} ORDER BY position",
        {"t": table},
    ).to_pylist()
    return {row["name"]: row["type"] for row in rows}


@pytest.mark.parametrize("row_type", ROW_TYPES, ids=lambda row_type: row_type.table)
def test_every_table_has_the_fields_of_its_dataclass_in_the_same_order_and_kind(
    migrated: Store, row_type: type[Row]
) -> None:
    hints = typing.get_type_hints(row_type)
    wanted = {field.name: expected_type(hints[field.name]) for field in dataclasses.fields(row_type)}
    stored = columns_of(migrated, row_type.table)
    assert list(stored) == list(wanted)
    assert {name: plain(kind) for name, kind in stored.items()} == wanted


def test_every_dataclass_has_an_arrow_schema() -> None:
    assert set(COLUMNS) == set(ROW_TYPES)


@pytest.mark.parametrize("suffix", ["1m", "1h"])
@pytest.mark.parametrize(
    "table", ["container_samples", "gpu_samples", "container_gpu_samples", "inference_samples", "histograms"]
)
def test_a_rollup_keeps_every_number_of_its_raw_table(migrated: Store, table: str, suffix: str) -> None:
    raw, rollup = columns_of(migrated, table), columns_of(migrated, f"{table}_{suffix}")
    assert rollup["at"] == "DateTime('UTC')"
    for name, kind in raw.items():
        if name in ("at", "interval_seconds") or kind.startswith("LowCardinality"):
            continue
        kept = {name, f"{name}_weighted", f"{name}_seconds", f"{name}_max"} & set(rollup)
        assert kept, f"{table}.{name} is lost in {table}_{suffix}"
        if f"{name}_weighted" in rollup:
            assert {f"{name}_weight_seconds", f"{name}_max"} <= set(rollup)


def test_the_two_rollups_have_the_same_columns(migrated: Store) -> None:
    for row_type in ROW_TYPES:
        assert columns_of(migrated, f"{row_type.table}_1m") == columns_of(migrated, f"{row_type.table}_1h")


def test_migrating_twice_changes_nothing(migrated: Store) -> None:
    before = migrated.query("SELECT version, applied_at FROM schema_migrations ORDER BY version").to_pylist()
    migrated.migrate()
    assert migrated.query("SELECT version, applied_at FROM schema_migrations ORDER BY version").to_pylist() == before
    assert [row["version"] for row in before] == list(range(1, len(migrations.load()) + 1))


def test_a_migration_cut_in_half_is_finished_by_the_next_start() -> None:
    with embedded_store(migrate=False) as store:
        first = next(migrations.load()[0].statements())
        store.command(migrations.render(first))
        store.migrate()
        assert store.query("SELECT count() AS n FROM container_samples").to_pylist() == [{"n": 0}]


def test_a_store_newer_than_the_program_is_refused_with_both_versions() -> None:
    with embedded_store() as store:
        store.command("INSERT INTO schema_migrations VALUES (99, '0099_future', now64(3, 'UTC'))")
        with pytest.raises(StoreError, match=r"found version 99, this program knows \d+; run the newer program"):
            store.migrate()


def test_migration_files_are_numbered_without_gaps(tmp_path) -> None:
    (tmp_path / "0001_a.sql").write_text("SELECT 1;")
    (tmp_path / "0003_c.sql").write_text("SELECT 1;")
    with pytest.raises(ValueError, match="without gaps"):
        migrations.load(tmp_path)


def test_every_statement_for_a_cluster_is_parsed_by_the_engine(migrated: Store) -> None:
    statements = migrations.render_cluster("fleet-main")
    engine = Engine(f"chdb://{engine_folder()}")
    for statement in statements:
        assert "{" not in statement
        # Raw text: a FORMAT clause after a view's SELECT would belong to that SELECT.
        kind = {"CREATE": b"CreateQuery", "ALTER": b"AlterQuery", "DROP": b"DropQuery"}[statement.split()[0]]
        assert engine.run(f"EXPLAIN AST {statement}").startswith(kind), statement
    engine.close()
    text = "\n".join(statements)
    assert text.count("ENGINE = Distributed(") == text.count("ENGINE = Replicated")
    assert "ENGINE = ReplicatedReplacingMergeTree(seen_at)" in text
    assert text.count(" ON CLUSTER 'fleet-main'") == len(statements)


def test_a_cluster_is_told_that_it_has_every_migration() -> None:
    # A collector that found no versions would run the plain migrations over the cluster's Distributed tables.
    *tables, insert = migrations.cluster_versions("fleet-main")
    engine = Engine(f"chdb://{engine_folder()}")
    for statement in tables:
        assert engine.run(f"EXPLAIN AST {statement}").startswith(b"CreateQuery"), statement
        assert " ON CLUSTER 'fleet-main'" in statement
    engine.run(
        "CREATE TABLE schema_migrations (version UInt32, name String, applied_at DateTime64(3, 'UTC')) ENGINE = Memory"
    )
    engine.run(insert)
    engine.close()
    for one in migrations.load():
        assert f"({one.version}, '{one.name}', " in insert


def test_a_cluster_keeps_one_container_on_one_shard() -> None:
    shards = {
        statement.split(" ")[5]: statement.rpartition("cityHash64(")[2].rstrip(")")
        for statement in migrations.render_cluster("c")
        if "Distributed" in statement
    }
    assert shards["container_samples"] == shards["container_gpu_samples_1h"] == shards["events"] == "container_id"
    assert shards["gpu_samples"] == shards["hosts"] == "host"
    assert shards["source_runs"] == "target"


@pytest.mark.parametrize("name", ["", "a b", "x'; DROP", "1a"])
def test_a_cluster_name_that_is_no_plain_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="plain name"):
        migrations.render_cluster(name)
    with pytest.raises(ValueError, match="plain name"):
        migrations.cluster_versions(name)
