"""The collector's health as Prometheus text (format 0.0.4): derived numbers of our own, no container's name in them."""

from __future__ import annotations

from collections.abc import Iterable

from collectors.runner import RunnerHealth
from store.spool import WriterState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATES = ("ok", "partial", "absent", "failed", "starting")
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
Sample = tuple[dict[str, str], float]


def render(health: RunnerHealth, *, spool: WriterState, version: str) -> str:
    """All metrics as text. A number that does not exist yet has no line; it is never 0."""
    named = [({"source": item.source, "target": item.target}, item) for item in health.sources]
    writer = health.writer
    blocks = (
        _block("aifleet_build_info", "gauge", "Version of the collector.", [({"version": version}, 1)]),
        _block("aifleet_uptime_seconds", "gauge", "Time since the collector started.", [({}, health.uptime_seconds)]),
        _block(
            "aifleet_source_state",
            "gauge",
            "1 for the state a source is in.",
            [(labels | {"state": state}, item.state == state) for labels, item in named for state in STATES],
        ),
        _block(
            "aifleet_source_polls_total",
            "counter",
            "Polls by how they went.",
            [(labels | {"state": state}, n) for labels, item in named for state, n in sorted(item.polls.items())],
        ),
        _block(
            "aifleet_source_missed_ticks_total",
            "counter",
            "Deadlines that passed while the poll before was still running.",
            [(labels, item.missed_ticks) for labels, item in named],
        ),
        _block(
            "aifleet_source_rows_total",
            "counter",
            "Rows read.",
            [(labels, item.rows) for labels, item in named],
        ),
        _block(
            "aifleet_source_last_read_seconds",
            "gauge",
            "Time since the source was last read.",
            [(labels, item.last_read_seconds) for labels, item in named if item.last_read_seconds is not None],
        ),
        _block(
            "aifleet_source_poll_duration_seconds",
            "gauge",
            "Length of the last poll.",
            [(labels, item.last_took_seconds) for labels, item in named if item.last_took_seconds is not None],
        ),
        _block(
            "aifleet_writer_batches_total",
            "counter",
            "Batches by what became of them.",
            [
                ({"result": "written"}, writer.written_batches),
                ({"result": "refused"}, writer.refused_batches),
                ({"result": "lost"}, writer.lost_batches + spool.dropped_batches + spool.refused_batches),
            ],
        ),
        _block("aifleet_writer_waiting_batches", "gauge", "Batches in memory.", [({}, writer.waiting_batches)]),
        _block(
            "aifleet_writer_busy_seconds", "gauge", "How long the running write takes.", [({}, writer.stuck_seconds)]
        ),
        _block("aifleet_spool_bytes", "gauge", "Batches on disk that wait for the store.", [({}, spool.waiting_bytes)]),
        _block("aifleet_store_up", "gauge", "0 while the store takes no batches.", [({}, spool.error == "")]),
        _block(
            "aifleet_last_batch_seconds",
            "gauge",
            "Time since the last batch was written.",
            [] if health.last_batch_seconds is None else [({}, health.last_batch_seconds)],
        ),
    )
    return "".join(block for block in blocks if block)


def _block(name: str, kind: str, text: str, samples: Iterable[Sample]) -> str:
    lines = [f"{name}{_labels(labels)} {float(value):.10g}\n" for labels, value in samples]
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n{''.join(lines)}" if lines else ""


def _labels(labels: dict[str, str]) -> str:
    inner = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items())
    return f"{{{inner}}}" if inner else ""
