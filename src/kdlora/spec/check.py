"""What is wrong with a study file, in words for the one who wrote it."""

from __future__ import annotations

from pydantic import ValidationError

from kdlora.errors import did_you_mean
from kdlora.spec.adapter import Adapter
from kdlora.spec.base import Strict
from kdlora.spec.distillation import SIGNALS, Distillation, Signals, TeacherOutputs, Texts
from kdlora.spec.encoders import Layers, Pair
from kdlora.spec.grid import Exclusion, Matrix
from kdlora.spec.halving import Halving
from kdlora.spec.sections import Data, LearningRates, OwnTask, Training
from kdlora.spec.variations import Ablation, Variation


def explain(error: ValidationError, *, model: type[Strict], prefix: str = "") -> list[str]:
    """pydantic's findings on `model` as sentences that a user of the YAML understands."""
    problems = []
    for item in error.errors():
        # tasks are "a name or a mapping": pydantic adds which of the two it tried
        parts = [str(p) for p in item["loc"] if p not in ("str", "OwnTask", "Layers")]
        parts = [p for p in parts if not p.startswith("function-")]
        place = prefix + ".".join(parts)
        kind, given = item["type"], item.get("input")
        if kind == "string_type" and isinstance(given, dict | Layers):
            continue  # the mapping branch of the same task tells the real problem
        if kind == "extra_forbidden":
            message = f"unknown key.{did_you_mean(parts[-1], _keys_at(item['loc'], model))}"
        elif kind == "missing":
            message = "is required"
        elif kind == "value_error":
            message = str(item["ctx"]["error"])
        else:
            message = item["msg"][0].lower() + item["msg"][1:] + f", got {given!r}"
        problems.append(f"{place}: {message}" if place else message)
    return problems


_SECTIONS: dict[str, type[Strict]] = {
    "training": Training,
    "adapter": Adapter,
    "distillation": Distillation,
    "signals": Signals,
    **SIGNALS,
    "teacher_outputs": TeacherOutputs,
    "unlabelled": Texts,
    "data": Data,
    "pairs": Pair,
    "student": Layers,
    "variations": Variation,
    "ablations": Ablation,
    "halving": Halving,
    "matrix": Matrix,
    "exclude": Exclusion,
    "tasks": OwnTask,
    "lr": LearningRates,
}


def _keys_at(location: tuple[int | str, ...], model: type[Strict]) -> list[str]:
    """The keys that are known where an unknown one was found."""
    for part in location[:-1]:
        model = _SECTIONS.get(str(part), model)
    return [f.alias or name for name, f in model.model_fields.items() if name != "base_dir"]
