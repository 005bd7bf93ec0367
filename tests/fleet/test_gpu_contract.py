"""Declared against observed, sentence by sentence, on hand-made claims."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.gpu_contract import Claim, GpuUse, Rules, Violation, check

AT = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HOUR = 3600.0
GIB = 1 << 30
RULES = Rules(
    at=AT, span_seconds=6 * HOUR, held_unused_after_seconds=4 * HOUR, idle_below_ratio=0.05,
    gpu_names={"GPU-a": "GPU 0", "GPU-b": "GPU 1", "GPU-c": "GPU 2", "MIG-b0": "MIG 3g.40gb of GPU 1"},
    parents={"MIG-b0": "GPU-b", "MIG-b1": "GPU-b"}, gpu_hosts=frozenset({"h1"}),
)  # fmt: skip
NO_RUNTIME = 'could not select device driver "" with capabilities: [[gpu]]'


def ago(hours: float) -> datetime:
    return AT - timedelta(hours=hours)


def claim(name: str, kind: str = "ids", *uuids: str, **more: object) -> Claim:
    texts = {"all": "--gpus all", "count": f"--gpus {len(uuids)}", "ids": f"--gpus device={','.join(uuids)}"}
    values = {
        "container_key": f"h1:{name}", "name": name, "host": "h1", "state": "running", "kind": kind,
        "request": texts.get(kind, ""), "gpu_uuids": uuids, "started_at": ago(150), "created_at": ago(150), **more,
    }  # fmt: skip
    return Claim(**values)  # type: ignore[arg-type]


def used(uuid: str, memory: int | None = 10 * GIB, sm: float | None = 0.6, **more: object) -> GpuUse:
    values = {"held": True, "held_since": ago(6), "last_used_at": AT, **more}
    return GpuUse(gpu_uuid=uuid, memory_max_bytes=memory, sm_max_ratio=sm, **values)  # type: ignore[arg-type]


def quiet(uuid: str, seconds: float = 4 * HOUR, **more: object) -> GpuUse:
    values = {"held": True, "held_since": ago(150), "memory_max_bytes": 0, "sm_max_ratio": 0.04, **more}
    return GpuUse(gpu_uuid=uuid, quiet_seconds=seconds, **values)  # type: ignore[arg-type]


def blind(uuid: str, seconds: float = 4 * HOUR, **more: object) -> GpuUse:
    reason = "MIG: the driver does not tell SM shares of processes"
    values = {"held": True, "held_since": ago(6), "unknown_seconds": seconds, "unknown_reason": reason, **more}
    return GpuUse(gpu_uuid=uuid, **values)  # type: ignore[arg-type]


def unasked(uuid: str, memory: int | None = 12 * GIB, sm: float | None = 0.87) -> GpuUse:
    return GpuUse(
        gpu_uuid=uuid, held=False, unasked_since=ago(2), last_used_at=AT, memory_max_bytes=memory, sm_max_ratio=sm
    )


def only(*claims: Claim, rules: Rules = RULES) -> Violation:
    (violation,) = check(claims, rules)
    return violation


def kinds(*claims: Claim, rules: Rules = RULES) -> list[tuple[str, str]]:
    return [(one.kind, one.container_key.partition(":")[2]) for one in check(claims, rules)]


def test_a_container_that_uses_what_it_asked_for_keeps_the_contract():
    assert kinds(claim("llm", "ids", "GPU-a", uses=(used("GPU-a"),))) == []
    assert kinds(claim("llm", "count", "GPU-a", uses=(used("GPU-a"),))) == []
    assert kinds(claim("web", "none")) == []


def test_one_that_uses_a_gpu_it_did_not_ask_for_is_told_with_what_to_write():
    found = only(claim("miner", "privileged", privileged=True, uses=(unasked("GPU-a"),)))
    assert (found.kind, found.severity, found.gpu_uuids, found.since) == (
        "uses_unasked", "warning", ("GPU-a",), ago(2),
    )  # fmt: skip
    assert found.sentence == (
        "miner uses GPU 0, which it did not ask for since 22 Nov 10:00 UTC (2 h): up to 12 GiB, up to 87 % SM. It runs"
        " --privileged, which reaches every GPU. Write `--gpus '\"device=GPU-a\"'`, without --privileged."
    )
    assert found.evidence == {
        "memory_max_bytes": str(12 * GIB), "sm_max_ratio": "0.87", "request": "", "privileged": "yes",
    }  # fmt: skip


def test_use_of_another_gpu_beside_its_own_is_unasked_too():
    found = only(claim("llm", "ids", "GPU-a", uses=(used("GPU-a"), unasked("GPU-b"))))
    assert found.kind == "uses_unasked"
    assert found.gpu_uuids == ("GPU-b",)
    assert "Nothing it asked for explains that" in found.sentence
    assert "`--gpus '\"device=GPU-a,GPU-b\"'`" in found.sentence


def test_memory_that_cannot_be_read_is_use_all_the_same():
    found = only(claim("wsl", "none", uses=(unasked("GPU-a", memory=None, sm=None),)))
    assert "a process with memory that cannot be read" in found.sentence


def test_whoever_asked_for_a_gpu_in_mig_mode_may_use_its_devices_and_the_other_way_round():
    assert kinds(claim("whole", "ids", "GPU-b", uses=(unasked("MIG-b0"),))) == []
    assert kinds(claim("part", "ids", "MIG-b0", uses=(used("MIG-b0"), unasked("GPU-b")))) == []
    # The GPU itself shows no process then, which is no lack of use.
    assert kinds(claim("whole", "ids", "GPU-b", uses=(quiet("GPU-b"), unasked("MIG-b0")))) == []


def test_another_mig_device_of_the_same_gpu_was_not_asked_for():
    found = only(claim("part", "ids", "MIG-b0", uses=(used("MIG-b0"), unasked("MIG-b1"))))
    assert (found.kind, found.gpu_uuids) == ("uses_unasked", ("MIG-b1",))


def test_use_that_ended_is_told_in_the_past():
    use = replace(unasked("GPU-a"), last_used_at=ago(1))
    assert only(claim("miner", "none", uses=(use,))).sentence.startswith("miner used GPU 0, which it did not ask for")


def test_an_id_that_names_nothing_accuses_nobody_of_use():
    assert kinds(claim("odd", "ids", unresolved=("GPU-12",), uses=(unasked("GPU-a"),))) == [("requested_absent", "odd")]


def test_one_that_holds_a_gpu_for_hours_without_a_process_is_told():
    found = only(claim("nb", "ids", "GPU-a", uses=(quiet("GPU-a"),)))
    assert (found.kind, found.severity, found.since) == ("held_unused", "warning", ago(150))
    assert found.sentence == (
        "nb holds 1 GPU without using it since 16 Nov 06:00 UTC (6 d 6 h): no process on GPU 0, never above 5 % SM in"
        " the last 4 h. Stop it, or start it without a GPU."
    )
    assert found.evidence["quiet_seconds"] == "14400"


def test_of_several_gpus_only_the_unused_ones_are_told_and_the_others_are_what_to_write():
    found = only(claim("train", "ids", "GPU-a", "GPU-b", uses=(used("GPU-a"), quiet("GPU-b"))))
    assert (found.kind, found.gpu_uuids) == ("held_unused", ("GPU-b",))
    assert "holds 1 of its 2 GPUs" in found.sentence
    assert found.sentence.endswith("Write `--gpus '\"device=GPU-a\"'`.")


@pytest.mark.parametrize(
    ("use", "started", "told"),
    [
        (quiet("GPU-a", 4 * HOUR), ago(150), True),
        (quiet("GPU-a", 3.6 * HOUR), ago(150), True),  # 90 % of the span was seen
        (quiet("GPU-a", 3.5 * HOUR), ago(150), False),
        (quiet("GPU-a"), ago(3.9), False),  # not started long enough
        (quiet("GPU-a"), None, True),
        (quiet("GPU-a", last_used_at=ago(3.9)), ago(150), False),
        (quiet("GPU-a", last_used_at=ago(4)), ago(150), True),
        (quiet("GPU-a", held=False), ago(150), False),  # given back
    ],
)
def test_held_unused_begins_after_exactly_the_span(use, started, told):
    assert (("held_unused", "nb") in kinds(claim("nb", "ids", "GPU-a", uses=(use,), started_at=started))) is told


def test_since_is_the_last_use_where_there_was_one():
    assert only(claim("nb", "ids", "GPU-a", uses=(quiet("GPU-a", last_used_at=ago(30)),))).since == ago(30)


def test_all_gpus_asked_for_and_few_used_names_those():
    gpus = ("GPU-a", "GPU-b", "GPU-c")
    found = only(claim("train", "all", *gpus, uses=(used("GPU-a"), quiet("GPU-b", 3 * HOUR), used("GPU-c"))))
    assert (found.kind, found.severity, found.gpu_uuids) == ("asked_all", "warning", gpus)
    assert found.sentence == (
        "train asks for all 3 GPUs of h1 (--gpus all) and used at most 2 of them in the last 6 h: GPU 0 and GPU 2."
        " Write `--gpus '\"device=GPU-a,GPU-c\"'`."
    )
    assert found.evidence["used"] == "2"


def test_all_gpus_of_a_host_with_one_is_no_matter():
    assert kinds(claim("train", "all", "GPU-a", uses=(used("GPU-a"),))) == []


def test_all_gpus_asked_for_and_used_is_worth_a_word_only():
    found = only(claim("train", "all", "GPU-a", "GPU-b", uses=(used("GPU-a"), used("GPU-b"))))
    assert (found.kind, found.severity) == ("asked_all", "info")


def test_all_gpus_asked_for_and_use_unknown_says_so_instead_of_a_number():
    found = check([claim("train", "all", "GPU-a", "GPU-b", uses=(used("GPU-a"), blind("GPU-b")))], RULES)
    assert [(one.kind, one.severity) for one in found] == [("asked_all", "info"), ("unknown", "info")]
    assert "how many it uses is not known: MIG" in found[0].sentence


def test_two_counts_share_the_first_gpu_and_both_are_told():
    first = claim("a", "count", "GPU-a", uses=(used("GPU-a"),), started_at=ago(10))
    second = claim("b", "count", "GPU-a", uses=(used("GPU-a"),), started_at=ago(5))
    found = check([first, second], RULES)
    assert [(one.kind, one.container_key, one.since) for one in found] == [
        ("shared_by_count", "h1:a", ago(5)), ("shared_by_count", "h1:b", ago(5)),
    ]  # fmt: skip
    assert found[0].sentence == (
        "a shares GPU 0 with b. Both asked by count (--gpus 1), and Docker gives each count the first GPUs, 0 to N-1,"
        " busy or not. Name one each: `--gpus '\"device=GPU-a\"'` for one of them, another UUID of `nvidia-smi -L` for"
        " the next."
    )


def test_counts_on_two_hosts_do_not_meet():
    one, other = (
        claim("a", "count", "GPU-a", uses=(used("GPU-a"),)),
        claim("b", "count", "GPU-z", uses=(used("GPU-z"),)),
    )
    assert kinds(one, replace(other, host="h2")) == []


def test_two_that_name_the_same_gpu_mean_it():
    a, b = (claim(name, "ids", "MIG-b0", uses=(used("MIG-b0"),)) for name in "ab")
    found = check([a, b], RULES)
    assert [(one.kind, one.severity) for one in found] == [("shared_on_purpose", "info")] * 2
    assert "a shares MIG 3g.40gb of GPU 1 with b; each names it" in found[0].sentence


def test_two_mig_devices_of_one_gpu_are_not_shared():
    assert (
        kinds(claim("a", "ids", "MIG-b0", uses=(used("MIG-b0"),)), claim("b", "ids", "MIG-b1", uses=(used("MIG-b1"),)))
        == []
    )


def test_a_count_beside_a_name_is_told_to_the_one_that_counted():
    assert kinds(
        claim("counts", "count", "GPU-a", uses=(used("GPU-a"),)), claim("names", "ids", "GPU-a", uses=(used("GPU-a"),))
    ) == [("shared_by_count", "counts")]


def test_a_container_that_does_not_run_holds_nothing():
    runs = claim("a", "count", "GPU-a", uses=(used("GPU-a"),))
    assert kinds(runs, claim("b", "count", "GPU-a", state="exited")) == []


def test_an_id_that_is_not_on_the_host_is_told():
    found = only(claim("llm", "ids", "GPU-a", unresolved=("7", "GPU-dead"), uses=(used("GPU-a"),)))
    assert (found.kind, found.severity) == ("requested_absent", "warning")
    assert "asks for GPU 7 and GPU-dead" in found.sentence
    assert "of what it asked for it has GPU 0" in found.sentence
    waiting = only(claim("llm", "device_nodes", state="created", unresolved=("5",), request="--device /dev/nvidia5"))
    assert (
        "asks for /dev/nvidia5 (--device /dev/nvidia5), which h1 does not have, so it cannot start" in waiting.sentence
    )


def test_a_long_list_of_absent_ids_is_cut():
    found = only(claim("llm", "count", unresolved=tuple(str(n) for n in range(3, 256))))
    assert "GPU 3, GPU 4, GPU 5, GPU 6 and 249 more" in found.sentence
    assert len(found.evidence["unresolved"]) < 100


def test_a_start_that_failed_says_why_and_what_is_next():
    found = only(claim("llm", "all", state="created", error=NO_RUNTIME, started_at=None, created_at=ago(1)))
    assert (found.kind, found.severity, found.since) == ("failed_start", "warning", ago(1))
    assert found.sentence.startswith("llm did not start: no NVIDIA runtime (it asks with --gpus all). Next: install")
    assert kinds(claim("llm", "all", state="created", error="port is already allocated")) == []


def test_a_privileged_container_that_uses_nothing_is_only_mentioned():
    found = only(claim("agent", "privileged", privileged=True))
    assert (found.kind, found.severity) == ("privileged_reach", "info")
    assert kinds(claim("agent", "privileged", privileged=True, host="cpu-only")) == []


def test_what_nobody_could_read_is_told_as_not_known_with_the_reason():
    found = only(claim("llm", "ids", "MIG-b0", uses=(blind("MIG-b0"),)))
    assert (found.kind, found.severity) == ("unknown", "info")
    assert found.sentence == (
        "Not known: whether llm uses MIG 3g.40gb of GPU 1, which it holds. MIG: the driver does not tell SM shares of"
        " processes."
    )
    # The few seconds of a first reading are no news.
    assert kinds(claim("llm", "ids", "MIG-b0", uses=(blind("MIG-b0", 20.0),))) == []


def test_a_request_nobody_could_resolve_is_not_known_and_not_absent():
    found = only(claim("llm", "all"))
    assert found.kind == "unknown"
    assert "The GPUs of h1 have not been listed" in found.sentence


def test_a_container_of_somebody_else_is_counted_and_never_named():
    mine = claim("mine", "count", "GPU-a", uses=(used("GPU-a"),))
    theirs = Claim(
        container_key="", name="", host="h1", state="running", kind="count", gpu_uuids=("GPU-a",), started_at=None
    )
    found = only(mine, theirs, theirs)
    assert "mine shares GPU 0 with another tenant's container." in found.sentence
    assert found.evidence["with"] == "another tenant's container"
    assert found.since == mine.started_at


def test_compose_is_told_in_its_own_words():
    found = only(claim("train", "all", "GPU-a", "GPU-b", compose=True, uses=(used("GPU-a"), quiet("GPU-b", HOUR))))
    assert '`device_ids: ["GPU-a"]` under deploy.resources.reservations.devices' in found.sentence


def test_the_worst_come_first_and_the_order_is_always_the_same():
    claims = [
        claim("z", "count", "GPU-a", uses=(used("GPU-a"),)), claim("y", "count", "GPU-a", uses=(used("GPU-a"),)),
        claim("p", "privileged", privileged=True), claim("f", "all", state="created", error=NO_RUNTIME),
        claim("m", "privileged", privileged=True, uses=(unasked("GPU-c"),)),
    ]  # fmt: skip
    expected = [
        ("failed_start", "f"), ("uses_unasked", "m"), ("shared_by_count", "y"), ("shared_by_count", "z"),
        ("privileged_reach", "p"),
    ]  # fmt: skip
    for order in itertools.permutations(claims):
        assert kinds(*order) == expected


_USES = st.builds(
    lambda uuid, held, unknown: GpuUse(gpu_uuid=uuid, held=held, held_since=ago(6), unknown_seconds=unknown),
    st.sampled_from(["GPU-a", "GPU-b", "MIG-b0"]),
    st.booleans(),
    st.floats(0, 6 * HOUR),
)


@given(
    kind=st.sampled_from(["all", "count", "ids", "device_nodes", "privileged", "none", ""]),
    uuids=st.lists(st.sampled_from(["GPU-a", "GPU-b", "MIG-b0"]), unique=True),
    uses=st.lists(_USES, max_size=3),
    privileged=st.booleans(),
)
def test_without_a_process_view_nobody_is_accused_of_use_or_of_none(kind, uuids, uses, privileged):
    found = check([claim("x", kind, *uuids, uses=tuple(uses), privileged=privileged)], RULES)
    assert not {one.kind for one in found} & {"uses_unasked", "held_unused"}
    assert all(one.severity == "info" for one in found)


def test_a_held_gpu_without_readings_is_unknown_and_not_in_order():
    # It asked for two GPUs by id and runs for days; of one nothing was read in the 6 h looked at.
    (found,) = check([claim("nb", "ids", "GPU-a", "GPU-b", uses=(used("GPU-a"),))], RULES)
    assert (found.kind, found.severity, found.gpu_uuids, found.since) == ("unknown", "info", ("GPU-b",), None)
    assert found.sentence == (
        "Not known: whether nb uses GPU 1, which it holds: it has not been read in the last 6 h. "
        "Is the collector's NVML source running there?"
    )


def test_readings_that_stopped_are_told_with_the_time_of_the_last_one():
    # It was at work until the readings ended two hours ago: since then nobody knows.
    stopped = used("GPU-a", seen_at=ago(2), last_used_at=ago(2))
    (found,) = check([claim("nb", "ids", "GPU-a", uses=(stopped,))], RULES)
    assert (found.kind, found.since) == ("unknown", ago(2))
    assert "it has not been read since 22 Nov 10:00 UTC (2 h)" in found.sentence
    assert kinds(claim("nb", "ids", "GPU-a", uses=(replace(stopped, seen_at=ago(0.1)),))) == []


def test_a_container_too_young_to_have_been_read_is_not_held_up():
    assert kinds(claim("new", "ids", "GPU-a", started_at=ago(0.1))) == []
    assert kinds(claim("new", "ids", "GPU-a", started_at=ago(0.2))) == [("unknown", "new")]


def test_a_gpu_that_is_read_in_its_mig_devices_is_read():
    assert kinds(claim("a", "ids", "GPU-b", uses=(used("MIG-b0", held=False),))) == []
