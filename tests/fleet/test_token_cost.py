from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.increase import IncreaseTracker
from fleet.token_cost import Figure, TokenError, Traffic, break_even, energy_figures, token_cost, token_weight


def rounded(figure: Figure, digits: str = "0.0001") -> str:
    assert figure.value is not None, figure.why
    return str(figure.value.quantize(Decimal(digits)))


def test_case_5_a_restart_loses_no_tokens_and_counts_none_twice():
    # 10,000 / 16,000 / 1,500 (restart) / 4,000: 6,000 + 1,500 + 2,500 = 10,000. 2.00 x 1.5 h = 3.00: 300 a million.
    counter = IncreaseTracker()
    increases = [counter.increase("prompt", value) for value in (10_000, 16_000, 1_500, 4_000)]
    assert increases == [None, 6_000, 1_500, 2_500]
    found = token_cost(3_000_000, "USD", Traffic(prompt_tokens=10_000, generation_tokens=0))
    assert rounded(found.blended, "0.01") == "300.00"


def test_case_6_weighted_rates_give_the_money_back():
    # 800k in, 250k out, r = 4: 1.8 M weighted; 10/1.8 = 5.5556, x 4 = 22.2222; blended 10/1.05 = 9.5238 at 3.2:1.
    found = token_cost(10_000_000, "USD", Traffic(prompt_tokens=800_000, generation_tokens=250_000))
    assert (rounded(found.weighted_input), rounded(found.weighted_output)) == ("5.5556", "22.2222")
    assert (rounded(found.blended), found.mix, found.output_weight) == ("9.5238", "3.2:1", Decimal(4))


def test_case_8_energy_counts_the_site_and_not_the_board_alone():
    # 8 x 500 W x 1 h = 4 kWh, x 1.2 = 4.8 kWh; / 2 M tokens = 0.0024 Wh; x 400 g = 1,920 g = 0.00096 g a token.
    # 2 M / (4.8 kWh x 3.6 MJ) = 0.1157 tokens a joule; 0.1389 at the board.
    found = energy_figures(Decimal(8 * 500 * 3600), 2_000_000, pue=Decimal("1.2"), grid_gco2_per_kwh=Decimal(400))
    assert rounded(found.kilowatt_hours, "0.1") == "4.8"
    assert rounded(found.watt_hours_per_1k_tokens, "0.1") == "2.4"
    assert rounded(found.gco2, "1") == "1920"
    assert rounded(found.gco2_per_1k_tokens, "0.01") == "0.96"
    assert rounded(found.tokens_per_joule) == "0.1157"
    assert rounded(found.board_tokens_per_joule) == "0.1389"
    assert found.at == "wall, PUE 1.2"


def test_cached_tokens_were_not_computed_and_do_not_cheapen_the_others():
    # 1.00 for 400k computed of 1 M prompt tokens and 100k out, r = 4: 800k weighted, 1.25 a million in, 5.00 out.
    found = token_cost(
        1_000_000, "USD", Traffic(prompt_tokens=1_000_000, cached_tokens=600_000, generation_tokens=100_000)
    )
    assert (rounded(found.weighted_input), rounded(found.weighted_output)) == ("1.2500", "5.0000")
    assert (rounded(found.blended), found.mix) == ("2.0000", "4:1")


def test_compute_time_splits_the_money_by_the_servers_own_ratio():
    # Prefill 30 s, decode 90 s: 10.00 as 2.50 over 500k in = 5.00, 7.50 over 250k out = 30.00.
    found = token_cost(
        10_000_000,
        "USD",
        Traffic(
            prompt_tokens=500_000, generation_tokens=250_000, prefill_seconds=Decimal(30), decode_seconds=Decimal(90)
        ),
    )
    assert (rounded(found.by_time_input), rounded(found.by_time_output)) == ("5.0000", "30.0000")


def test_marginal_and_loaded_stand_side_by_side_and_their_ratio_is_the_price_of_idleness():
    # 8.00, 2.00 of it with work, 4.00 more of idle share, 1 M tokens: 2.00 and 12.00, six times.
    found = token_cost(
        8_000_000,
        "USD",
        Traffic(prompt_tokens=500_000, generation_tokens=500_000),
        active_micros=2_000_000,
        extra_micros=4_000_000,
    )
    assert (rounded(found.marginal), rounded(found.loaded), rounded(found.idleness)) == ("2.0000", "12.0000", "6.0000")


def test_without_traffic_a_rate_is_undefined_and_the_money_is_told():
    found = token_cost(12_400_000, "USD", Traffic(prompt_tokens=0, generation_tokens=0), active_micros=0)
    for figure in (found.blended, found.weighted_input, found.weighted_output, found.marginal, found.loaded):
        assert figure == Figure(None, "no traffic, 12.40 USD")
    assert found.idleness.value is None
    assert found.mix == "no traffic"
    energy = energy_figures(Decimal(3_600_000), 0)
    assert energy.watt_hours_per_1k_tokens == Figure(None, "no traffic, 1.000 kWh")


