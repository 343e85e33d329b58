"""The words of one language, and how numbers are written in a report: never flatteringly."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Final, Literal

from hansa.audit.report import texts_en, texts_zh

Language = Literal["en", "zh"]
LANGUAGES: Final[tuple[Language, ...]] = ("en", "zh")

_MANY: Final = 100.0


@dataclass(frozen=True)
class Words:
    """Looks texts up by key."""

    texts: Mapping[str, str]
    checks: Mapping[str, str]

    def __call__(self, key: str, /, **values: object) -> str:
        """The text with its values filled in; templates are ours, values anybody's."""
        return self.texts[key].format(**values)

    def known(self, prefix: str, name: str) -> str:
        """The text of a name from the evidence; a name that came later stands for itself."""
        return self.texts.get(f"{prefix}.{name}", name)

    def check(self, name: str) -> str:
        """A check's name in this language."""
        return self.checks.get(name, name)


WORDS: Final[dict[Language, Words]] = {
    "en": Words(texts_en.TEXTS, texts_en.CHECKS),
    "zh": Words(texts_zh.TEXTS, texts_zh.CHECKS),
}


def percent(share: float) -> str:
    """A share as an upper bound: two decimals, rounded up."""
    step = Decimal("0.01")
    return f"{(Decimal(repr(share)) * 100).quantize(step, rounding=ROUND_CEILING).normalize():f} %"


def times(factor: float) -> str:
    """A factor as an upper bound."""
    if factor < _MANY:
        return str(Decimal(repr(factor)).quantize(Decimal("0.01"), rounding=ROUND_CEILING))
    return f"{math.ceil(factor):,}" if factor < 1e9 else f"{factor:.1e}"


def plain(number: float) -> str:
    """A number without an exponent, for readers who do not know one: 0.00001, not 1e-05."""
    rounded = Decimal(f"{number:.6g}")
    return f"{rounded:,.0f}" if rounded == rounded.to_integral_value() else f"{rounded:f}"
