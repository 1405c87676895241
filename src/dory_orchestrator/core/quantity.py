"""Quantities as Kubernetes writes them: `500m`, `2`, `512Mi`, `1.5G`."""

import math
import re
from decimal import Decimal

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE]([+-]?[0-9]{1,2}))?(m|k|[KMGTPE]i?)?")
_FACTORS: dict[str | None, Decimal] = {
    None: Decimal(1),
    "m": Decimal("0.001"),
    "k": Decimal(1000),
    "K": Decimal(1000),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("MGTPE", 2)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)},
}


def quantity(text: str) -> Decimal:
    """The number that a quantity stands for. Raises ValueError."""
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no quantity such as 500m, 2 or 512Mi")
    number, exponent, unit = match[1], match[2], match[3]
    return Decimal(number).scaleb(int(exponent or 0)) * _FACTORS[unit]


def millicores(text: str) -> int:
    """CPU in thousandths of a core, rounded up. Raises ValueError."""
    return math.ceil(quantity(text) * 1000)


def whole(text: str) -> int:
    """Bytes or pieces, rounded up. Raises ValueError."""
    return math.ceil(quantity(text))
