"""What Prometheus says about its scrape targets, from its targets API and from the `up` series."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from fleet.joining import Endpoint

#: One sample of an instant query: labels with `__name__`, and the value.
Sample = tuple[dict[str, str], float]

#: Prometheus' own default, for servers that do not say.
USUAL_SCRAPE_SECONDS = 60.0
#: A value that was not scraped for so many scrape intervals, and so many seconds, is history and no present state.
STALE_INTERVALS = 3.0
STALE_SECONDS = 10.0
_ERROR_LENGTH = 300
_NAME_LENGTH = 256
_URL_QUERY = re.compile(r"\?[^\s\"']*")
#: Ours of the two ends of a broken connection: a new port every time, and so a new text for every row.
_DURATION = re.compile(r"(\d+)(ms|s|m|h|d|w|y)")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "y": 31536000.0}
_LOCAL_END = re.compile(r"\S+:\d+->")
_URL_USER = re.compile(r"//[^/\s\"'@]*@")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One scrape target. up is None before its first scrape.

    scraped_at: server clock, seconds, None when unknown; scrape_seconds: how often it is scraped.
    """

    job: str
    instance: str
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    discovered: Mapping[str, str] = field(default_factory=dict[str, str])
    scrape_url: str = ""
    up: bool | None = None
    error: str = ""
    scraped_at: float | None = None
    scrape_seconds: float = USUAL_SCRAPE_SECONDS
    #: Identity among the targets of one server; kept, as every series of a poll asks for it.
    key: tuple[str, str, frozenset[tuple[str, str]]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", (self.job, self.instance, frozenset(self.labels.items())))

    @property
    def endpoint(self) -> str:
        """Name as shown and stored, of bounded length: with honor_labels the scraped server itself chooses it."""
        return f"{self.job}/{self.instance}"[:_NAME_LENGTH]

    def is_stale(self, now: float) -> bool:
        """Whether its values were scraped too long before `now`, server clock, to be called present.

        Prometheus answers with the last value for 5 minutes where it could not mark a series' end, as after a crash.
        """
        if self.scraped_at is None:
            return False
        return now - self.scraped_at > max(STALE_SECONDS, STALE_INTERVALS * self.scrape_seconds)

    def to_endpoint(self) -> Endpoint:
        """What joining needs."""
        return Endpoint(
            job=self.job,
            instance=self.instance,
            labels=self.labels,
            discovered=self.discovered,
            scrape_url=self.scrape_url,
        )


def targets_from_api(payload: object) -> list[Target]:
    """Active targets of a /api/v1/targets answer; what is not shaped like one is left out.

    Raises ValueError when the answer holds no list of active targets.
    """
    active = cast("Mapping[str, object]", payload).get("activeTargets") if isinstance(payload, dict) else None
    if active is None and isinstance(payload, dict) and "activeTargets" in payload:
        active = []  # Go writes an empty list as null
    if not isinstance(active, list):
        raise ValueError("the targets answer has no activeTargets")  # noqa: TRY004 - malformed input, not a wrong call
    found: list[Target] = []
    for item in cast("list[object]", active):
        if not isinstance(item, dict):
            continue
        values = cast("dict[str, object]", item)
        labels = text_map(values.get("labels"))
        health = values.get("health")
        found.append(
            Target(
                job=labels.get("job", ""),
                instance=labels.get("instance", ""),
                labels=labels,
                discovered=text_map(values.get("discoveredLabels")),
                scrape_url=str(values.get("scrapeUrl", "")),
                up=None if health not in ("up", "down") else health == "up",
                error=clean_error(str(values.get("lastError") or "")),
                scrape_seconds=_seconds(str(values.get("scrapeInterval", ""))),
            )
        )
    return found


def with_up(targets: Sequence[Target], up: Iterable[Sample], scraped: Iterable[Sample]) -> list[Target]:
    """Targets with the state and time of their last scrape; those that only have an `up` series are added.

    up: the vector `up`; scraped: the vector `timestamp(up)`.
    """
    ups = {_identity(labels): (labels, value) for labels, value in up}
    times = {_identity(labels): value for labels, value in scraped}
    answer: list[Target] = []
    for target in targets:
        _, value = ups.pop(target.key, (None, None))
        state = target.up if value is None else value > 0.0
        answer.append(replace(target, up=state, scraped_at=times.get(target.key)))
    for key, (labels, value) in ups.items():
        plain = {name: text for name, text in labels.items() if name != "__name__"}
        answer.append(Target(job=key[0], instance=key[1], labels=plain, up=value > 0.0, scraped_at=times.get(key)))
    return answer


class TargetIndex:
    """Finds the target that a series came from."""

    def __init__(self, targets: Iterable[Target]) -> None:
        self._by_name: defaultdict[tuple[str, str], list[Target]] = defaultdict(list)
        for target in targets:
            self._by_name[target.job, target.instance].append(target)

    def telling_labels(self) -> tuple[str, ...]:
        """Labels besides job and instance that targets of the same job and instance carry."""
        several = (found for found in self._by_name.values() if len(found) > 1)
        names = {name for found in several for target in found for name in target.labels}
        return tuple(sorted(names - {"job", "instance"}))

    def only(self, job: str, instance: str) -> Target | None:
        """The one target of this job and instance; None when there are several, or none is known."""
        found = self._by_name.get((job, instance), ())
        return found[0] if len(found) == 1 else None

    def find(self, labels: Mapping[str, str]) -> Target:
        """The target whose labels the series carries; one made up from job and instance when there is none."""
        name = (labels.get("job", ""), labels.get("instance", ""))
        found = self._by_name.get(name)
        if found is None:
            made_up = Target(job=name[0], instance=name[1], labels={"job": name[0], "instance": name[1]})
            self._by_name[name] = [made_up]
            return made_up
        if len(found) == 1:
            return found[0]
        own = [target for target in found if target.labels.items() <= labels.items()]
        return max(own or found, key=lambda target: (len(target.labels), sorted(target.labels.items())))


def text_map(value: object) -> dict[str, str]:
    """A JSON object as texts; empty for anything else."""
    if not isinstance(value, dict):
        return {}
    return {str(key): str(text) for key, text in cast("dict[object, object]", value).items()}


def clean_error(text: str) -> str:
    """A scrape error without what a URL may carry in its user or query part, on one line of bounded length."""
    text = _LOCAL_END.sub("", _URL_USER.sub("//", _URL_QUERY.sub("", text)))
    return " ".join(text.split())[:_ERROR_LENGTH]


def _seconds(duration: str) -> float:
    """Seconds of a duration as Prometheus writes it, "1m30s"; the usual interval when it is none."""
    parts = _DURATION.findall(duration)
    return sum(int(number) * _UNIT_SECONDS[unit] for number, unit in parts) or USUAL_SCRAPE_SECONDS


def _identity(labels: Mapping[str, str]) -> tuple[str, str, frozenset[tuple[str, str]]]:
    pairs = frozenset(item for item in labels.items() if item[0] != "__name__")
    return (labels.get("job", ""), labels.get("instance", ""), pairs)
