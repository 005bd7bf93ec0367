"""What a computed case says: as text that adds up on paper, and as JSON with every amount exact."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import groupby

from fleet.cost import KINDS, Allocation, Kind
from fleet.cost_accounts import IDLE, Accounts, accounts
from fleet.cost_case import Case
from fleet.cost_intervals import moment
from fleet.money import amount, apportion, cents
from fleet.token_cost import EnergyFigures, Figure, TokenCost, Traffic, energy_figures, token_cost

#: Kinds in the words of the reports.
WORDS: dict[Kind, str] = {
    "used": "used",
    "held_idle": "held, idle",
    "shared_idle": "shared, idle",
    "held_unknown": "held, work not read",
    "unallocated": "held by nobody",
    "unattributed": "used by nobody known",
    "data_gap": "no data",
    "credit": "credit",
}
_BASIS = {
    "allocation": "who holds a GPU pays for it, idle or not",
    "usage": "who works pays for that; idle time is nobody's",
    "tokens": "who holds a GPU pays; tenants of one server split it by weighted tokens",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCost:
    """A server's tokens against its money, in one currency."""

    container: str
    cost: TokenCost
    energy: EnergyFigures


def servers(case: Case, found: Allocation) -> list[ServerCost]:
    """Every server of the case that tokens are told of, by name and currency.

    Its loaded cost has its share, by cost, of what nobody held. Time with work is not known where a part of it could
    not be read.
    """
    result: list[ServerCost] = []
    for container, ones in groupby(case.uses, key=lambda use: use.container):
        traffic = _together(use.traffic for use in ones)
        energy = energy_figures(
            case.joules.get(container),
            traffic.computed_tokens,
            pue=case.energy.pue,
            grid_gco2_per_kwh=case.energy.grid_gco2_per_kwh,
        )
        for currency in sorted(found.bill):
            own, active, known = 0, 0, True
            charged: dict[str, int] = {}
            pot = 0
            for row in found.rows:
                if row.currency != currency or row.micros is None or row.kind == "credit":
                    continue
                if row.tenant:
                    charged[row.container] = charged.get(row.container, 0) + row.micros
                elif row.kind in IDLE:
                    pot += row.micros
                if row.container == container and row.tenant:
                    own += row.micros
                    active += row.micros if row.kind == "used" else 0
                    known = known and row.kind != "held_unknown"
            names = sorted(charged)
            shares = dict(zip(names, apportion(pot, [charged[name] for name in names]), strict=True)) if names else {}
            if container not in charged:
                continue
            cost = token_cost(
                own,
                currency,
                traffic,
                output_weight=case.output_weight,
                active_micros=active if known else None,
                extra_micros=shares[container],
            )
            result.append(ServerCost(container=container, cost=cost, energy=energy))
    return result


def _together(several: Iterable[Traffic]) -> Traffic:
    found = list(several)
    return Traffic(
        prompt_tokens=sum(one.prompt_tokens for one in found),
        generation_tokens=sum(one.generation_tokens for one in found),
        cached_tokens=sum(one.cached_tokens for one in found),
    )


# --- text --------------------------------------------------------------------------------------------------------


def as_text(case: Case, found: Allocation) -> str:
    """The result for a person."""
    window, zone = case.facts.window, case.facts.zone
    lines = [plain(case.title)] if case.title else []
    ends = " to ".join(moment(at).astimezone(zone).isoformat() for at in (window.start, window.end))
    lines += [f"{ends} ({zone})", f"basis {case.rules.basis}: {_BASIS[case.rules.basis]}"]
    if case.book_version:
        lines.append(f"price book {case.book_version}")
    for currency in found.currencies:
        lines += ["", *_money(accounts(found, currency, spread=case.spread), found, case)]
    if found.unpriced_seconds:
        hours = (found.unpriced_seconds / 3600).quantize(Decimal("0.01"))
        lines += ["", f"no price: {hours:f} GPU-hours, about which nothing above says anything"]
    if found.coverage is not None:
        lines += ["", f"data for {(found.coverage * 100).quantize(Decimal('0.1')):f} % of the GPUs' time"]
    for one in servers(case, found):
        lines += ["", *_server(one)]
    if case.notes:
        lines += ["", *(f"note: {plain(note)}" for note in case.notes)]
    return "\n".join(lines) + "\n"


