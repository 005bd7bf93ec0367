"""A metric profile: what one server or exporter calls its numbers.

A profile is one TOML file (`fleet/profile_file.py` reads it). It says on which targets it speaks, and for each of our
fields which metric holds it, in which unit, and how ranks, engines and replicas combine. Inference servers fill
`inference_samples` and `histograms`; exporters fill the tables of GPUs, containers and hosts, for what runs outside
our own collectors.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

MetricType = Literal["counter", "gauge", "histogram", "mean", "info"]
Combine = Literal["sum", "max", "count"]
Table = Literal["inference", "gpu", "container", "host"]
Role = Literal["server", "gateway"]

#: `histograms.field` values. Fields named `<name>_histogram` in a profile are stored as <name>: a column and a
#: distribution may share their name.
HISTOGRAM_FIELDS = frozenset(
    {"e2e_seconds", "ttft_seconds", "itl_seconds", "queue_seconds", "prompt_tokens", "generation_tokens"}
)

#: Columns of `inference_samples` that a profile can fill, with the only type that fits each.
SAMPLE_FIELDS: Mapping[str, MetricType] = {
    "requests": "counter",
    "errors": "counter",
    "prompt_tokens": "counter",
    "generation_tokens": "counter",
    "cached_tokens": "counter",
    "requests_waiting": "gauge",
    "requests_running": "gauge",
    "kv_cache_ratio": "gauge",
}
#: The same of the other tables: columns of GpuSample, ContainerSample and Host, and facts told by labels ("info").
TABLE_FIELDS: Mapping[Table, Mapping[str, MetricType]] = {
    "inference": SAMPLE_FIELDS,
    "gpu": {
        "busy_ratio": "gauge",
        "sm_active_ratio": "gauge",
        "sm_occupancy_ratio": "gauge",
        "tensor_active_ratio": "gauge",
        "dram_active_ratio": "gauge",
        "encoder_ratio": "gauge",
        "decoder_ratio": "gauge",
        "memory_used_bytes": "gauge",
        "memory_free_bytes": "gauge",  # no column: total = used + free + reserved where no total is told
        "memory_reserved_bytes": "gauge",
        "memory_total_bytes": "gauge",
        "power_watts": "gauge",
        "power_limit_watts": "gauge",
        "energy_joules": "counter",
        "temperature_celsius": "gauge",
        "memory_temperature_celsius": "gauge",
        "sm_clock_mhz": "gauge",
        "memory_clock_mhz": "gauge",
        "throttle_reasons": "gauge",
        "ecc_corrected": "counter",
        "ecc_uncorrected": "counter",
        "remapped_rows": "gauge",
        "xid": "gauge",
        "name": "info",
        "driver_version": "info",
        "mig_profile": "info",
    },
    "container": {
        "cpu_seconds": "counter",
        "cpu_periods": "counter",
        "cpu_throttled_periods": "counter",
        "cpu_throttled_seconds": "counter",
        "cpu_limit_cores": "gauge",
        "memory_working_set_bytes": "gauge",
        "memory_cache_bytes": "gauge",
        "memory_limit_bytes": "gauge",
        "network_receive_bytes": "counter",
        "network_transmit_bytes": "counter",
        "block_read_bytes": "counter",
        "block_write_bytes": "counter",
        "pids": "gauge",
        "restarts": "counter",
        "oom_kills": "counter",
        "started_seconds": "gauge",  # unix time
        "image": "info",
        "state": "info",
        "gpu_count": "gauge",
    },
    "host": {
        "cpu_count": "gauge",
        "memory_total_bytes": "gauge",
        "os": "info",
        "kernel": "info",
    },
}
#: Labels that say which GPU, container or host a series is about, by table; "model" and "tenant" for inference.
SUBJECTS: Mapping[Table, frozenset[str]] = {
    "inference": frozenset({"model", "tenant"}),
    "gpu": frozenset({"gpu", "index", "host", "mig_instance"}),
    "container": frozenset({"container_id", "name", "host", "tenant", "namespace", "pod"}),
    "host": frozenset({"host"}),
}


class ProfileError(ValueError):
    """A profile file that cannot be used. `mistakes`: one line each, with file, field and fix."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = tuple(mistakes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileField:
    """One number of ours and where it is found. `metrics` in order of preference; only the first found counts.

    scale: factor to our unit (s, bytes, ratio); for a histogram it applies to bounds and sum.
    match: label name -> whole-match pattern that a series must fit to count. combine: over engines and replicas.
    dedup: labels over which the same value repeats (ranks of one engine): the largest is taken before combining.
    counts: of a "mean", the counters of how many, one for each of `metrics`; only the mean of such a field can be told.
    divide_by: a gauge that this one is divided by. label: of an "info", the label whose value is the fact.
    weight: what one observation of a histogram or mean is.
    """

    name: str
    metrics: tuple[str, ...]
    type: MetricType
    scale: float = 1.0
    match: Mapping[str, str] = field(default_factory=dict[str, str])
    combine: Combine = "sum"
    dedup: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    divide_by: str = ""
    label: str = ""
    weight: Literal["request", "token"] = "request"
    note: str = ""
    #: Stored as a histogram; that of a mean has the one bound +Inf.
    distributed: bool = field(init=False)
    #: Name among all fields of a profile: a column and a distribution may share theirs.
    key: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "distributed", self.type in ("histogram", "mean"))
        object.__setattr__(self, "key", f"{self.name} distribution" if self.distributed else self.name)

    def series_names(self) -> tuple[str, ...]:
        """Every metric name as it stands in an exposition, that this field reads."""
        names: list[str] = []
        for place, metric in enumerate(self.metrics):
            if self.type == "histogram":
                names += [f"{metric}_bucket", f"{metric}_sum"]
            elif self.type == "mean":
                names += [metric, self.counts[place]]
            else:
                names.append(metric)
        return tuple(dict.fromkeys([*names, self.divide_by] if self.divide_by else names))

    def accepts(self, labels: Mapping[str, str]) -> bool:
        """Whether a series with these labels counts for this field."""
        return all(_pattern(pattern).fullmatch(labels.get(label, "")) for label, pattern in self.match.items())


