"""What a million tokens cost, and what energy they took: every figure with what it was made of, or why there is none.

Cached prompt tokens are taken out first: they were not computed, and a prompt that is served from the cache must not
make the others look cheap. So rates times tokens give the money back: in x (prompt - cached) + out x generated.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from fleet.money import amount, words

_MILLION = Decimal(1_000_000)
#: Output tokens weigh as many input tokens, unless set (google.cloud.gkerecommender_v1.types.Cost).
OUTPUT_WEIGHT = Decimal(4)
NO_TRAFFIC = "no traffic"


class TokenError(ValueError):
    """Numbers of tokens, energy or weight that cannot be; says what was found and what to write."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A number, or None and why."""

    value: Decimal | None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Tokens of a window. prefill_seconds, decode_seconds: the server's sums, used as a ratio; None = not known."""

    prompt_tokens: int
    generation_tokens: int
    cached_tokens: int = 0
    prefill_seconds: Decimal | None = None
    decode_seconds: Decimal | None = None

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "generation_tokens", "cached_tokens"):
            if getattr(self, name) < 0:
                raise TokenError(f"{name}: found {getattr(self, name)}; write at least 0")
        if self.cached_tokens > self.prompt_tokens:
            raise TokenError(
                f"cached_tokens: found {self.cached_tokens} of {self.prompt_tokens} prompt tokens;"
                " write those that are part of the prompt"
            )
        for name in ("prefill_seconds", "decode_seconds"):
            value: Decimal | None = getattr(self, name)
            if value is not None and not (value.is_finite() and value >= 0):
                raise TokenError(f"{name}: found {value}; write at least 0")

    @property
    def computed_prompt_tokens(self) -> int:
        """Prompt tokens that were not served from the cache."""
        return self.prompt_tokens - self.cached_tokens

    @property
    def computed_tokens(self) -> int:
        """All that were computed."""
        return self.computed_prompt_tokens + self.generation_tokens

    @property
    def mix(self) -> str:
        """Computed input to output, e.g. `3.2:1`; without it a blended rate cannot be compared."""
        if not self.generation_tokens:
            return "input only" if self.computed_prompt_tokens else NO_TRAFFIC
        return f"{Decimal(self.computed_prompt_tokens) / self.generation_tokens:.3g}:1"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCost:
    """Money for a million tokens, each figure in the currency named.

    blended: over input and output alike, read with `mix`. weighted: an output token as `output_weight` input ones.
    by_time: input by the prefill's share of compute time, output by the decode's. marginal: blended, of the money for
    time with work only. loaded: blended, with the share of idle and shared cost. idleness: loaded / marginal.
    """

    money: int
    currency: str
    mix: str
    output_weight: Decimal
    blended: Figure
    weighted_input: Figure
    weighted_output: Figure
    by_time_input: Figure
    by_time_output: Figure
    marginal: Figure
    loaded: Figure
    idleness: Figure


def token_cost(
    micros: int,
    currency: str,
    traffic: Traffic,
    *,
    output_weight: Decimal = OUTPUT_WEIGHT,
    active_micros: int | None = None,
    extra_micros: int = 0,
) -> TokenCost:
    """What the tokens of a server cost that cost `micros` in the window.

    active_micros: the part of it for time with work, None = not known. extra_micros: its share of idle and shared cost.
    Without traffic no rate is defined, and the reason tells the money. Raises TokenError.
    """
    if not (output_weight.is_finite() and output_weight > 0):
        raise TokenError(f"output_weight: found {output_weight}; write a number above 0, like 4")
    if micros < 0 or extra_micros < 0 or not 0 <= (active_micros or 0) <= micros:
        raise TokenError(
            f"money: found {micros}, {active_micros} of it active, {extra_micros} more; write at least 0, and no more"
            " active than there is"
        )
    tokens = traffic.computed_tokens
    none = "" if tokens else f"{NO_TRAFFIC}, {words(micros, currency)}"
    weighted_tokens = traffic.computed_prompt_tokens + output_weight * traffic.generation_tokens
    each = Decimal(0) if none else _per_million(micros, weighted_tokens)
    no_output = none or ("" if traffic.generation_tokens else "no output tokens")
    no_input = none or ("" if traffic.computed_prompt_tokens else "no input tokens that were computed")
    marginal = (
        Figure(None, none or "time with work is not known")
        if none or active_micros is None
        else Figure(_per_million(active_micros, tokens))
    )
    loaded = Figure(None, none) if none else Figure(_per_million(micros + extra_micros, tokens))
    by_time_input, by_time_output = _by_time(micros, traffic, no_input, no_output)
    return TokenCost(
        money=micros,
        currency=currency,
        mix=traffic.mix,
        output_weight=output_weight,
        blended=Figure(None, none) if none else Figure(_per_million(micros, tokens)),
        weighted_input=Figure(None, no_input) if no_input else Figure(each),
        weighted_output=Figure(None, no_output) if no_output else Figure(each * output_weight),
        by_time_input=by_time_input,
        by_time_output=by_time_output,
        marginal=marginal,
        loaded=loaded,
        idleness=_idleness(loaded, marginal),
    )


def _idleness(loaded: Figure, marginal: Figure) -> Figure:
    if loaded.value is None or marginal.value is None:
        return Figure(None, loaded.why or marginal.why)
    return Figure(loaded.value / marginal.value) if marginal.value else Figure(None, "no time with work")


