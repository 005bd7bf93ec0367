"""The inspections of one poll: all at once, within a share of the poll's time, each container's failure its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from collectors.base import SourceError
from collectors.containers import ImageFacts, facts_from_inspect, image_facts, place_from_inspect
from collectors.docker_inventory import DockerInventory
from fleet.model import Event, Gap
from fleet.tenancy import Tenancy

Answers = Mapping[str, "Mapping[str, object] | SourceError"]


class InspectingApi(Protocol):
    """The calls needed here."""

    def inspections(self, ids: Iterable[str], deadline: float) -> Answers:
        """`docker inspect` of containers."""
        ...

    def image_inspections(self, ids: Iterable[str], deadline: float) -> Answers:
        """`docker image inspect`."""
        ...


class Inspector:
    """Inspects containers, and each of their images once."""

    def __init__(
        self,
        api: InspectingApi,
        containers: DockerInventory,
        host: str,
        tenancy: Tenancy,
        monotonic: Callable[[], float],
    ) -> None:
        self._api = api
        self._containers = containers
        self._host = host
        self._tenancy = tenancy
        self._monotonic = monotonic
        self._images: dict[str, ImageFacts] = {}

    def forget_images(self) -> None:
        """Ask for each image again when a container of it is next inspected."""
        self._images.clear()

    def inspect(self, waiting: Sequence[str], at: datetime, deadline: float) -> tuple[list[Event], list[Gap]]:
        """Inspect these containers into the inventory: what that showed to have happened, and what failed."""
        events: list[Event] = []
        gaps: list[Gap] = []
        # A quarter of the time stays for the statistics: 500 new containers must not blank those that are known.
        share = self._monotonic() + 0.75 * max(deadline - self._monotonic(), 0.0)
        answers = self._api.inspections(waiting, share)
        self._learn_images([answer for answer in answers.values() if not isinstance(answer, SourceError)], share)
        for key, answer in answers.items():
            if isinstance(answer, SourceError):
                if answer.reason == "gone":
                    self._containers.vanished(key)
                reason = answer.reason
                gaps.append(Gap(subject=key[:12], reason=reason, detail=f"not inspected: {answer.detail}"))
                continue
            image = self._images.get(str(answer.get("Image", "")), ImageFacts())
            try:
                facts = facts_from_inspect(answer, host=self._host, tenancy=self._tenancy, image=image, seen_at=at)
            except ValueError as error:
                gaps.append(Gap(subject=key[:12], reason="malformed", detail=f"not inspected: {error}"))
                continue
            events += self._containers.inspected(key, facts, place_from_inspect(answer))
        return events, gaps

    def _learn_images(self, inspections: Sequence[Mapping[str, object]], deadline: float) -> None:
        wanted: dict[str, str] = {}
        for inspection in inspections:
            config = inspection.get("Config")
            reference = config.get("Image") if isinstance(config, Mapping) else ""
            wanted[str(inspection.get("Image", ""))] = str(reference or "")
        new = {image: reference for image, reference in wanted.items() if image and image not in self._images}
        answers = self._api.image_inspections(new, deadline)
        for image, answer in answers.items():
            if not isinstance(answer, SourceError):
                self._images[image] = image_facts(answer, new[image])
            elif answer.reason == "gone":  # removed while its container runs on
                self._images[image] = ImageFacts()
