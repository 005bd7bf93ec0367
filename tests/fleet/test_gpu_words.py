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