def _by_time(micros: int, traffic: Traffic, no_input: str, no_output: str) -> tuple[Figure, Figure]:
    prefill, decode = traffic.prefill_seconds, traffic.decode_seconds
    if prefill is None or decode is None:
        why = "the server exports no prefill and decode time"
        return Figure(None, why), Figure(None, why)
    if not prefill + decode:
        why = "no prefill or decode time"
        return Figure(None, no_input or why), Figure(None, no_output or why)
    if no_input or no_output:
        # Its money would have no tokens to go to, and the rates would not give it back.
        return Figure(None, no_input or no_output), Figure(None, no_output or no_input)
    share = prefill / (prefill + decode)
    return (
        Figure(_per_million(micros * share, traffic.computed_prompt_tokens)),
        Figure(_per_million(micros * (1 - share), traffic.generation_tokens)),
    )


def _per_million(micros: int | Decimal, tokens: int | Decimal) -> Decimal:
    # A micro-unit for a token is a whole unit for a million of them.
    return Decimal(micros) / Decimal(tokens)


def token_weight(traffic: Traffic, output_weight: Decimal = OUTPUT_WEIGHT) -> int:
    """What a tenant's tokens weigh in a split of a server's cost; millionths of a computed input token."""
    return int((traffic.computed_prompt_tokens + output_weight * traffic.generation_tokens) * _MILLION)


# --- energy ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyFigures:
    """What the tokens took. kilowatt_hours: at the wall with a PUE, else at the board, as `at` says."""

    at: str
    kilowatt_hours: Figure
    watt_hours_per_1k_tokens: Figure
    gco2: Figure
    gco2_per_1k_tokens: Figure
    tokens_per_joule: Figure
    board_tokens_per_joule: Figure


def energy_figures(
    joules: Decimal | None, tokens: int, *, pue: Decimal | None = None, grid_gco2_per_kwh: Decimal | None = None
) -> EnergyFigures:
    """Energy of a window and of its tokens. joules: of the boards, None = not measured. pue, grid: None = not set.

    Idle power is energy too: give the joules of the whole window. Raises TokenError.
    """
    if joules is not None and not (joules.is_finite() and joules >= 0):
        raise TokenError(f"joules: found {joules}; write at least 0")
    if pue is not None and not (pue.is_finite() and pue >= 1):
        raise TokenError(f"pue: found {pue}; write a ratio of at least 1, like 1.2")
    if grid_gco2_per_kwh is not None and not (grid_gco2_per_kwh.is_finite() and grid_gco2_per_kwh >= 0):
        raise TokenError(f"grid_gco2_per_kwh: found {grid_gco2_per_kwh}; write at least 0")
    if tokens < 0:
        raise TokenError(f"tokens: found {tokens}; write at least 0")
    at = "board, PUE not set" if pue is None else f"wall, PUE {pue}"
    if joules is None:
        none = Figure(None, "energy was not measured")
        return EnergyFigures(
            at=at, kilowatt_hours=none, watt_hours_per_1k_tokens=none, gco2=none, gco2_per_1k_tokens=none,
            tokens_per_joule=none, board_tokens_per_joule=none,
        )  # fmt: skip
    wall = joules * (pue or 1)
    kilowatt_hours = wall / 3_600_000
    no_tokens = f"{NO_TRAFFIC}, {kilowatt_hours.quantize(Decimal('0.001')):f} kWh" if not tokens else ""
    no_grid = "the grid's factor is not set" if grid_gco2_per_kwh is None else ""
    grams = kilowatt_hours * (grid_gco2_per_kwh or 0)
    thousands = Decimal(tokens) / 1000
    no_joules = no_tokens or ("" if joules else "no energy was used")
    return EnergyFigures(
        at=at,
        kilowatt_hours=Figure(kilowatt_hours),
        watt_hours_per_1k_tokens=Figure(None, no_tokens) if no_tokens else Figure(kilowatt_hours * 1000 / thousands),
        gco2=Figure(None, no_grid) if no_grid else Figure(grams),
        gco2_per_1k_tokens=Figure(None, no_grid or no_tokens) if no_grid or no_tokens else Figure(grams / thousands),
        tokens_per_joule=Figure(None, no_joules) if no_joules else Figure(tokens / wall),
        board_tokens_per_joule=Figure(None, no_joules) if no_joules else Figure(tokens / joules),
    )


# --- break-even --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """From how many tokens a month on owning is cheaper than an API. reachable: None = capacity is not known."""

    api_per_million: Figure
    tokens_per_month: Figure
    reachable: bool | None
    why: str = ""


def break_even(
    monthly_micros: int,
    traffic: Traffic,
    *,
    api_input_per_million: Decimal,
    api_output_per_million: Decimal,
    capacity_tokens_per_month: Decimal | None = None,
) -> BreakEven:
    """Against an API's prices at one's own mix, cached tokens left out of both sides. Same currency on both sides."""
    tokens = traffic.computed_tokens
    if not tokens:
        none = Figure(None, f"{NO_TRAFFIC}: without a mix there is no price to compare with")
        return BreakEven(api_per_million=none, tokens_per_month=none, reachable=None, why=none.why)
    api = (
        api_input_per_million * traffic.computed_prompt_tokens + api_output_per_million * traffic.generation_tokens
    ) / tokens
    if not api > 0:
        none = Figure(None, f"the API's price is {api}; write prices above 0")
        return BreakEven(api_per_million=none, tokens_per_month=none, reachable=None, why=none.why)
    needed = amount(monthly_micros) / api * _MILLION
    if capacity_tokens_per_month is None:
        return BreakEven(
            api_per_million=Figure(api), tokens_per_month=Figure(needed), reachable=None, why="capacity is not known"
        )
    reachable = needed <= capacity_tokens_per_month
    why = "" if reachable else "more than the measured capacity: owning cannot win at this price"
    return BreakEven(api_per_million=Figure(api), tokens_per_month=Figure(needed), reachable=reachable, why=why)