@functools.lru_cache(maxsize=512)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One dialect: it speaks on a target that has any of `anchors`, all of `requires` and none of `excludes`.

    generic: speaks only where no other profile for the same table does (a web framework's own counters beside those
    of the model server inside it would count every request twice). role "gateway": its requests are counted by a
    server behind it too. labels: what a series is about -> label names, first one present wins; a value in
    `absent_values` is as good as no label. blank_from: values from here on mean "not known".
    """

    id: str
    title: str
    source: str
    table: Table = "inference"
    role: Role = "server"
    generic: bool = False
    path: str = "/metrics"
    anchors: tuple[str, ...]
    requires: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    absent_values: tuple[str, ...] = ()
    blank_from: float = math.inf
    samples: tuple[ProfileField, ...]
    histograms: tuple[ProfileField, ...]
    infos: tuple[ProfileField, ...] = ()

    @property
    def model_labels(self) -> tuple[str, ...]:
        """Labels that may name the model."""
        return self.labels.get("model", ())

    @property
    def fields(self) -> tuple[ProfileField, ...]:
        """All fields."""
        return (*self.samples, *self.histograms, *self.infos)

    def said(self, about: str, labels: Mapping[str, str]) -> str:
        """What a series says about its model, tenant, GPU, container or host; "" when it does not say."""
        for name in self.labels.get(about, ()):
            value = labels.get(name, "")
            if value and value not in self.absent_values:
                return value
        return ""

    def model(self, labels: Mapping[str, str]) -> str:
        """Model name among the labels of a series, "" when the server does not say."""
        return self.said("model", labels)

    def speaks(self, names: Collection[str]) -> bool:
        """Whether a target that exposes metrics of these names speaks this dialect (as far as names tell)."""
        return (
            any(anchor in names for anchor in self.anchors)
            and all(name in names for name in self.requires)
            and not any(name in names for name in self.excludes)
        )
