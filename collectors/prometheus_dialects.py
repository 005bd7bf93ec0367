"""Which dialects the targets of one Prometheus speak, and the few queries that read them all."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from collectors.prometheus_targets import Sample, TargetIndex
from fleet.profile import Table
from fleet.profiles import Profile, ProfileField, detection_names, speaking

#: How often all targets are asked what they speak; a target that appears or comes up is asked at once.
DETECT_SECONDS = 60.0
#: Jobs are named in a query, so that a name like http_requests_total is not read from every service there is.
JOBS_NAMED = 50
#: When the process behind a target began; asked for along with the first numbers.
PROCESS_START = "process_start_time_seconds"
#: Fields that one query reads. Together they keep a poll under 20 queries; apart, one field that is too large or too
#: slow does not take all others with it.
GROUPS: Sequence[tuple[Table, frozenset[str]]] = (
    ("inference", frozenset({"requests", "errors"})),
    ("inference", frozenset({"prompt_tokens", "generation_tokens", "cached_tokens"})),
    ("inference", frozenset({"requests_waiting", "requests_running", "kv_cache_ratio"})),
    ("inference", frozenset({"e2e_seconds distribution"})),
    ("inference", frozenset({"ttft_seconds distribution"})),
    ("inference", frozenset({"itl_seconds distribution"})),
    ("inference", frozenset({"queue_seconds distribution"})),
    ("inference", frozenset({"prompt_tokens distribution", "generation_tokens distribution"})),
    ("gpu", frozenset({
        "busy_ratio", "memory_used_bytes", "memory_free_bytes", "memory_reserved_bytes", "memory_total_bytes",
        "power_watts", "energy_joules", "temperature_celsius", "name", "driver_version", "mig_profile",
    })),
    ("container", frozenset({
        "network_receive_bytes", "network_transmit_bytes", "block_read_bytes", "block_write_bytes"
    })),
)  # fmt: skip
#: What belongs to no group above, by table.
REST: Sequence[Table] = ("gpu", "container", "host")
Names = Mapping[str, tuple[ProfileField, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldQuery:
    """One query and the fields that can be read after it, by profile id.

    text: "" where earlier queries have asked for every name. kept: names that fields of later queries read too.
    slow: facts that need not be asked for at every poll.
    """

    text: str
    names: frozenset[str]
    fields: Names
    kept: frozenset[str]
    slow: bool = False

    @property
    def subject(self) -> str:
        """The fields in words."""
        return ", ".join(dict.fromkeys(each.key for fields in self.fields.values() for each in fields))


class Dialects:
    """What each target speaks, as far as it is known, and the queries that follow from it."""

    def __init__(self, profiles: Sequence[Profile], *, detect_seconds: float = DETECT_SECONDS) -> None:
        self.profiles = tuple(profiles)
        self.by_target: dict[Hashable, tuple[Profile, ...]] = {}
        self.queries: tuple[FieldQuery, ...] = ()
        self._detect_seconds = detect_seconds
        self._asked_at: float | None = None
        self._up: frozenset[Hashable] = frozenset()

    @property
    def learnt(self) -> bool:
        """Whether the targets have ever been asked."""
        return self._asked_at is not None

    def due(self, now: float, up: frozenset[Hashable]) -> bool:
        """Whether to ask: never asked, long ago, or a target is up that was not when last asked."""
        return self._asked_at is None or now - self._asked_at >= self._detect_seconds or not up <= self._up

    def detection(self, index: TargetIndex) -> str:
        """The query that tells which of the telling metrics each target has: one small answer, made by the server."""
        labels = ("__name__", "job", "instance", *index.telling_labels())
        return f"group by ({', '.join(labels)}) ({selector(detection_names(self.profiles))})"

    def learn(self, samples: Iterable[Sample], index: TargetIndex, now: float, up: frozenset[Hashable]) -> None:
        """Take the answer to `detection`."""
        names: defaultdict[Hashable, set[str]] = defaultdict(set)
        jobs: dict[Hashable, str] = {}
        for labels, _ in samples:
            key = index.find(labels).key
            names[key].add(labels.get("__name__", ""))
            jobs[key] = labels.get("job", "")
        found = {key: speaking(self.profiles, exposed) for key, exposed in names.items()}
        self.by_target = {key: spoken for key, spoken in found.items() if spoken}
        self._asked_at, self._up = now, up
        by_id = {one.id: one for spoken in self.by_target.values() for one in spoken}
        in_use = [one for one in self.profiles if one.id in by_id]
        self.queries = plan(in_use, sorted({jobs[key] for key in self.by_target}), index.telling_labels())

    def anchors(self) -> str:
        """A selector of the anchors of all model servers: generic ones would take any web service for one."""
        named = (one for one in self.profiles if one.table == "inference" and not one.generic)
        return selector(tuple(dict.fromkeys(name for one in named for name in one.anchors)))


def plan(profiles: Sequence[Profile], jobs: Sequence[str], telling: Sequence[str] = ()) -> tuple[FieldQuery, ...]:
    """The queries that read every field of these dialects, each name once; `jobs` are those whose targets speak them.

    telling: labels that tell targets of one job and instance apart.
    """
    plain = [(p, f) for p in profiles for f in p.fields if not summed(p, f) and f.combine != "count"]
    grouped = {table: frozenset[str]().union(*(g for t, g in GROUPS if t == table)) for table in REST}
    steps = [([(p, f) for p, f in plain if p.table == table and f.key in group], "") for table, group in GROUPS]
    steps += [([(p, f) for p, f in plain if p.table == table and f.key not in grouped[table]], "") for table in REST]
    gateways = [(p, f) for p in profiles for f in p.fields if summed(p, f)]
    for distributed in (False, True):
        pairs = [(p, f) for p, f in gateways if (f.type == "histogram") is distributed]
        steps.append((pairs, f"sum by ({', '.join(_kept_labels(pairs, telling))}) " if pairs else ""))
    for profile in profiles:
        for counted in (f for f in profile.fields if f.combine == "count"):
            labels = ", ".join(_kept_labels([(profile, counted)], telling))
            steps.append(([(profile, counted)], f"count by ({labels}) "))
    steps = [(pairs, around) for pairs, around in steps if pairs]
    names = [tuple(dict.fromkeys(name for _, each in pairs for name in each.series_names())) for pairs, _ in steps]
    queries: list[FieldQuery] = []
    asked: set[str] = set()
    for place, (pairs, around) in enumerate(steps):
        # Names that a query of another shape asked for are asked again: a sum is no substitute for its series.
        new = tuple(name for name in names[place] if around or name not in asked)
        if not around:
            asked.update(new)
        if pairs[0][0].table == "inference" and not any(PROCESS_START in query.text for query in queries):
            new = (*new, PROCESS_START)
        later = {name for more, (_, shape) in zip(names[place + 1 :], steps[place + 1 :], strict=True)
                 if not shape and not around for name in more}  # fmt: skip
        counting = pairs[0][1].match if around.startswith("count") else {}
        text = selector(new, jobs, counting) if new else ""
        by_profile: defaultdict[str, list[ProfileField]] = defaultdict(list)
        for profile, wanted in pairs:
            by_profile[profile.id].append(wanted)
        queries.append(
            FieldQuery(
                text=f"{around}({text})" if around else text,
                names=frozenset(names[place]),
                fields={profile: tuple(fields) for profile, fields in by_profile.items()},
                kept=frozenset(later.intersection(names[place])),
                slow=all(profile.table == "host" for profile, _ in pairs),
            )
        )
    return tuple(queries)


def summed(profile: Profile, wanted: ProfileField) -> bool:
    """Whether the server adds up this field's series before we read them.

    A gateway's counters carry whoever asked, down to client addresses and user agents: 60 requests made 1,261 series
    of a LiteLLM. What is wanted of them is a number per model and tenant. Measured with 20 teams, 5 models and 20
    clients a team: 1,700 sums (0.35 MB) instead of 34,000 series (8.4 MB), a fourteenth of our CPU and half of the
    server's.
    """
    return profile.role == "gateway" and wanted.type in ("counter", "histogram", "mean")


def selector(names: Sequence[str], jobs: Sequence[str] = (), match: Mapping[str, str] | None = None) -> str:
    """A selector of all these metrics, from these jobs if there are few enough to name."""
    matchers = [f'__name__="{names[0]}"' if len(names) == 1 else f'__name__=~"{"|".join(names)}"']
    if 0 < len(jobs) <= JOBS_NAMED and all(jobs):
        pattern = "|".join(re.escape(job) for job in jobs)
        matchers.append(f"job=~{json.dumps(pattern, ensure_ascii=False)}")
    matchers += [f"{label}=~{json.dumps(pattern)}" for label, pattern in (match or {}).items()]
    return f"{{{', '.join(matchers)}}}"


def _kept_labels(pairs: Sequence[tuple[Profile, ProfileField]], telling: Sequence[str]) -> tuple[str, ...]:
    """Labels that a sum must keep for these fields to be read from it."""
    labels = ["__name__", "job", "instance", *telling]
    for profile, wanted in pairs:
        labels += [name for names in profile.labels.values() for name in names]
        labels += wanted.match
        labels += ["le"] if wanted.type == "histogram" else []
    return tuple(dict.fromkeys(labels))
