"""Damaged texts cost the damaged lines and nothing else."""

from __future__ import annotations

import math

from fleet.exposition import LONGEST_LINE, Exposition


def test_a_damaged_line_is_refused_by_number_and_the_others_are_read():
    text = Exposition()
    lines = [
        "# HELP a words",
        "# TYPE a counter",
        'a{b="c",} 1',  # a trailing comma, as TorchServe writes it
        'a{b="c" 1',
        "",
        "not a sample",
        'a{b="d"} NaN 1395066363000',
        ':tensorflow:serving:request_count{status="OK"} +Inf',
        'a 2 # {trace_id="x"} 0.5',  # an OpenMetrics exemplar
        "a 0x10",
    ]
    samples = list(text.samples(lines))
    assert [(one.name, dict(one.labels)) for one in samples] == [
        ("a", {"b": "c"}), ("a", {"b": "d"}), (":tensorflow:serving:request_count", {"status": "OK"}), ("a", {}),
    ]  # fmt: skip
    assert samples[0].value == 1
    assert math.isnan(samples[1].value)
    assert samples[2].value == math.inf
    assert samples[3].value == 2
    assert text.types == {"a": "counter"}
    assert text.lines == 10
    assert [one.number for one in text.refused] == [4, 6, 10]
    assert text.refused[1].text == "not a sample"


def test_an_endless_line_is_refused_unread_and_shown_short():
    text = Exposition()
    assert list(text.samples(["x" * (LONGEST_LINE + 1)])) == []
    [refused] = text.refused
    assert refused.why == "longer than 65536 characters"
    assert len(refused.text) == 80
