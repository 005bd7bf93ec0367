from __future__ import annotations

from typing import get_args

from fleet import gpu_words
from fleet.model import Reason, Severity


def test_every_entry_of_the_catalogues_loads_and_uses_known_words():
    assert {entry.reason for entry in gpu_words._errors().values()} <= set(get_args(Reason))
    assert {entry.severity for entry in gpu_words._xids().values()} <= set(get_args(Severity))
    for entry in [*gpu_words._errors().values(), *gpu_words._xids().values()]:
        assert entry.words
        assert entry.next_step


def test_the_two_codes_of_a_host_without_gpus_are_a_normal_state():
    assert gpu_words.nvml_error(12).absent
    assert gpu_words.nvml_error(9).absent
    assert not gpu_words.nvml_error(18).absent
    assert not gpu_words.nvml_error(15).absent


def test_an_unknown_number_is_shown_as_it_is():
    assert gpu_words.nvml_error(77).words == "NVML code 77"
    assert gpu_words.xid(7777).severity == "warning"
    assert gpu_words.xid(79).severity == "critical"


def test_idle_is_not_throttling():
    assert gpu_words.throttle_words(0x1) == ()
    assert gpu_words.throttle_words(0x1 | 0x4 | 0x40) == ("power cap reached", "hardware slowdown: too hot")


def test_the_bits_are_distinct_powers_of_two():
    bits = [reason.bit for reason in gpu_words.throttle_reasons()]
    assert bits == [1 << place for place in range(11)]


def test_an_entry_may_name_several_numbers_and_no_number_has_two():
    text = (gpu_words._CATALOG / "xids.toml").read_text(encoding="utf-8")
    named = [number for line in text.splitlines() if line.startswith("[") for number in line.strip('[]"').split()]
    assert len(named) == len(set(named)) == len(gpu_words._xids())
    assert gpu_words.xid(40) == gpu_words.xid(135) == gpu_words.xid(39)


def test_where_nvidia_says_reset_or_restart_the_severity_is_critical():
    # Immediate action RESET_GPU, RESTART_BM, RESTART_VM, CHECK_MECHANICALS or a workflow that ends in one of them.
    for number in (46, 48, 54, 62, 64, 74, 79, 95, 109, 110, 119, 120, 136, 140, 143, 149, 151, 156, 158):
        assert gpu_words.xid(number).severity == "critical", number
    # Immediate action RESTART_APP or IGNORE.
    for number in (8, 13, 31, 32, 37, 38, 43, 45, 63, 80, 92, 94, 121, 137, 141, 157, 160, 161):
        assert gpu_words.xid(number).severity != "critical", number


def test_a_missing_metric_says_what_an_operator_can_do():
    assert gpu_words.metric_gap("sm_active_ratio", 3) == "SM activity needs Hopper or newer (GPM)"
    assert gpu_words.metric_gap("sm_active_ratio", 13) == "SM activity needs Hopper or newer (GPM)"
    assert "for MIG devices alone" in gpu_words.metric_gap("sm_active_ratio", 3, mig=True)
    assert "Hopper or newer (GPM)" in gpu_words.metric_gap("sm_active_ratio", 3, mig=True, part=True)
    assert "--cap-add SYS_ADMIN" in gpu_words.metric_gap("sm_active_ratio", 4)
    assert "through GPM" in gpu_words.metric_gap("busy_ratio", 3, mig=True)
    assert gpu_words.metric_gap("busy_ratio", 3) == "not supported by this GPU or mode"
    assert gpu_words.metric_gap("remapped_rows", 3, mig=True) == "not told while MIG instances exist"
    assert gpu_words.metric_gap("power_watts", 4) == "no permission"


def test_a_recovery_action_has_words_and_no_action_has_none():
    assert gpu_words.recovery(0) is None
    assert gpu_words.recovery(1).words == "the GPU needs a reset"
    assert "restart" in gpu_words.recovery(2).next_step
    assert gpu_words.recovery(42).words == "recovery action 42"
    assert sorted(gpu_words._recoveries()) == [str(number) for number in range(1, 8)]
