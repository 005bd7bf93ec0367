from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from fleet.__main__ import main
from fleet.case_values import CaseError
from fleet.cost_case import compute, load_case
from fleet.cost_report import as_json, as_text
from fleet.price_file import load_prices

DOCS = Path(__file__).resolve().parents[2] / "docs" / "cost-cases.md"
HOUR = {"from": "2026-11-02T08:00:00Z", "to": "2026-11-02T09:00:00Z"}
GPU = {"id": "g", "price_per_hour": 2}


def solved(case: dict[str, object]) -> dict[str, object]:
    """The case computed, as its JSON."""
    read = load_case(json.dumps(case))
    return json.loads(as_json(read, compute(read)))


def totals(case: dict[str, object]) -> dict[str, str]:
    found = solved(case)["bills"][0]  # type: ignore[index]
    assert found["difference"] == "0.000000"
    return {one["tenant"]: one["total"] for one in found["tenants"]}


def mine(*pairs: str) -> list[dict[str, str]]:
    return [{"container": pair[0], "tenant": pair[1]} for pair in pairs]


SHARED = {
    "from": "2026-11-02T08:00:00Z",
    "to": "2026-11-02T13:00:00Z",
    "gpus": [GPU],
    "holds": [{"container": "s", "gpu": "g"}],
    "tokens": [
        {"container": "s", "tenant": "A", "prompt": 600_000, "generation": 100_000},
        {"container": "s", "tenant": "B", "prompt": 200_000, "generation": 150_000},
    ],
    "rules": {"basis": "tokens"},
}
CASES: list[tuple[str, dict[str, object], dict[str, str]]] = [
    (
        "1: 24 h x 2.00",
        {
            "from": "2026-11-02T00:00:00Z", "to": "2026-11-03T00:00:00Z", "gpus": [GPU],
            "holds": [{"container": "a", "gpu": "g"}], "tenants": mine("aA"),
            "readings": [{"gpu": "g", "container": "a", "busy": 0.3}],
        },
        {"A": "48.000000"},
    ),
    (
        "2: 30 + a third of 30, 60 + two thirds of 30",
        {
            "from": "2026-11-02T08:00:00Z", "to": "2026-11-02T18:00:00Z",
            "gpus": [{"id": name, "price_per_hour": 3} for name in "pqrs"],
            "holds": [{"container": "a", "gpu": "p"}, {"container": "b", "gpus": ["q", "r"]}],
            "tenants": mine("aA", "bB"), "rules": {"spread": "by_cost"},
        },
        {"B": "80.000000", "A": "40.000000"},
    ),
    (
        "3: 4.00 by 45:15",
        {
            **HOUR, "gpus": [{"id": "g", "price_per_hour": 4}],
            "holds": [{"container": "a", "gpu": "g"}, {"container": "b", "gpu": "g"}], "tenants": mine("aA", "bB"),
            "readings": [{"gpu": "g", "container": "a", "busy": 0.45}, {"gpu": "g", "container": "b", "busy": 0.15}],
            "rules": {"sharing": "usage"},
        },
        {"A": "3.000000", "B": "1.000000"},
    ),
    (
        "4: 6 x 3.00 + 6 x 3.60",
        {
            "from": "2026-11-02T08:00:00", "to": "2026-11-02T20:00:00", "time_zone": "Europe/Berlin",
            "gpus": [{"id": "g", "prices": [{"to": "2026-11-02T14:00:00", "per_hour": 3.00},
                                            {"from": "2026-11-02T14:00:00", "per_hour": "3.60"}]}],
            "holds": [{"container": "a", "gpu": "g"}], "tenants": mine("aA"),
        },
        {"A": "39.600000"},
    ),
    ("6: 10.00 by 1.0 M to 0.8 M", SHARED, {"A": "5.555556", "B": "4.444444"}),
    (
        "9: 2 x 3.430881 x 144 h by the list",
        {
            "from": "2026-11-02T00:00:00Z", "to": "2026-11-08T00:00:00Z",
            "gpus": [{"id": name, "name": "NVIDIA A100-SXM4-80GB"} for name in "pq"],
            "holds": [{"container": "n", "gpus": ["p", "q"]}], "tenants": mine("nA"),
            "readings": [{"gpu": name, "container": "n", "busy": 0} for name in "pq"],
        },
        {"A": "988.093728"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("case", "expected"), [one[1:] for one in CASES], ids=[one[0] for one in CASES])
def test_a_worked_case_comes_out_as_by_hand(case: dict[str, object], expected: dict[str, str]):
    assert totals(case) == expected


def test_case_5_a_counter_that_starts_again_loses_no_tokens():
    # 6,000 + 1,500 + 2,500 = 10,000 tokens; 2.00 x 1.5 h = 3.00; 300.00 a million.
    found = solved(
        {
            "from": "2026-11-02T08:00:00Z", "to": "2026-11-02T09:30:00Z", "gpus": [GPU],
            "holds": [{"container": "s", "gpu": "g"}],
            "tokens": [{"container": "s", "prompt": [10_000, 16_000, 1_500, 4_000]}],
        }
    )  # fmt: skip
    (server,) = found["servers"]
    assert server["amount"] == "3.000000"
    assert Decimal(server["per_million_tokens"]["blended"]["value"]) == 300


def test_case_6_rates_of_a_shared_server_are_printed_with_their_weight():
    (server,) = solved(SHARED)["servers"]
    rates = server["per_million_tokens"]
    names = ("weighted_input", "weighted_output", "blended")
    assert [f"{Decimal(rates[name]['value']):.4f}" for name in names] == ["5.5556", "22.2222", "9.5238"]
    assert (server["output_weight"], server["mix"]) == ("4", "3.2:1")


def test_case_8_energy_of_a_server():
    (server,) = solved(
        {
            **HOUR, "gpus": [GPU], "holds": [{"container": "s", "gpu": "g"}],
            "tokens": [{"container": "s", "prompt": 1_000_000, "generation": 1_000_000}],
            "energy": {"pue": 1.2, "grid_gco2_per_kwh": 400, "watt_hours": {"s": 4000}},
        }
    )["servers"]  # fmt: skip
    energy = {name: one["value"] for name, one in server["energy"].items() if name != "at"}
    assert Decimal(energy["kilowatt_hours"]) == Decimal("4.8")
    assert Decimal(energy["watt_hours_per_1k_tokens"]) == Decimal("2.4")
    assert Decimal(energy["gco2"]) == 1920
    assert f"{Decimal(energy['tokens_per_joule']):.4f}" == "0.1157"


def test_mig_devices_share_their_gpus_price_by_the_named_rule():
    case = {
        **HOUR,
        "gpus": [
            {"id": "g", "price_per_hour": 7, "memory_gb": 80, "mig": [{"id": "m3", "profile": "3g.40gb"},
                                                                     {"id": "m2", "profile": "2g.20gb"}]}
        ],
        "holds": [{"container": "a", "gpu": "m3"}, {"container": "b", "gpu": "m2"}], "tenants": mine("aA", "bB"),
    }  # fmt: skip
    assert totals(case) == {"A": "3.000000", "B": "2.000000"}
    # By memory: 40 and 20 of 80 GB.
    assert totals({**case, "rules": {"mig": "memory"}}) == {"A": "3.500000", "B": "1.750000"}


def test_readings_in_a_row_are_carried_and_then_are_a_gap():
    # 20 min at 2.00: 10 min read (30 % and not), 5 min carried, 5 min gap of 1/12 h = 0.1667.
    found = solved(
        {
            "from": "2026-11-02T08:00:00Z", "to": "2026-11-02T08:20:00Z", "gpus": [GPU],
            "holds": [{"container": "a", "gpu": "g"}],
            "readings": [{"gpu": "g", "container": "a", "every_seconds": 300, "busy": [0.3, None]}],
        }
    )  # fmt: skip
    parts = found["bills"][0]["parts"]
    # 300 s x 2.00/h = 0.166667: .05 used and .116667 idle; 600 s not read; 300 s gap.
    assert {kind: value for kind, value in parts.items() if Decimal(value)} == {
        "used": "0.050000", "held_idle": "0.116667", "held_unknown": "0.333333", "data_gap": "0.166667",
    }  # fmt: skip
    assert Decimal(found["coverage"]) == Decimal("0.75")


def test_a_day_of_25_hours_costs_25():
    case = {
        "from": "2026-10-25T00:00:00", "to": "2026-10-26T00:00:00", "time_zone": "Europe/Berlin",
        "gpus": [{"id": "g", "price_per_hour": 1}],
    }  # fmt: skip
    assert solved(case)["bills"][0]["bill"] == "25.000000"


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"cost": 1}, "cost: is not known; write one of blind, credits"),
        ({"from": None}, "from: found null; write a text like"),
        ({"from": "monday"}, 'from: found "monday"; write a time like'),
        ({"to": HOUR["from"]}, "which is `from`; write a later time"),
        ({"to": "2026-11-02T07:00:00Z"}, "case: ends before it starts"),
        ({"from": "2026-10-25T02:30:00", "time_zone": "Europe/Berlin"}, "from: 2026-10-25T02:30:00 happens twice"),
        ({"from": "0001-01-01T00:00:00"}, 'from: found "0001-01-01T00:00:00"; write a time of the years 1971 to 2199'),
        ({"to": "2062-11-02T00:00:00Z"}, "write a window of at most 800 days"),
        ({"time_zone": "Berlin"}, 'time_zone: found "Berlin"; write a zone like Europe/Berlin'),
        ({"time_zone": "../../etc/passwd"}, "write a zone like"),
        ({"currency": "dollars"}, 'currency: found "dollars"; write a code'),
        ({"gpus": []}, "gpus: found a list; write at least one GPU"),
        ({"gpus": {}}, "gpus: found an object; write a list"),
        ({"gpus": [GPU, GPU]}, 'gpus[1].id: found "g"; is taken by another GPU'),
        ({"gpus": ["g"]}, 'gpus[0]: found "g"; write an object'),
        ({"gpus": [{"price_per_hour": 1}]}, "gpus[0].id: is missing"),
        (
            {"gpus": [{"id": "g", "price_per_hour": -1}]},
            "gpus[0].price_per_hour: found -1; write a number of at least 0",
        ),
        ({"gpus": [{"id": "g", "price_per_hour": "cheap"}]}, "gpus[0].price_per_hour: found 'cheap'"),
        ({"gpus": [{"id": "g", "price_per_hour": "NaN"}]}, "write a finite number"),
        ({"gpus": [{**GPU, "prices": []}]}, "write either price_per_hour or prices"),
        ({"gpus": [{"id": "g", "prices": [{"per_hour": 1}, {"per_hour": 2}]}]}, "gpus[0].prices: overlap"),
        ({"gpus": [{"id": "g", "prices": [{}]}]}, "gpus[0].prices[0].per_hour: is missing"),
        ({"gpus": [{**GPU, "mig": [{"id": "m", "profile": "big"}]}]}, "gpus[0].mig: MIG profile 'big'"),
        ({"gpus": [{**GPU, "mig": [{"id": "m", "profile": "8g.80gb"}]}]}, "8 by compute, the GPU has 7"),
        ({"holds": [{"container": "a"}]}, "holds[0].gpu: is missing; write either gpu or gpus"),
        ({"holds": [{"container": "a", "gpu": "x"}]}, 'holds[0].gpu: found "x"; write the id of one of the gpus: g'),
        ({"holds": [{"container": "a", "gpus": ["x"]}]}, 'holds[0].gpus: found "x"; write ids'),
        ({"holds": [{"container": " ", "gpu": "g"}]}, "holds[0].container: found"),
        ({"holds": [{"container": "a", "gpu": "g", "weight": 0}]}, "holds[0].weight: found 0; write a whole number"),
        ({"tenants": [{"container": "z", "tenant": "A"}]}, 'tenants[0].container: found "z"; no hold or reading'),
        ({"tenants": mine("aA", "aB")}, "tenants of 'a' overlap"),
        ({"readings": [{"gpu": "g", "busy": 30}]}, "readings[0].busy: found 30; write a ratio of 0 to 1"),
        ({"readings": [{"gpu": "g", "busy": -0.5}]}, "readings[0].busy: found -0.5"),
        ({"readings": [{"gpu": "g", "busy": True}]}, "readings[0].busy: found true"),
        ({"readings": [{"gpu": "g"}]}, "readings[0].busy: is missing"),
        ({"readings": [{"gpu": "g", "busy": 1, "every_seconds": 60}]}, "write a list of ratios"),
        ({"readings": [{"gpu": "g", "busy": [1], "every_seconds": 0}]}, "write a number above 0"),
        ({"readings": [{"gpu": "g", "busy": 0}, {"gpu": "g", "busy": 1}]}, "start together"),
        ({"tokens": [{"container": "a", "prompt": -1}]}, "tokens[0].prompt: found -1; write a whole number"),
        ({"tokens": [{"container": "a", "prompt": 1.5}]}, "tokens[0].prompt: found 1.5"),
        ({"tokens": [{"container": "a", "prompt": 1, "cached": 2}]}, "tokens[0]: cached_tokens: found 2 of 1"),
        (
            {"tokens": [{"container": "a", "prompt": [1, -2]}]},
            "tokens[0].prompt: found -2; write readings of a counter",
        ),
        ({"tokens": [{"container": "a", "from": "2026-11-01T00:00:00Z"}]}, "reaches outside the case"),
        ({"energy": {"pue": 0.9}}, "energy.pue: found 0.9; write a number of at least 1"),
        ({"energy": {"watt_hours": {"z": 1}}}, "energy.watt_hours.z: is not known; write one of a"),
        ({"credits": [{"day": "2026-11-02", "amount": 5}]}, "credits[0].amount: found 5; write an amount below 0"),
        ({"credits": [{"day": "today", "amount": -5}]}, "credits[0].day: found"),
        ({"rules": {"basis": "fair"}}, 'rules.basis: found "fair"; write one of allocation, usage, tokens'),
        ({"rules": {"output_weight": 0}}, "rules.output_weight: found 0; write a number above 0"),
        ({"rules": {"carry_seconds": -1}}, "rules.carry_seconds: found -1"),
        ({"rules": []}, "rules: found a list; write an object"),
    ],
)
def test_a_bad_case_gets_one_error_with_its_place(change: dict[str, object], told: str):
    good = {**HOUR, "gpus": [GPU], "holds": [{"container": "a", "gpu": "g"}]}
    with pytest.raises(CaseError) as caught:
        solved({**good, **change})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1, column 1"),
        ('{"from": }', "line 1, column 10"),
        ('{"from": "a", "from": "b"}', '"from" is written twice'),
        ('{"from": NaN}', "found NaN, which is no number"),
        ("[1]", "case: found a list; write an object"),
        ("[" * 100_000, "nested too deep"),
        ('{"from": ' + "1" * 5000 + "}", "cannot be read"),
    ],
)
def test_what_is_no_json_is_refused(text: str, told: str):
    with pytest.raises(CaseError) as caught:
        load_case(text)
    assert told in str(caught.value)


