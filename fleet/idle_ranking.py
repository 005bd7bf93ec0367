"""Who keeps GPUs and does not use them: the sentence with its evidence, what to do, and what comes first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from fleet.severity import span_words

# List price an hour relative to an H100 SXM (6.88 USD on AWS in July 2026, karpenter-provider-aws pricing table): only
# for the order of a list, not for money. The first text found in the product's name counts.
_WEIGHTS = (
    ("B300", 2.59), ("B200", 2.07), ("GH200", 1.15), ("H200", 1.15), ("H100", 1.0), ("A100-SXM4-40GB", 0.4),
    ("A100-PCIE-40GB", 0.4), ("A100", 0.5), ("L40S", 0.27),
)  # fmt: skip


def model_weight(name: str) -> float:
    """What an hour of this GPU is worth against an H100's; 1 for a product that is not in the table."""
    upper = name.upper()
    return next((weight for part, weight in _WEIGHTS if part in upper), 1.0)


def short_model(name: str) -> str:
    """The product as a person calls it, e.g. "H100"."""
    words = [word for word in name.replace("-", " ").split() if word.upper() not in ("NVIDIA", "TESLA", "GEFORCE")]
    return words[0] if words else "GPU"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleHolder:
    """What is known of one container's GPUs over a window. Hours are GPU-hours, a MIG device counts by its share.

    idle_since: from when on it was below the idle threshold without a break, None when it worked at the end of the
    window. peak_ratio: highest activity since then, or in the window when it worked. metrics: its server reports
    requests; last_request: the newest one known, None with metrics = none as far back as was looked.
    used_gpus: how many of its devices were active at all.
    """

    models: Sequence[str]
    holding: bool
    held_since: datetime | None
    idle_since: datetime | None
    now: datetime
    idle_gpu_hours: float
    held_gpu_hours: float
    peak_ratio: float | None
    metrics: bool
    last_request: datetime | None
    used_gpus: int
    memory_peak_bytes: int | None = None
    memory_total_bytes: int | None = None


def holds_words(models: Sequence[str]) -> str:
    """What is held, counted by model: `2 x H100 + 1 x L40S`."""
    return " + ".join(f"{count} x {model}" for model, count in Counter(models).items())


def idle_sentence(facts: IdleHolder) -> str:
    """What it holds, for how long, its peak, and its last request; nothing that is not known."""
    held = (
        ""
        if facts.held_since is None
        else f" for {span_words(_coarse((facts.now - facts.held_since).total_seconds()))}"
    )
    parts = [f"{'holds' if facts.holding else 'held'} {holds_words(facts.models)}{held if facts.holding else ''}"]
    peak = "activity not known" if facts.peak_ratio is None else f"max {_percent(facts.peak_ratio)} SM"
    if facts.idle_since is None:
        share = facts.idle_gpu_hours / facts.held_gpu_hours if facts.held_gpu_hours else 0.0
        parts.append(f"idle {_percent(share)} of it here, {peak}")
    elif facts.held_since is None or (facts.idle_since - facts.held_since).total_seconds() > 600:
        idle = span_words(_coarse((facts.now - facts.idle_since).total_seconds()))
        parts.append(f"idle for {idle}, {peak} since")
    else:
        parts.append(peak)
    if facts.metrics:
        day = facts.last_request
        asked = "no request" if day is None else f"last request {_day(day, facts.now)}"
        parts.append(asked)
    return ", ".join(parts)


def idle_suggestion(facts: IdleHolder) -> str:
    """One thing to do about it."""
    count = len(facts.models)
    gpus = "its GPU" if count == 1 else f"its {count} GPUs"
    if not facts.holding:
        return "it has let go; ask for fewer GPUs next time" if count > 1 else "it has let go"
    if facts.idle_since is not None:
        if facts.metrics:
            return f"nobody asks it anything: scale it to zero, {gpus} come{'s' if count == 1 else ''} free"
        return f"ask its owner to stop it, {gpus} come{'s' if count == 1 else ''} free"
    if 0 < facts.used_gpus < count:
        return f"it works on {facts.used_gpus} of {count} GPUs: give it {facts.used_gpus}"
    used, total = facts.memory_peak_bytes, facts.memory_total_bytes
    if used is not None and total and used < 0.5 * total:
        return f"its memory peaks at {_percent(used / total)}: let another container share the GPU, or cut a MIG slice"
    return "let it start on demand: it works only in part of the time"


def _percent(ratio: float) -> str:
    return "under 1 %" if 0 < ratio < 0.005 else f"{ratio * 100:.0f} %"


def _coarse(seconds: float) -> float:
    """Days without hours from three days on, hours without minutes from three hours on: evidence, not a clock."""
    for unit in (86400, 3600):
        if seconds >= 3 * unit:
            return seconds // unit * unit
    return seconds


def _day(at: datetime, now: datetime) -> str:
    if (now - at).total_seconds() < 86400:
        return f"{span_words(_coarse((now - at).total_seconds()))} ago"
    year = f" {at.year}" if at.year != now.year else ""
    return f"{at.day} {at:%b}{year}"
