"""How numbers and arms are written: one place, so that every table and sentence does it alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kdlora.report.document import NONE, Cell, Column, Value
from kdlora.vocabulary import p_value
from kdlora.vocabulary.arm import Arm
from kdlora.vocabulary.metric import POINTS, decimals_in, metric
from kdlora.vocabulary.quantity import Quantity

MINUS = "\N{MINUS SIGN}"
DAGGER = "\N{DAGGER}"
RESUMED = "\N{DOUBLE DAGGER}"  # at the training time of runs that were interrupted
NBSP = "\N{NO-BREAK SPACE}"
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Scale:
    """How a metric is written: ``value * factor`` with `decimals`, in `unit`."""

    factor: float
    decimals: int
    unit: str

    def write(self, value: float | None, *, signed: bool = False) -> str:
        shown = None if value is None else value * self.factor
        return fixed(shown, self.decimals, signed=signed)

    def sentence(self, value: float, *, signed: bool = False) -> str:
        """As inside a sentence: a number of points is called so."""
        return self.write(value, signed=signed) + (" points" if self.unit == "points" else "")


def scale_of(name: str) -> Scale:
    one = metric(name)
    return Scale(one.factor, one.decimals, POINTS if one.in_points else one.title)


def metric_name(name: str) -> str:
    return metric(name).title


def arm_name(arm: str) -> str:
    return Arm.read(arm).title()


def short_arm_name(arm: str) -> str:
    return Arm.read(arm).short()


def phrase(arm: str) -> str:
    return Arm.read(arm).phrase()


def fixed(value: float | None, decimals: int, *, signed: bool = False) -> str:
    """``-1.25`` as "−1.2"; a dash where there is no number; no sign on what rounds to zero."""
    if value is None or not math.isfinite(value):
        return NONE
    text = f"{abs(value):,.{decimals}f}"
    if not any(digit in text for digit in "123456789"):
        return text
    return (MINUS if value < 0 else "+" if signed else "") + text


def significant(value: float | None, digits: int = 3) -> str:
    """At least `digits` significant digits, never fewer than the whole part has."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    return fixed(value, max(0, digits - 1 - magnitude))


def number(value: float | None, digits: int = 3, *, per: float = 1.0) -> Cell:
    """A cell of a measured quantity, shown in units of `per`; the CSV keeps the stored unit."""
    if value is None or not math.isfinite(value):
        return Cell(NONE)
    return Cell(significant(value / per, digits), float(value))


def measured(one: Quantity, value: float | None) -> Cell:
    """A cell of a measured quantity in its shown unit; the CSV keeps the stored one."""
    return amount(value) if one.format == "amount" else number(value, per=one.per)


def head(one: Quantity) -> Column:
    """The head of a quantity's column."""
    return Column(one.column, one.label, one.head_unit)


def amount(value: float | None) -> Cell:
    """A cell of a large count: 48,211 is "48.2 k", 22,713,986 is "22.7 M"."""
    if value is None or not math.isfinite(value):
        return Cell(NONE)
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return Cell(f"{significant(value / size)} {letter}", float(value))
    return Cell(significant(value, 1), float(value))


def count(value: float | None) -> Cell:
    """A cell of a whole number."""
    if value is None or not math.isfinite(value):
        return Cell(NONE)
    return Cell(f"{int(value):,}", int(value))


def word(text: Value) -> Cell:
    """A cell of text, or of a setting that is shown as it was given."""
    if text is None or (isinstance(text, float) and not math.isfinite(text)) or text == "":
        return Cell(NONE)
    if isinstance(text, float):
        return Cell(f"{int(text):,}" if text.is_integer() else f"{text:g}", text)
    return Cell(str(text), text)


def join(items: Sequence[str], last: str = "and") -> str:
    """ "a", "a and b", "a, b and c"."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {last} {items[-1]}"


def plural(n: int, one: str, many: str | None = None) -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]


def points_text(value: float) -> str:
    """Of a number that is in points already."""
    return f"{fixed(value, 1)} points"


def in_unit(value: float | None, unit: str, *, signed: bool = False) -> str:
    """The number of a comparison, which is in points or in a metric's own unit already."""
    return fixed(value, decimals_in(unit), signed=signed)


def signed_difference(value: float | None, unit: str) -> str:
    return f"{in_unit(value, unit, signed=True)} {POINTS if unit == POINTS else metric_name(unit)}"


def span_text(low: float | None, high: float | None, unit: str = POINTS) -> str:
    """An interval behind its number: " [1.2 to 3.4]"."""
    if low is None or high is None:
        return ""
    return f" [{in_unit(low, unit)} to {in_unit(high, unit)}]"


def share_scope(told: int, tasks: int) -> str:
    """Of how many tasks a share of the teacher's score is, behind that share; "" where of all."""
    return f" over {told} of {tasks} tasks" if told < tasks else ""


def p_text(p: float | None) -> str:
    return NONE if p is None else p_value.p_text(p)