WHOLE = {
    "title": "x", "time_zone": "Europe/Berlin", "from": "2026-10-24T08:00:00", "to": "2026-10-26T18:00:00",
    "rules": {"basis": "tokens", "sharing": "usage", "gap": "holder", "spread": "by_cost", "carry_seconds": 60},
    "energy": {"pue": 1.2, "watt_hours": {"a": 4000}},
    "gpus": [
        {"id": "p", "price_per_hour": 3, "host": "h"},
        {"id": "q", "name": "Tesla T4", "mig": [{"id": "m", "profile": "1g.10gb"}]},
        {"id": "r", "prices": [{"from": "2026-10-24T09:00:00", "per_hour": 1, "currency": "EUR"}]},
    ],
    "holds": [{"container": "a", "gpus": ["p", "m"], "weight": 2}, {"container": "b", "gpu": "p"}],
    "tenants": [{"container": "a", "tenant": "A", "team": "t"}],
    "readings": [{"gpu": "p", "container": "nobody", "every_seconds": 600, "busy": [0.1, None]}],
    "tokens": [{"container": "a", "tenant": "A", "prompt": [1, 2], "cached": 1}, {"container": "a", "tenant": "B"}],
    "credits": [{"day": "2026-10-25", "amount": -5}],
    "blind": [{"host": "h"}],
}  # fmt: skip
ODD = (
    None, True, -1, 1.5, 1e300, 10**30, "", "a", "NaN", "2026-10-25T02:30:00", "0001-01-01T00:00:00", "9999-12-31", [],
    {}, [None], [[]], "\ud800",
)  # fmt: skip


