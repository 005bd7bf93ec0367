"""The catalogue is complete, and a wrong entry is refused with the words to correct it."""

from __future__ import annotations

import pytest

from fleet.posture.catalogue import CatalogueError, Severity, checks, checks_from, severity_named

GOOD = {
    "title": "t", "severity": "high", "subject": "container", "families": ["A"], "expected": "e", "rationale": "r",
    "compose": "c", "cli": "d",
}  # fmt: skip


def test_there_are_78_checks_and_50_of_them_are_medium_or_worse():
    assert len(checks()) == 78
    assert sum(check.in_short_list for check in checks().values()) == 50


def test_every_check_says_what_to_write_instead():
    for identity, check in checks().items():
        assert identity == check.id
        assert check.title and check.rationale.endswith("."), identity  # noqa: PT018
        assert check.compose and check.cli, identity  # noqa: PT018
        assert len(check.title) <= 60, identity


def test_what_explains_another_check_is_at_least_as_bad():
    for check in checks().values():
        for other in check.explains:
            assert check.severity >= checks()[other].severity, (check.id, other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"severity": "grave"}, "write one of critical, high, medium, low, info"),
        ({"subject": "pod"}, "write one of container, image, host"),
        ({"families": ["Z"]}, "write at least one letter from A to J"),
        ({"raised_by": ["moon"]}, "write some of published, tenants, development"),
        ({"title": ""}, "write a text"),
        ({"colour": "red"}, "found 'colour'"),
        ({"ai": 1}, "write true or false"),
        ({"version": 0}, "write a whole number from 1"),
        ({"cis": "5.5"}, "write a list of texts"),
    ],
)
def test_a_wrong_entry_is_refused(change: dict, words: str):
    with pytest.raises(CatalogueError, match=r"own\.toml: XXX-01") as error:
        checks_from("own.toml", {"XXX-01": {**GOOD, **change}})
    assert words in str(error.value)


def test_severities_have_an_order():
    assert severity_named("critical") > severity_named("high") > Severity.MEDIUM > Severity.LOW > Severity.INFO
