"""How numbers and arms are written: one place, so that every table and sentence does it alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

from kdlora.evidence.scores import POINT_METRICS as POINTS
from kdlora.report.document import NONE, Cell, Value
from kdlora.vocabulary.arm import split_label

MINUS = "\N{MINUS SIGN}"
DAGGER = "\N{DAGGER}"
NBSP = "\N{NO-BREAK SPACE}"
TIMES = "\N{MULTIPLICATION SIGN}"

METRIC_NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "f1": "F1",
    "matthews": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "rmse": "root mean square error",
    "cross_entropy": "cross-entropy",
    "ece": "calibration error",
}

ADAPTATION_NAMES = {
    "fft": "full fine-tuning",
    "given": "as given",
    "lora": "LoRA",
    "adalora": "AdaLoRA",
    "dora": "DoRA",
    "mrlora": "MrLoRA",
    "olora": "OLoRA",
    "rslora": "rsLoRA",
    "peft": "PEFT",
}
SETTING_NAMES = {
    "lr": "learning rate",
    "lr.peft": "learning rate",
    "lr.fft": "learning rate",
    "kd_weight": "KD weight",
    "batch_size": "batch size",
    "max_length": "length",
    "weight_decay": "weight decay",
}
BASELINE_NAMES = {"majority": "Baseline, majority or mean", "tfidf": "Baseline, TF-IDF + linear"}


@dataclass(frozen=True)
class Scale:
    """How a metric is written: ``value * factor`` with `decimals`, in `unit`."""

    factor: float
    decimals: int
    unit: str

    def write(self, value: float | None, *, signed: bool = False) -> str:
        shown = None if value is None else value * self.factor
        return fixed(shown, self.decimals, signed=signed)


def scale_of(metric: str) -> Scale:
    if metric in POINTS:
        return Scale(100.0, 1, "points")
    return Scale(1.0, 3, metric_name(metric))


def metric_name(metric: str) -> str:
    return METRIC_NAMES.get(metric, metric)


def label_text(label: str) -> str:
    """A label in words: ``temperature=4 lr=0.001`` is "temperature 4, learning rate 0.001"."""
    parts = []
    for part in label.split(" "):
        name, equals, value = part.partition("=")
        parts.append(f"{SETTING_NAMES.get(name, name)} {value}" if equals else part)
    return (", " if "=" in label else " ").join(parts)


def arm_name(arm: str) -> str:
    """An arm in plain words: ``student/kd-lora`` is "Student, KD-LoRA"."""
    base, label = split_label(arm)
    if label:
        return f"{arm_name(base)}, {label_text(label)}"
    role, _, rest = arm.partition("/")
    if role == "baseline":
        return BASELINE_NAMES.get(rest, f"Baseline, {rest}")
    adaptation = rest.removeprefix("kd-")
    name = ADAPTATION_NAMES.get(adaptation, adaptation)
    if rest == adaptation:
        return f"{role.capitalize()}, {name}"
    joint = " + " if adaptation == "fft" else "-"
    return f"{role.capitalize()}, KD{joint}{name}"


def short_arm_name(arm: str) -> str:
    """An arm for a label in a chart: "student KD-LoRA", "teacher FFT", "TF-IDF"."""
    base, label = split_label(arm)
    if label:
        return f"{short_arm_name(base)}, {label_text(label)}"
    role, _, rest = arm.partition("/")
    if role == "baseline":
        return {"majority": "majority", "tfidf": "TF-IDF"}.get(rest, rest)
    names = {**ADAPTATION_NAMES, "fft": "FFT"}
    kd = "KD-" if rest.startswith("kd-") else ""
    adaptation = rest.removeprefix("kd-")
    return f"{role} {kd}{names.get(adaptation, adaptation)}"


def phrase(arm: str) -> str:
    """An arm inside a sentence: "the KD-LoRA student", "the fully fine-tuned teacher"."""
    base, label = split_label(arm)
    if label:
        return f"{phrase(base)} ({label_text(label)})"
    role, _, rest = arm.partition("/")
    if role == "baseline":
        return {"majority": "the majority baseline", "tfidf": "the TF-IDF baseline"}.get(rest, rest)
    adaptation = rest.removeprefix("kd-")
    kd = rest != adaptation
    special = {"fft": "fully fine-tuned", "given": "given"}
    if adaptation in special:
        return f"the {'distilled, ' if kd else ''}{special[adaptation]} {role}"
    return f"the {'KD-' if kd else ''}{ADAPTATION_NAMES.get(adaptation, adaptation)} {role}"


def is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


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