def _places(value: object, before: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    if before:
        yield before
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in items:
        yield from _places(one, (*before, key))


def test_whatever_one_value_is_changed_to_the_case_is_refused_in_one_line_or_adds_up():
    refused: list[str] = []
    for place in _places(WHOLE):
        for odd in ODD:
            case = json.loads(json.dumps(WHOLE))
            inner = case
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = odd
            try:
                read = load_case(json.dumps(case))
                found = compute(read)
            except CaseError as error:
                refused.append(str(error))
                continue
            assert not any(found.difference(currency) for currency in found.currencies)
            (as_text(read, found) + as_json(read, found)).encode()
    assert len(refused) > 500
    assert not any("\n" in one for one in refused)


# --- the command -------------------------------------------------------------------------------------------------


def test_the_documented_case_is_computed_as_documented(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (block,) = re.findall(r"```json\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    file = tmp_path / "case.json"
    file.write_text(block, encoding="utf-8")
    assert main(["cost", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "acme" in shown
    assert re.search(r"^GPU bill +60\.00 +ok$", shown, re.M)
    assert "used 12.00, held, idle 18.00, share of idle 30.00" in shown
    assert re.search(r"^  input +30\.0000 +output weighs 4 x input$", shown, re.M)


def test_the_documented_price_file_is_read():
    (block,) = re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    book, energy = load_prices(block, origin="docs", zone=ZoneInfo("UTC"))
    assert len(book.rows) == 24
    assert energy.pue == Decimal("1.2")


def test_the_command_takes_ones_own_prices_and_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    case, prices = tmp_path / "case.json", tmp_path / "prices.toml"
    case.write_text(json.dumps({**HOUR, "gpus": [{"id": "g", "name": "Tesla T4"}]}), encoding="utf-8")
    prices.write_text('[[price]]\ngpu = "T4"\nper_hour = 0.30\ncurrency = "EUR"\nsource = "ours"\n', encoding="utf-8")
    assert main(["cost", str(case), "--prices", str(prices), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bills"][0]["bill"] == "0.300000"
    assert found["prices"][0]["source"] == "ours"
    assert found["prices"][0]["mark"] is None
    assert len(found["price_book"]) == 12
    assert main(["cost", str(case)]) == 0
    assert "Tesla T4): list price, set yours" in capsys.readouterr().out


def test_a_gpu_without_a_price_is_told_and_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    case = tmp_path / "case.json"
    case.write_text(
        json.dumps({**HOUR, "gpus": [GPU, {"id": "n", "name": "NVIDIA GeForce RTX 4090"}]}), encoding="utf-8"
    )
    assert main(["cost", str(case)]) == 1
    shown = capsys.readouterr().out
    assert "no price: 1.00 GPU-hours" in shown
    assert 'no price is known for "NVIDIA GeForce RTX 4090"; write price_per_hour' in shown


def test_a_case_that_cannot_be_read_gets_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["cost", str(tmp_path / "none.json")]) == 2
    assert "write the path of a case" in capsys.readouterr().err
    bad = tmp_path / "bad.json"
    bad.write_bytes(b"\xff\xfe")
    assert main(["cost", str(bad)]) == 2
    assert "no UTF-8 at byte 0" in capsys.readouterr().err
    bad.write_text("{}", encoding="utf-8")
    assert main(["cost", str(bad)]) == 2
    error = capsys.readouterr().err
    assert error == f'python -m fleet cost: {bad}: from: is missing; write a text like "2026-11-02T08:00:00Z"\n'
    prices = tmp_path / "prices.toml"
    prices.write_text("x = 1", encoding="utf-8")
    assert main(["cost", str(bad), "--prices", str(prices)]) == 2
    assert "x is not known" in capsys.readouterr().err
    assert main(["cost", str(bad), "--prices", str(tmp_path / "no.toml")]) == 2
    assert "write the path of a price file" in capsys.readouterr().err


def test_a_terminal_obeys_nothing_of_a_case():
    text = {
        **HOUR, "title": "\x1b[2Jx", "gpus": [GPU], "holds": [{"container": "\x1bc", "gpu": "g"}],
        "tenants": [{"container": "\x1bc", "tenant": "\x07A"}], "tokens": [{"container": "\x1bc", "prompt": 5}],
    }  # fmt: skip
    case = load_case(json.dumps(text))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", as_text(case, compute(case)))


def test_displayed_amounts_add_up_to_the_displayed_bill():
    # Three thirds of 1.00: 0.333333 each; 0.34 + 0.33 + 0.33.
    case = load_case(
        json.dumps(
            {
                **HOUR, "gpus": [{"id": "g", "price_per_hour": 1}],
                "holds": [{"container": name, "gpu": "g"} for name in "abc"], "tenants": mine("aA", "bB", "cC"),
            }
        )
    )  # fmt: skip
    shown = as_text(case, compute(case))
    assert re.findall(r"^[ABC] +(\S+)", shown, re.M) == ["0.34", "0.33", "0.33"]
    assert re.search(r"^sum +1\.00$", shown, re.M)


def test_the_parts_of_a_line_add_up_to_it_as_displayed():
    # 1.00 among three holders, a third of each third used: 0.111111 and 0.222222 of A's 0.333333, shown as 0.34.
    case = load_case(
        json.dumps(
            {
                **HOUR, "gpus": [{"id": "g", "price_per_hour": 1}],
                "holds": [{"container": name, "gpu": "g"} for name in "abc"], "tenants": mine("aA", "bB", "cC"),
                "readings": [{"gpu": "g", "container": name, "busy": 0.111111} for name in "abc"],
            }
        )
    )  # fmt: skip
    shown = as_text(case, compute(case))
    for total, used, idle in re.findall(r"^[ABC] +(\S+) +used (\S+), shared, idle (\S+)$", shown, re.M):
        assert Decimal(used) + Decimal(idle) == Decimal(total)
    assert len(re.findall(r"shared, idle", shown)) == 3


def test_a_server_without_traffic_shows_its_money_and_no_rate():
    case = load_case(
        json.dumps({**HOUR, "gpus": [GPU], "holds": [{"container": "s", "gpu": "g"}],
                    "tokens": [{"container": "s", "prompt": 0}]})
    )  # fmt: skip
    assert "- (no traffic, 2.00 USD)" in as_text(case, compute(case))
