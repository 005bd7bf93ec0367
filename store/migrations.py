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
