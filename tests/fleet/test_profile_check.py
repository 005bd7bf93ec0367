"""What the profiles read in recorded texts; `pytest -s -k table tests/fleet/test_profile_check.py` prints one table."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fleet.profile import Profile
from fleet.profile_check import Check, FieldReading, check_exposition
from fleet.profiles import builtin_profiles, speaking
from tests.fakes.expositions import exposition_of

RECORDED = Path(__file__).parents[1] / "recorded"
PROFILES = builtin_profiles()
#: recording -> (profiles that match, fields that are not in it and why, in the text's own time).
EXPECTED: dict[str, tuple[set[str], dict[str, str]]] = {
    "vllm_0.33_synth_from_source": ({"vllm"}, {}),
    "vllm_v0_june2024_opt125m": (
        {"vllm"},
        {"cached_tokens": "not exposed", "queue_seconds distribution": "not exposed"},
    ),
    "sglang_docs_llama31-8b_overloaded": (
        {"sglang"},
        {
            "errors": "not exposed", "cached_tokens": "not exposed", "queue_seconds distribution": "not exposed",
            "prompt_tokens distribution": "not exposed", "generation_tokens distribution": "not exposed",
        },
    ),
    "litellm_1.109.1_selfrun_mock": ({"litellm"}, {"cached_tokens": "declared, but has no series yet"}),
    "fastapi_instrumentator_summary_selfrun": ({"python-app"}, {"errors": "not exposed"}),
    "dcgm-exporter_t4_idle": (
        {"dcgm-exporter"},
        {
            "sm_active_ratio": "not exposed", "sm_occupancy_ratio": "not exposed",
            "tensor_active_ratio": "not exposed", "dram_active_ratio": "not exposed",
            "memory_reserved_bytes": "not exposed", "memory_temperature_celsius": "not exposed",
            "ecc_uncorrected": "not exposed", "ecc_corrected": "not exposed", "mig_profile": "GPU_I_PROFILE is empty",
        },
    ),
    "nvidia_gpu_exporter_h100_590.48.01_load": ({"nvidia-gpu-exporter"}, {}),
    "cadvisor_unit_fixture": ({"cadvisor"}, {"memory_limit_bytes": "not exposed"}),
}  # fmt: skip


def check(name: str) -> Check:
    with (RECORDED / f"{name}.prom").open(encoding="utf-8") as lines:
        return check_exposition(lines, PROFILES)


def fields(found: Check, profile: str) -> dict[str, FieldReading]:
    one = next(one for one in found.matched if one.profile.id == profile)
    return {wanted.key: read for wanted, read in zip(one.profile.fields, one.fields, strict=True)}


@pytest.mark.parametrize("name", EXPECTED)
def test_each_recording_is_read_by_its_profile_and_says_what_it_lacks(name: str):
    found = check(name)
    wanted, missing = EXPECTED[name]
    assert {one.profile.id for one in found.matched} == wanted
    assert found.refused == ()
    for profile in wanted:
        lacking = {
            key: read.why for key, read in fields(found, profile).items() if read.value is None and not read.text
        }
        assert lacking.keys() == missing.keys()
        assert all(missing[key] in why for key, why in lacking.items())


def test_the_table_of_recordings_profiles_and_fields(capsys: pytest.CaptureFixture[str]):
    """One line for each recording: what speaks, how much of it is found, what is missing and why."""
    with capsys.disabled():
        print(f"\n{'recording':42}{'profile':22}{'found':>8}  missing")
        for name in EXPECTED:
            found = check(name)
            for one in found.matched:
                reads = fields(found, one.profile.id)
                lacking = {key: read.why for key, read in reads.items() if read.value is None and not read.text}
                share = f"{len(reads) - len(lacking)}/{len(reads)}"
                words = "; ".join(f"{key}: {why}" for key, why in lacking.items()) or "-"
                print(f"{name:42}{one.profile.id:22}{share:>8}  {words[:150]}")
            assert found.matched


def test_an_overloaded_server_is_told_beyond_its_last_bucket_not_at_it():
    """A plain histogram_quantile reads 30 s here; 77 % of the first tokens came later."""
    ttft = fields(check("sglang_docs_llama31-8b_overloaded"), "sglang")["ttft_seconds distribution"]
    assert ttft.p95 is not None
    assert (ttft.p95.state, ttft.p95.value, ttft.p95.lower) == ("beyond", None, 30.0)
    assert ttft.count == 11008
    assert ttft.value == pytest.approx(2.3518979474117756e6 / 11008)


def test_a_gateway_names_its_tenants_and_the_word_none_is_no_tenant():
    found = check("litellm_1.109.1_selfrun_mock")
    [one] = found.matched
    assert one.profile.role == "gateway"
    assert one.tenants == ("ads", "search")
    assert "None" not in one.models


def test_units_are_ours_whatever_the_server_writes():
    """T4: 15109 MiB free, 129 005 mJ or so since the driver was loaded, percent, and no value is a blank."""
    reads = fields(check("dcgm-exporter_t4_idle"), "dcgm-exporter")
    assert reads["memory_free_bytes"].value == 15109 * 1024 * 1024
    assert reads["memory_free_bytes"].unit == "B"
    assert reads["name"].text == "Tesla T4"
    assert reads["energy_joules"].unit == "J"


def test_a_mean_is_told_where_a_server_keeps_only_sum_and_count():
    read = fields(check("fastapi_instrumentator_summary_selfrun"), "python-app")["e2e_seconds distribution"]
    assert read.type == "mean"
    assert read.p95 is None
    assert read.count == 400
    assert read.value is not None


@pytest.mark.parametrize("profile", PROFILES, ids=lambda one: one.id)
def test_every_field_of_every_profile_can_be_read_and_no_other_profile_speaks_its_names(profile: Profile):
    """For dialects of which no recording could be had, this at least holds names, units and detection together."""
    found = check_exposition(exposition_of(profile), PROFILES)
    assert [one.profile.id for one in found.matched] == [profile.id]
    for key, read in fields(found, profile.id).items():
        assert read.text == "fact" if read.type == "info" else read.value is not None, (key, read.why)
        if read.value is not None:
            assert math.isfinite(read.value)


def test_ranks_that_repeat_a_value_count_once_and_replicas_add_up():
    text = [
        f'sglang:num_queue_reqs{{model_name="m",tp_rank="{rank}",dp_rank="{replica}"}} {waiting}'
        for replica, waiting in ((0, 3), (1, 5))
        for rank in range(4)
    ]
    reads = fields(check_exposition(text, PROFILES), "sglang")
    assert reads["requests_waiting"].value == 8


def test_different_bucket_ladders_are_never_added():
    text = ["vllm:num_requests_running 1"]
    for engine, bound in (("0", "1.0"), ("1", "2.0")):
        for le, count in ((bound, 30), ("+Inf", 40)):
            text.append(f'vllm:time_to_first_token_seconds_bucket{{engine="{engine}",le="{le}"}} {count}')
    read = fields(check_exposition(text, PROFILES), "vllm")["ttft_seconds distribution"]
    assert read.p95 is None
    assert read.why.startswith("2 different bucket ladders")
    assert read.count == 80


def test_a_web_framework_is_read_only_where_no_model_server_speaks():
    names = {"http_request_duration_highr_seconds_count", "http_requests_total"}
    assert [one.id for one in speaking(PROFILES, names)] == ["fastapi"]
    assert [one.id for one in speaking(PROFILES, names | {"vllm:num_requests_running"})] == ["vllm"]
