from datetime import UTC, datetime, timedelta

import pytest

from dashboard import format as f

NOW = datetime(2026, 11, 22, 14, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "–"),
        (0, "0"),
        (18_234, "18.2 k"),
        (999.6, "1 k"),
        (999_600, "1 M"),
        (0.6187, "0.619"),
        (9.996, "10"),
        (-1234, "-1.23 k"),
        (38, "38"),
    ],
)
def test_numbers_have_three_significant_digits_and_an_si_prefix(value, shown):
    assert f.number(value) == shown


def test_units_are_binary_for_bytes_and_percent_comes_from_a_ratio():
    assert f.size(29_097_984_000) == "27.1 GiB"
    assert f.size(512) == "512 B"
    assert f.percent(0.004) == "0.4 %"
    assert f.percent(None) == "–"
    assert f.seconds(0.62) == "0.62 s"
    assert f.seconds(0.0123) == "12.3 ms"
    assert f.seconds(125) == "2 m 5 s"
    assert f.money(12_480) == "$12.5 k"


@pytest.mark.parametrize(
    ("ago", "words"),
    [(0, "0 s"), (41, "41 s"), (119, "119 s"), (120, "2 m"), (7200, "2 h"), (86_400 * 6 + 5, "6 d"), (-50, "0 s")],
)
def test_ages_are_one_number_and_one_unit_and_a_clock_ahead_reads_zero(ago, words):
    assert f.age(NOW - timedelta(seconds=ago), NOW) == words


def test_an_age_that_is_not_known_is_a_dash():
    assert f.age(None, NOW) == "–"


@pytest.mark.parametrize(
    "hostile",
    ["<img src=x onerror=alert(1)>", "[x](javascript:alert(1))", "**b** $x$ :red[y] :material/bolt:", "`a` | ~~b~~"],
)
def test_hostile_names_keep_no_character_that_markdown_reads(hostile):
    shown = f.markdown(hostile)
    for sign in "<>[]()*`$:|~":
        assert all(shown[place - 1] == "\\" for place, found in enumerate(shown) if found == sign)


def test_addresses_in_names_do_not_become_links():
    shown = f.markdown("https://evil.example www.evil.example WWW.x.y a@b.example").replace("\\", "")
    assert "://evil" not in shown
    assert "www." not in shown.lower()
    assert "@b" not in shown


def test_control_and_direction_characters_never_reach_the_page():
    assert f.plain("a\x1b[31mb\u202ec\n\n d") == "a [31mb c d"
    assert f.plain("x" * 300) == "x" * 199 + "…"


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@x", "\t=1", " =HYPERLINK()"])
def test_text_that_a_spreadsheet_would_run_gets_an_apostrophe(cell):
    assert f.csv_cell(cell) == f"'{cell}"


def test_numbers_in_csv_stay_numbers():
    assert f.csv_cell(-1.5) == -1.5
    assert f.csv_cell("plain") == "plain"


def test_an_unknown_attribution_word_reads_as_unknown():
    assert [f.attribution(word) for word in ("measured", "estimated", "declared", "unknown", None, "x")] == [
        "●", "◐", "○", "?", "?", "?",
    ]  # fmt: skip