def _money(result: Accounts, found: Allocation, case: Case) -> list[str]:
    """One table: tenants, then what is nobody's; the column adds up to the bill as it is displayed."""
    entries = [
        (f"{plain(one.tenant)}{' *' if one.estimated else ''}", one.total, one.kinds, one.idle_share)
        for one in result.accounts
    ]
    entries += [(WORDS[kind], micros, {}, 0) for kind, micros in result.apart.items() if micros]
    shown = cents([micros for _, micros, _, _ in entries])
    width = max([len(name) for name, *_ in entries] + [20])
    lines = [f"{'':{width}}  {result.currency:>12}"]
    for (name, _, kinds, share), money in zip(entries, shown, strict=True):
        named = [(WORDS[kind], micros) for kind, micros in kinds.items() if micros]
        named += [("share of idle", share)] * bool(share)
        parts = [f"{word} {part:,f}" for (word, _), part in zip(named, _within(money, named), strict=True)]
        lines.append(f"{name:{width}}  {money:>12,f}  {', '.join(parts)}".rstrip())
    due = result.bill + result.credits
    total = sum(shown, Decimal(0))
    right = "ok" if not result.difference else f"WRONG by {amount(result.difference)}"
    what = "GPU bill and credits" if result.credits else "GPU bill"
    lines += [f"{'sum':{width}}  {total:>12,f}", f"{what:{width}}  {_two(due):>12}  {right}"]
    if any(one.estimated for one in result.accounts):
        lines.append("* partly estimated: split evenly, by weight, or told from the whole GPU's reading")
    if case.spread != "apart":
        lines.append(f"what nobody held is spread {'by cost' if case.spread == 'by_cost' else 'evenly'}")
    return lines


def _within(money: Decimal, named: list[tuple[str, int]]) -> list[Decimal]:
    """The parts of a displayed amount, which add up to it as displayed; credits make that a matter of a cent."""
    values = [micros for _, micros in named]
    if not values or min(values) < 0:
        return cents(values)
    return [Decimal(part).scaleb(-2) for part in apportion(int(money * 100), values)]


def _server(one: ServerCost) -> list[str]:
    cost, energy = one.cost, one.energy
    rows = [
        ("input", cost.weighted_input, f"output weighs {cost.output_weight} x input"),
        ("output", cost.weighted_output, ""),
        ("blended", cost.blended, f"input:output {cost.mix}, cached tokens left out"),
        ("marginal", cost.marginal, "time with work only"),
        ("fully loaded", cost.loaded, "with its share by cost of what nobody held"),
    ]
    lines = [f"{plain(one.container)}: {_two(cost.money)} {cost.currency}, for 1M tokens:"]
    lines += [
        f"  {name:14}{_four(figure):>14}  {note if figure.value is not None else ''}".rstrip()
        for name, figure, note in rows
    ]
    if energy.kilowatt_hours.value is not None:
        lines += [
            f"  {'energy':14}{_four(energy.kilowatt_hours):>14} kWh ({energy.at})",
            f"  {'':14}{_four(energy.watt_hours_per_1k_tokens):>14} Wh per 1k tokens",
            f"  {'':14}{_four(energy.gco2_per_1k_tokens):>14} gCO2 per 1k tokens",
            f"  {'':14}{_four(energy.tokens_per_joule):>14} tokens/J",
        ]
    return lines


def _two(micros: int) -> str:
    return f"{amount(micros).quantize(Decimal('0.01'), ROUND_HALF_EVEN):,f}"


def _four(figure: Figure) -> str:
    if figure.value is None:
        return f"- ({figure.why})"
    return f"{figure.value.quantize(Decimal('0.0001'), ROUND_HALF_EVEN):,f}"


