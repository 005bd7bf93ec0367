"""The schema, as numbered SQL files, for one engine or for a cluster.

Placeholders: `{table:x}` the table being created, `{view:x}` the materialized view being created, `{local:x}` a table
that a view reads or writes, `{engine:E}` the engine, `{settings}` the table settings. Files are only ever added: a
column is added by a new file, a key is never reordered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from store.errors import StoreError

FOLDER = Path(__file__).parent / "migrations"
#: Raw tables and rollups remember the tokens of this many inserts, so a repeated batch counts once.
DEDUPLICATION_WINDOW = 1000

_SHARDING_KEYS = ("container_id", "host", "target")
_PLACEHOLDER = re.compile(r"\{(table|view|local|engine|settings)(?::([^}]+))?\}")


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    version: int
    name: str
    text: str

    def statements(self) -> Iterator[str]:
        """The statements of the file, without comments, placeholders still in."""
        text = "\n".join(line for line in self.text.splitlines() if not line.lstrip().startswith("--"))
        for statement in text.split(";"):
            if statement.strip():
                yield statement.strip()


def load(folder: Path = FOLDER) -> tuple[Migration, ...]:
    """All migrations, oldest first. Raises ValueError when numbers are missing or double."""
    found = tuple(
        Migration(int(path.name[:4]), path.stem, path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.sql"))
    )
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError(
            f"{folder}: migrations must be numbered 0001, 0002, ... without gaps; found {[m.name for m in found]}"
        )
    return found


def render(statement: str) -> str:
    """The statement for one engine: plain names, plain engines."""

    def value(match: re.Match[str]) -> str:
        if match[1] == "settings":
            return f"non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}"
        return match[2]

    return _PLACEHOLDER.sub(value, statement)


def render_cluster(cluster: str) -> list[str]:
    """The same schema for a replicated, sharded cluster: replicated local tables, a Distributed table under each plain
    name, views between the local tables. The engine has parsed these statements; no cluster has run them here.

    Rows of one container (else of one host) stay on one shard, so rollups and per-container queries merge locally.
    Raises ValueError for a cluster name that is no plain name.
    """
    _check_name(cluster)
    on_cluster = f"ON CLUSTER '{cluster}'"

    def value(match: re.Match[str]) -> str:
        kind, name = match[1], match[2]
        if kind == "settings":
            return f"replicated_deduplication_window = {DEDUPLICATION_WINDOW}"
        if kind == "engine":
            # No path: the server's default_replica_path, which holds {uuid}, {shard} and {replica}.
            return f"Replicated{name}"
        return {"table": f"{name}_local {on_cluster}", "view": f"{name} {on_cluster}", "local": f"{name}_local"}[kind]

    statements: list[str] = []
    for migration in load():
        for statement in migration.statements():
            statements.append(_PLACEHOLDER.sub(value, statement))
            if statement.startswith("ALTER TABLE"):
                # The Distributed table has its own list of columns, without codecs of its own to keep.
                statements.append(re.sub(r"\{table:(\w+)\}", rf"\1 {on_cluster}", statement))
            created = re.match(r"CREATE TABLE IF NOT EXISTS \{table:(\w+)\}", statement)
            if created:
                key = next(
                    (name for name in _SHARDING_KEYS if re.search(rf"^\s+{name} ", statement, re.MULTILINE)), "host"
                )
                table = created[1]
                statements.append(
                    f"CREATE TABLE IF NOT EXISTS {table} {on_cluster} AS {table}_local\n"
                    f"ENGINE = Distributed('{cluster}', currentDatabase(), '{table}_local', cityHash64({key}))"
                )
    return statements


def cluster_versions(cluster: str) -> list[str]:
    """What records that a cluster has every migration: else a collector would run the plain ones on top of them.

    To be run after `render_cluster`. Raises ValueError for a cluster name that is no plain name.
    """
    _check_name(cluster)
    versions = ", ".join(f"({one.version}, '{one.name}', now64(3, 'UTC'))" for one in load())
    return [
        f"CREATE TABLE IF NOT EXISTS schema_migrations_local ON CLUSTER '{cluster}' (version UInt32, name String,"
        " applied_at DateTime64(3, 'UTC'))\nENGINE = ReplicatedReplacingMergeTree ORDER BY version",
        f"CREATE TABLE IF NOT EXISTS schema_migrations ON CLUSTER '{cluster}' AS schema_migrations_local\n"
        f"ENGINE = Distributed('{cluster}', currentDatabase(), 'schema_migrations_local', cityHash64(version))",
        f"INSERT INTO schema_migrations VALUES {versions}",
    ]


def _check_name(cluster: str) -> None:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", cluster):
        raise ValueError(f"cluster: {cluster!r} is no plain name; write letters, digits, _ and - only")


def apply(command: Callable[[str], None], query: Callable[[str], pa.Table]) -> None:
    """Run the migrations this store has not seen. A crash half-way is repaired by running again (IF NOT EXISTS)."""
    command(
        "CREATE TABLE IF NOT EXISTS schema_migrations (version UInt32, name String, applied_at DateTime64(3, 'UTC')) "
        "ENGINE = ReplacingMergeTree ORDER BY version"
    )
    done = {row["version"] for row in query("SELECT DISTINCT version FROM schema_migrations").to_pylist()}
    known = load()
    newest = max(done, default=0)
    if newest > len(known):
        raise StoreError(
            0,
            f"store schema: found version {newest}, this program knows {len(known)}; "
            "run the newer program, or restore a copy of the folder made before the upgrade",
        )
    for migration in known:
        if migration.version in done:
            continue
        for statement in migration.statements():
            command(render(statement))
        command(f"INSERT INTO schema_migrations VALUES ({migration.version}, '{migration.name}', now64(3, 'UTC'))")
