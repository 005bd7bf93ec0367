"""Money without floats: integer micro-units of a currency, split so that the parts add up to the whole.

One micro-unit is 0.000001 of the currency: a GPU-second costs around a thousandth of a cent, so cents would lose it.
Inside the allocation amounts are finer still, `ATOMS_PER_MICRO` to the micro-unit: price (micro-units an hour) times
microseconds times a share of a GPU (`SHARE` = all of it) is then a whole number, and no sum depends on its order or on
where a window is cut. Fractions would be exact as well, but their denominators grow with every reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation

MICROS = 1_000_000
#: A whole GPU, in parts: halves to sixteenths and six decimals of a measured ratio are whole numbers of it.
SHARE = 720_720_000_000
_MICROSECONDS_PER_HOUR = 3_600_000_000
ATOMS_PER_MICRO = _MICROSECONDS_PER_HOUR * SHARE
#: More than this in one amount is a slip of the keyboard; it also bounds what a hostile number can cost.
_MOST = Decimal(10) ** 12


class MoneyError(ValueError):
    """An amount that cannot be meant; the text says what was found and what to write."""


def decimal_of(value: object, *, least: Decimal | None = Decimal(0)) -> Decimal:
    """The number as a Decimal: from int, Decimal, text, or a float by its shortest decimal.

    least: smallest value that is accepted, None = any. Raises MoneyError for anything else, NaN and infinity too.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise MoneyError(f"found {_shown(value)}; write a number like 2.50")
    try:
        found = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    except InvalidOperation:
        raise MoneyError(f"found {_shown(value)}; write a number like 2.50") from None
    if not found.is_finite():
        raise MoneyError(f"found {_shown(value)}; write a finite number like 2.50")
    if least is not None and found < least:
        raise MoneyError(f"found {_shown(value)}; write a number of at least {least}")
    if abs(found) > _MOST:
        raise MoneyError(f"found {_shown(value)}; write a number of at most {_MOST:f}")
    return found


def _shown(value: object) -> str:
    text = str(value) if isinstance(value, Decimal) else repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def micros_of(value: object, *, least: Decimal | None = Decimal(0)) -> int:
    """An amount in micro-units, half to even. Raises MoneyError as `decimal_of`."""
    return int((decimal_of(value, least=least) * MICROS).to_integral_value(ROUND_HALF_EVEN))


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """The total split in proportion to the weights into whole numbers that add up to it (largest remainder).

    On equal remainders the earlier place gets the odd unit. Without any weight above 0 it is split evenly. total may be
    negative. Raises MoneyError for a negative weight, or for something to split among nobody.
    """
    if any(weight < 0 for weight in weights):
        raise MoneyError(f"found the weight {min(weights)}; write weights of at least 0")
    if not weights:
        if total:
            raise MoneyError(f"found {total} to split among nobody; name somebody")
        return []
    whole = sum(weights)
    used = list(weights) if whole else [1] * len(weights)
    whole = whole or len(weights)
    pairs = [divmod(total * weight, whole) for weight in used]
    parts = [quotient for quotient, _ in pairs]
    odd = total - sum(parts)
    for place in sorted(range(len(pairs)), key=lambda place: -pairs[place][1])[:odd]:
        parts[place] += 1
    return parts


def round_together(atoms: Sequence[int]) -> list[int]:
    """Amounts in atoms as micro-units that add up to their sum rounded once (half to even)."""
    return apportion(half_even(sum(atoms), ATOMS_PER_MICRO), atoms)


def half_even(value: int, unit: int) -> int:
    """How many units the value is, half to even."""
    quotient, rest = divmod(value, unit)
    return quotient + (2 * rest > unit or (2 * rest == unit and quotient % 2 == 1))


def share_of(ratio: float | Decimal) -> int:
    """A ratio (0-1) as parts of `SHARE`."""
    exact = ratio if isinstance(ratio, Decimal) else Decimal(repr(ratio))
    return int((exact * SHARE).to_integral_value(ROUND_HALF_EVEN))


def amount(micros: int) -> Decimal:
    """Micro-units as an exact Decimal of the currency."""
    return Decimal(micros).scaleb(-6)


def cents(micros: Sequence[int]) -> list[Decimal]:
    """Amounts for display, two decimals each, that add up to their rounded sum."""
    signed = half_even(sum(micros), 10_000)
    if any(one < 0 for one in micros):
        # Shares of a total that is partly negative have no largest remainder: each at its floor, then the odd cents.
        parts = [one // 10_000 for one in micros]
        order = sorted(range(len(micros)), key=lambda place: -(micros[place] % 10_000))
        for place in order[: signed - sum(parts)]:
            parts[place] += 1
        return [Decimal(part).scaleb(-2) for part in parts]
    return [Decimal(part).scaleb(-2) for part in apportion(signed, micros)]


def words(micros: int, currency: str, *, digits: int = 2) -> str:
    """An amount with its currency, e.g. `988.09 USD`; thousands separated by commas."""
    return f"{amount(micros).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_EVEN):,f} {currency}"
