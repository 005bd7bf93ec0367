"""What a reader may ask of the engine: one SELECT over the fleet's own tables, with harmless functions.

An allow-list over the engine's own parse, because a deny-list over text fails at the first comment, alias or new
table function. The text is never judged by us: the engine formats it (as a bound string, so nothing runs) into one
canonical statement, the engine prints that statement's syntax tree, every node, table and function of the tree must be
on a list, and what runs is the canonical statement.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from store.errors import StoreError

ACCESS_DENIED = 497

#: (statement, parameters) -> output of the engine as text.
Ask = Callable[[str, Mapping[str, str]], str]

OUTPUT_FORMATS = frozenset(
    {"Native", "Arrow", "ArrowStream", "RowBinary", "TabSeparated", "TabSeparatedRaw", "TabSeparatedWithNames"}
    | {"TSV", "CSV", "CSVWithNames", "JSON", "JSONCompact", "JSONEachRow", "Null"}
)
SYSTEM_TABLES = frozenset({"one", "settings", "tables", "columns", "parts", "databases", "functions"})
TABLE_FUNCTIONS = frozenset({"numbers", "numbers_mt", "zeros", "generateseries", "generate_series", "values", "null"})
_CATEGORIES = frozenset(
    {"Aggregate Functions", "Arithmetic", "Arrays", "Bit", "Bitmap", "Comparison", "Conditional", "Dates and Times"}
    | {"Distance", "Encoding", "Financial", "Hash", "JSON", "Logical", "Map", "Mathematical", "Null", "Random Number"}
    | {"Rounding", "String", "String Replacement", "String Search", "String Splitting", "Time Window", "Tuple"}
    | {"Type Conversion", "URL", "UUID"}
)
#: From the engine's "Other" drawer, which also holds file(), getSetting() and hostName(): these and no more.
_OTHER_FUNCTIONS = frozenset(
    {"bar", "byteSize", "currentDatabase", "finalizeAggregation", "formatReadableDecimalSize", "formatReadableQuantity"}
    | {"formatReadableSize", "formatReadableTimeDelta", "identity", "ignore", "isConstant", "materialize", "neighbor"}
    | {"rowNumberInAllBlocks", "rowNumberInBlock", "runningDifference", "throwIf", "toColumnTypeName", "toTypeName"}
    | {"transform", "version", "visibleWidth", "lambda", "exists", "_CAST"}
)
_FORBIDDEN = frozenset({"chdb"})  # filed under "String"
_COMBINATORS = (
    *("If", "Array", "Map", "SimpleState", "State", "Merge", "ForEach", "Distinct"),
    *("OrDefault", "OrNull", "Resample", "ArgMin", "ArgMax"),
)
_NODES = frozenset(
    {"SelectWithUnionQuery", "SelectIntersectExceptQuery", "SelectQuery", "ExpressionList", "Function", "Identifier"}
    | {"Literal", "Asterisk", "QualifiedAsterisk", "ColumnsTransformerList", "ColumnsExceptTransformer", "Subquery"}
    | {"ColumnsReplaceTransformer", "ColumnsReplaceTransformer::Replacement", "ColumnsRegexpMatcher"}
    | {"ColumnsListMatcher", "TablesInSelectQuery", "TablesInSelectQueryElement", "TableExpression", "TableIdentifier"}
    | {"TableJoin", "ArrayJoin", "OrderByElement", "InterpolateElement", "WithElement", "WindowDefinition"}
    | {"WindowListElement", "SampleRatio"}
)
_LINE = re.compile(r"( *)(\S+)(?: (.*?))?")
_TRAILER = re.compile(r"(?: \(alias .*\))?(?: \(children \d+\))?$", re.DOTALL)
_TABLE = re.compile(r"(?:([A-Za-z_]\w*)\.)?([A-Za-z_]\w*)", re.ASCII)
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_OUTFILE = re.compile(r"\b(?:OUTFILE|INFILE)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Checked:
    """A statement that may run as it stands here, and the format it asks for ("" = none)."""

    statement: str
    output_format: str


class Guard:
    """Judges a reader's statements; `database` is the only one whose tables may be read."""

    def __init__(self, ask: Ask, database: str) -> None:
        self._ask = ask
        self._database = database
        self._functions = self._allowed_functions()

    def _allowed_functions(self) -> tuple[frozenset[str], frozenset[str]]:
        """Lower-case names of allowed plain and aggregate functions, as this engine knows them."""
        listing = self._ask(
            "SELECT name, alias_to, categories, is_aggregate FROM system.functions FORMAT TabSeparatedRaw", {}
        )
        rows = [line.split("\t") for line in listing.splitlines()]
        good: set[str] = set(_OTHER_FUNCTIONS)
        for name, alias, categories, _ in rows:
            if not alias and categories and set(categories.split(", ")) <= _CATEGORIES and name not in _FORBIDDEN:
                good.add(name)
        good |= {name for name, alias, _, _ in rows if alias in good}
        # Names are compared without case; where two functions differ only in case, both must be good.
        bad = {name.lower() for name, _, _, _ in rows if name not in good}
        plain = frozenset(name.lower() for name in good) - bad
        aggregates = frozenset(name.lower() for name, _, _, kind in rows if kind == "1") & plain
        return plain, aggregates

    def check(self, statement: str, parameters: Mapping[str, str]) -> Checked:
        """The statement made safe to run. Raises StoreError: refused (code 497) or not SQL (the engine's code)."""
        # The canonical form leaves SETTINGS and FORMAT in, comments and second statements out.
        canonical = self._ask(
            "SELECT formatQuerySingleLine({statement:String}) FORMAT TabSeparatedRaw",
            {"statement": _escaped(statement)},
        ).rstrip("\n")
        # In process the engine does write the file; the tree shows it as one literal more, easy to overlook.
        if _OUTFILE.search(_QUOTED.sub("''", canonical)):
            raise _refused("INTO OUTFILE and FROM INFILE")
        if not canonical.upper().startswith(("SELECT", "WITH", "(")):
            raise _refused(f"a statement that begins with {canonical.split(' ', 1)[0][:40]!r}: one SELECT is allowed")
        tree = self._ask(
            f"EXPLAIN AST {canonical.removesuffix(_format_clause(canonical))} FORMAT TabSeparatedRaw", parameters
        )
        self._check_tree(tree)
        found = _format_clause(canonical)
        output_format = found.rpartition(" ")[2]
        if output_format and output_format not in OUTPUT_FORMATS:
            raise _refused(f"FORMAT {output_format}: one of {', '.join(sorted(OUTPUT_FORMATS))} is allowed")
        return Checked(canonical, output_format)

    def _check_tree(self, tree: str) -> None:
        above = ""
        lines = tree.splitlines()
        if not lines or lines[0].split(" ", 1)[0] not in ("SelectWithUnionQuery", "SelectIntersectExceptQuery"):
            raise _refused("anything but one SELECT")
        for line in lines:
            if not line:
                continue
            match = _LINE.fullmatch(_TRAILER.sub("", line))
            if match is None or match[2] not in _NODES:
                raise _refused(f"{line.strip()[:60]!r} (SETTINGS belong into the request, not into the SQL)")
            node, name = match[2], match[3] or ""
            if node == "TableIdentifier":
                self._check_table(name)
            elif node == "Function":
                self._check_function(name, as_table=above == "TableExpression")
            elif node == "Identifier" and name.lower().startswith(("system.", "information_schema.")):
                raise _refused(f"{name[:60]!r} outside FROM")
            above = node

    def _check_table(self, name: str) -> None:
        match = _TABLE.fullmatch(name)
        if match is None:
            raise _refused(f"table {name[:60]!r}")
        database, table = match[1], match[2]
        if (
            database is not None
            and database != self._database
            and not (database == "system" and table in SYSTEM_TABLES)
        ):
            raise _refused(f"table {name[:60]!r}")

    def _check_function(self, name: str, *, as_table: bool) -> None:
        if as_table:
            if name.lower() not in TABLE_FUNCTIONS:
                raise _refused(f"table function {name[:60]}()")
            return
        plain, aggregates = self._functions
        if name.lower() in plain:
            return
        base = name
        while base.lower() not in aggregates:
            shorter = next((base.removesuffix(suffix) for suffix in _COMBINATORS if base.endswith(suffix)), "")
            if not shorter:
                raise _refused(f"function {name[:60]}()")
            base = shorter


def _format_clause(canonical: str) -> str:
    """The FORMAT clause at the end of a canonical statement, "" when there is none."""
    match = re.search(r" FORMAT \w+$", canonical, re.ASCII)
    return match[0] if match else ""


def _escaped(text: str) -> str:
    """A parameter value as ClickHouse's HTTP protocol writes it (tab-separated escaping)."""
    return (
        text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r").replace("\0", "\\0")
    )


def _refused(what: str) -> StoreError:
    return StoreError(
        ACCESS_DENIED,
        f"Code: {ACCESS_DENIED}. DB::Exception: Not enough privileges: a reader may not use {what}. (ACCESS_DENIED)",
    )