def plain(text: str) -> str:
    """The text without anything a terminal would obey: a case comes from elsewhere."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


# --- JSON --------------------------------------------------------------------------------------------------------


def as_json(case: Case, found: Allocation) -> str:
    """The result for a program. Amounts are texts with six decimals: a float would not add up."""
    window = case.facts.window
    document = {
        "title": case.title,
        "from": moment(window.start).isoformat(),
        "to": moment(window.end).isoformat(),
        "time_zone": str(case.facts.zone),
        "rules": {
            "basis": case.rules.basis,
            "sharing": case.rules.sharing,
            "gap": case.rules.gap,
            "spread": case.spread,
            "mig": case.mig_rule,
            "carry_seconds": case.rules.carry_microseconds / 1_000_000,
            "output_weight": str(case.output_weight),
        },
        "price_book": case.book_version or None,
        "prices": [
            {
                "gpu": name, "from": moment(span.start).isoformat(), "to": moment(span.end).isoformat(),
                "per_hour": _six(price.micros_per_hour), "currency": price.currency, "source": price.source,
                "as_of": price.as_of or None, "mark": price.mark or None,
            }
            for name, span, price in case.prices
        ],
        "bills": [_bill_json(accounts(found, currency, spread=case.spread), found) for currency in found.currencies],
        "unpriced_gpu_hours": str(found.unpriced_seconds / 3600),
        "coverage": None if found.coverage is None else str(found.coverage),
        "rows": [
            {
                "day": row.day.isoformat(), "host": row.host, "gpu": row.gpu_uuid, "container": row.container,
                "tenant": row.tenant, "team": row.team, "kind": row.kind, "gpu_hours": str(row.gpu_seconds / 3600),
                "amount": None if row.micros is None else _six(row.micros), "currency": row.currency or None,
                "estimated": row.estimated, "list_price": row.listed, "note": row.note,
            }
            for row in found.rows
        ],
        "servers": [
            {
                "container": one.container,
                "amount": _six(one.cost.money),
                "currency": one.cost.currency,
                "mix": one.cost.mix,
                "output_weight": str(one.cost.output_weight),
                "per_million_tokens": _figures(one.cost),
                "energy": {"at": one.energy.at, **_figures(one.energy)},
            }
            for one in servers(case, found)
        ],
        "notes": list(case.notes),
    }  # fmt: skip
    # Escaped: half a character in a name, which JSON allows, cannot be written to any output.
    return json.dumps(document, indent=1) + "\n"


def _bill_json(result: Accounts, found: Allocation) -> dict[str, object]:
    return {
        "currency": result.currency,
        "bill": _six(result.bill),
        "credits": _six(result.credits),
        "difference": _six(result.difference),
        "parts": {kind: _six(micros) for kind, micros in found.parts(result.currency).items()},
        "tenants": [
            {
                "tenant": one.tenant, "teams": list(one.teams), "own": _six(one.own),
                "idle_share": _six(one.idle_share), "total": _six(one.total),
                "parts": {kind: _six(one.kinds[kind]) for kind in KINDS},
                "gpu_hours": str(one.gpu_seconds / 3600), "estimated": one.estimated, "list_price": one.listed,
            }
            for one in result.accounts
        ],
        "apart": {kind: _six(micros) for kind, micros in result.apart.items()},
    }  # fmt: skip


def _figures(of: TokenCost | EnergyFigures) -> dict[str, object]:
    found: dict[str, object] = {}
    for one in fields(of):
        figure: object = getattr(of, one.name)
        if isinstance(figure, Figure):
            found[one.name] = {"value": None if figure.value is None else str(figure.value), "why": figure.why}
    return found


def _six(micros: int) -> str:
    return f"{amount(micros):f}"


def is_right(found: Allocation) -> bool:
    """Whether the bill adds up in every currency, and nothing is without a price."""
    return not found.unpriced_seconds and not any(found.difference(one) for one in found.currencies)
