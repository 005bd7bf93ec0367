from __future__ import annotations

import pytest

from fleet.idle_power import IdlePower


def test_only_a_gpu_without_work_shows_its_idle_draw():
    idle = IdlePower()
    idle.observe("A", "1", 300, 0.5)
    idle.observe("A", "1", None, 0)
    idle.observe("A", "1", 50, None)
    assert idle.watts("A", "1") is None
    idle.observe("A", "1", 72, 0)
    idle.observe("A", "1", 70, 0)
    idle.observe("A", "1", 90, 0)
    assert idle.watts("A", "1") == 70
    assert idle.watts("A", "2") is None  # another driver may idle differently


def test_a_configured_draw_wins():
    idle = IdlePower({"A": 60})
    idle.observe("A", "1", 70, 0)
    assert idle.watts("A", "1") == 60


def test_what_was_seen_survives_and_small_changes_are_not_written():
    idle = IdlePower()
    idle.observe("A", "1", 70, 0)
    assert idle.changed
    text = idle.dump()
    idle.observe("A", "1", 69.5, 0)
    assert not idle.changed
    later = IdlePower()
    later.load(text)
    assert later.watts("A", "1") == 70


@pytest.mark.parametrize("text", ["", "[]", '{"A 1": "70"}'])
def test_a_damaged_file_is_refused(text):
    with pytest.raises(ValueError):
        IdlePower().load(text)


def test_one_figure_may_be_configured_for_every_gpu_of_a_machine():
    idle = IdlePower({"A": 60}, every_watts=80)
    idle.observe("B", "1", 70, 0)
    assert (idle.watts("A", "1"), idle.watts("B", "1")) == (60, 80)
