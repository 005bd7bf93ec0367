from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from fleet.idle_ranking import IdleHolder, holds_words, idle_sentence, idle_suggestion, model_weight, short_model

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOTEBOOK = IdleHolder(
    models=["H100", "H100"], holding=True, held_since=NOW - timedelta(days=6, hours=5), now=NOW,
    idle_since=NOW - timedelta(days=6, hours=5), idle_gpu_hours=298.0, held_gpu_hours=298.0, peak_ratio=0.04,
    metrics=True, last_request=datetime(2026, 11, 14, 9, tzinfo=UTC), used_gpus=0,
)  # fmt: skip


def test_the_sentence_says_what_how_long_how_much_and_the_last_request() -> None:
    assert idle_sentence(NOTEBOOK) == "holds 2 x H100 for 6 d, max 4 % SM, last request 14 Nov"


def test_a_server_without_metrics_is_not_said_to_have_no_requests() -> None:
    assert idle_sentence(replace(NOTEBOOK, metrics=False)) == "holds 2 x H100 for 6 d, max 4 % SM"
    assert idle_sentence(replace(NOTEBOOK, last_request=None)) == "holds 2 x H100 for 6 d, max 4 % SM, no request"
    assert idle_sentence(replace(NOTEBOOK, last_request=NOW - timedelta(hours=5))).endswith("last request 5 h ago")
    assert idle_sentence(replace(NOTEBOOK, last_request=NOW - timedelta(days=400))).endswith("16 Oct 2025")


def test_one_that_worked_before_says_since_when_it_does_not() -> None:
    facts = replace(NOTEBOOK, held_since=NOW - timedelta(days=30), metrics=False)
    assert idle_sentence(facts) == "holds 2 x H100 for 30 d, idle for 6 d, max 4 % SM since"


def test_one_that_works_now_and_then_says_how_much_of_the_time_is_idle() -> None:
    facts = replace(NOTEBOOK, models=["L40S"], idle_since=None, idle_gpu_hours=60, held_gpu_hours=100, peak_ratio=0.9)
    assert idle_sentence(facts).startswith("holds 1 x L40S for 6 d, idle 60 % of it here, max 90 % SM")


def test_what_is_unknown_is_left_out_or_said_to_be_unknown() -> None:
    facts = replace(NOTEBOOK, held_since=None, peak_ratio=None, metrics=False)
    assert idle_sentence(facts) == "holds 2 x H100, idle for 6 d, activity not known since"
    assert idle_sentence(replace(NOTEBOOK, holding=False, metrics=False)) == "held 2 x H100, max 4 % SM"
    assert "under 1 % SM" in idle_sentence(replace(NOTEBOOK, peak_ratio=0.003))


def test_the_suggestion_fits_the_kind_of_waste() -> None:
    assert "scale it to zero, its 2 GPUs come free" in idle_suggestion(NOTEBOOK)
    assert "ask its owner" in idle_suggestion(replace(NOTEBOOK, metrics=False))
    part = replace(NOTEBOOK, idle_since=None, used_gpus=1)
    assert idle_suggestion(part) == "it works on 1 of 2 GPUs: give it 1"
    small = replace(part, used_gpus=2, memory_peak_bytes=20, memory_total_bytes=80)
    assert "peaks at 25 %" in idle_suggestion(small)
    assert "on demand" in idle_suggestion(replace(small, memory_peak_bytes=70))
    assert "let go" in idle_suggestion(replace(NOTEBOOK, holding=False))


def test_an_hour_of_a_dearer_gpu_weighs_more_and_an_unknown_one_as_much_as_an_h100() -> None:
    assert model_weight("NVIDIA H100 80GB HBM3") == 1.0
    assert model_weight("NVIDIA A100-SXM4-80GB") == 0.5
    assert model_weight("NVIDIA A100-SXM4-40GB") == 0.4
    assert model_weight("NVIDIA L40S") == 0.27
    assert model_weight("NVIDIA X1") == 1.0


def test_products_are_called_by_their_short_names() -> None:
    assert [short_model(name) for name in ("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "NVIDIA L40S", "")] == [
        "H100", "A100", "L40S", "GPU",
    ]  # fmt: skip
    assert holds_words(["H100", "L40S", "H100"]) == "2 x H100 + 1 x L40S"