def test_a_prompt_that_was_all_cached_is_no_traffic():
    assert token_cost(1, "USD", Traffic(prompt_tokens=5, cached_tokens=5, generation_tokens=0)).blended.value is None


def test_what_is_not_known_is_said():
    found = token_cost(1_000_000, "USD", Traffic(prompt_tokens=10, generation_tokens=0))
    assert found.weighted_output == Figure(None, "no output tokens")
    assert found.marginal == Figure(None, "time with work is not known")
    assert found.by_time_input.why == "the server exports no prefill and decode time"
    assert found.mix == "input only"
    energy = energy_figures(None, 10)
    assert energy.kilowatt_hours == Figure(None, "energy was not measured")
    board = energy_figures(Decimal(100), 10)
    assert board.at == "board, PUE not set"
    assert board.gco2 == Figure(None, "the grid's factor is not set")
    assert energy_figures(Decimal(0), 10).tokens_per_joule == Figure(None, "no energy was used")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"prompt_tokens": -1, "generation_tokens": 0}, "prompt_tokens: found -1"),
        ({"prompt_tokens": 1, "generation_tokens": 0, "cached_tokens": 2}, "found 2 of 1 prompt tokens"),
        ({"prompt_tokens": 1, "generation_tokens": 0, "decode_seconds": Decimal("NaN")}, "decode_seconds: found NaN"),
    ],
)
def test_traffic_that_cannot_be_is_refused(values: dict[str, object], told: str):
    with pytest.raises(TokenError, match=told):
        Traffic(**values)  # type: ignore[arg-type]


def test_money_weights_and_energy_that_cannot_be_are_refused():
    traffic = Traffic(prompt_tokens=1, generation_tokens=1)
    with pytest.raises(TokenError, match="money: found -1"):
        token_cost(-1, "USD", traffic)
    with pytest.raises(TokenError, match="no more active than there is"):
        token_cost(1, "USD", traffic, active_micros=2)
    for weight in ("0", "NaN", "-4"):
        with pytest.raises(TokenError, match="output_weight: found"):
            token_cost(1, "USD", traffic, output_weight=Decimal(weight))
    with pytest.raises(TokenError, match=r"pue: found 0\.9"):
        energy_figures(Decimal(1), 1, pue=Decimal("0.9"))
    with pytest.raises(TokenError, match="joules: found -1"):
        energy_figures(Decimal(-1), 1)
    with pytest.raises(TokenError, match="grid_gco2_per_kwh: found NaN"):
        energy_figures(Decimal(1), 1, grid_gco2_per_kwh=Decimal("NaN"))


def test_break_even_is_at_ones_own_mix_and_held_against_the_capacity():
    # 3:1 at 0.30 in and 1.50 out = 0.60 blended; 5,000 a month / 0.60 = 8,333.3 M tokens.
    traffic = Traffic(prompt_tokens=300, generation_tokens=100)
    prices = {"api_input_per_million": Decimal("0.30"), "api_output_per_million": Decimal("1.50")}
    found = break_even(5_000_000_000, traffic, **prices, capacity_tokens_per_month=Decimal(6_000_000_000))
    assert rounded(found.api_per_million, "0.01") == "0.60"
    assert rounded(found.tokens_per_month, "1") == "8333333333"
    assert found.reachable is False
    assert "owning cannot win" in found.why
    assert break_even(5_000_000_000, traffic, **prices, capacity_tokens_per_month=Decimal(10**10)).reachable is True
    assert break_even(1, traffic, **prices).reachable is None
    assert break_even(1, Traffic(prompt_tokens=0, generation_tokens=0), **prices).tokens_per_month.value is None
    free = {"api_input_per_million": Decimal(0), "api_output_per_million": Decimal(0)}
    assert break_even(1, traffic, **free).tokens_per_month.value is None


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**15), st.integers(1, 10**12), st.integers(0, 10**12), st.integers(1, 10**12),
    st.decimals("0.1", 20, places=2), st.decimals("0.001", 10**6, places=3), st.decimals("0.001", 10**6, places=3),
)  # fmt: skip
def test_every_pair_of_rates_times_its_tokens_gives_the_money_back(
    micros: int, computed: int, cached: int, output: int, weight: Decimal, prefill: Decimal, decode: Decimal
):
    traffic = Traffic(
        prompt_tokens=computed + cached, cached_tokens=cached, generation_tokens=output, prefill_seconds=prefill,
        decode_seconds=decode,
    )  # fmt: skip
    found = token_cost(micros, "USD", traffic, output_weight=weight)
    for inward, outward in (
        (found.weighted_input, found.weighted_output),
        (found.by_time_input, found.by_time_output),
        (found.blended, found.blended),
    ):
        assert inward.value is not None
        assert outward.value is not None
        assert abs(inward.value * computed + outward.value * output - micros) < Decimal("0.01")
    assert token_weight(traffic, weight) == int((computed + weight * output) * 1_000_000)
