"""What a series is about: a model for a tenant, a GPU, a container, a host."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from fleet.profiles import Profile

#: Names come from the scraped server: no longer than anybody would choose on purpose.
NAME_LENGTH = 256
#: inference: model, tenant. gpu: UUID (else host and index), MIG instance. container: namespace, pod, name, or the id
#: alone. host: nothing, an exporter speaks of one. "" where the series do not say.
Subject = tuple[str, ...]
#: Which tenant of ours a profile's series speak of, "" when they do not say.
TenantOf = Callable[[Profile, Mapping[str, str]], str]
_LONG_ID = re.compile(r"(?:^|[^0-9a-f])([0-9a-f]{64})(?:[^0-9a-f]|$)")


def as_said(profile: Profile, labels: Mapping[str, str]) -> str:
    """The tenant as the series name it."""
    return profile.said("tenant", labels)


def subject_of(profile: Profile, labels: Mapping[str, str], tenant_of: TenantOf) -> Subject:
    """What a series of this profile is about."""
    if profile.table == "inference":
        # As profile.model() does it, without three calls: this is asked for every series but the buckets.
        model = ""
        for name in profile.labels.get("model", ()):
            model = labels.get(name, "")
            if model and model not in profile.absent_values:
                break
            model = ""
        return model[:NAME_LENGTH], tenant_of(profile, labels) if "tenant" in profile.labels else ""
    if profile.table == "gpu":
        name = profile.said("gpu", labels) or f"{profile.said('host', labels)}/{profile.said('index', labels)}"
        return name[:NAME_LENGTH], profile.said("mig_instance", labels)[:NAME_LENGTH]
    if profile.table == "host":
        return ()
    namespace, pod, name = (profile.said(about, labels)[:NAME_LENGTH] for about in ("namespace", "pod", "name"))
    if namespace and pod:
        return namespace, pod, labels.get("container", "")[:NAME_LENGTH] or name
    return ("", "", container_id(profile, labels) or name)


def container_id(profile: Profile, labels: Mapping[str, str]) -> str:
    """The 64 digits of a container id among the labels, however they are wrapped; "" without one."""
    for label in profile.labels.get("container_id", ()):
        found = _LONG_ID.search(labels.get(label, ""))
        if found is not None:
            return found[1]
    return ""


def facts_of(profile: Profile, labels: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What else the labels say of a GPU, container or host, by the names of the profile's labels."""
    for about in profile.labels:
        yield about, container_id(profile, labels) if about == "container_id" else profile.said(about, labels)
