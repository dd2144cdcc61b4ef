"""The JSON schema of the study file, by which an editor completes and checks it while one types.

It is made from the models that read the file, with the names filled in that only their validators
know: arms, tasks, the settings that an arm may change. What needs several places of a file at once
(an override of an arm that is not planned) or a look at the disk only `kdlora plan` can say.
"""

from __future__ import annotations

import copy
import re
from typing import Any

from kdlora.spec.adapter import Adapter
from kdlora.spec.base import Strict
from kdlora.spec.distillation import Distillation
from kdlora.spec.encoders import PACKAGED_ENCODERS
from kdlora.spec.sections import Training
from kdlora.spec.study import Study
from kdlora.spec.variations import SECTIONS
from kdlora.vocabulary.arm import every_plain_arm
from kdlora.vocabulary.task import TASKS

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FILE_NAME = "kdlora.schema.json"
MODELINE = f"# yaml-language-server: $schema={FILE_NAME}\n"

ARMS = tuple(map(str, every_plain_arm()))
ENCODERS = (
    *PACKAGED_ENCODERS,
    "bert-base-uncased",
    "distilbert-base-uncased",
    "roberta-base",
    "distilroberta-base",
    "microsoft/deberta-v3-base",
    "microsoft/deberta-v3-small",
    "./my-model",
)
_CHANGED: dict[str, type[Strict]] = {
    "training": Training,
    "adapter": Adapter,
    "distillation": Distillation,
}


def study_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of a study file."""
    schema = Study.model_json_schema()
    parts, top = schema["$defs"], schema["properties"]
    del top["base_dir"]
    schema |= {"$schema": DIALECT, "title": "A study of kdlora"}
    schema["required"] = ["name", "tasks"]
    schema["anyOf"] = [{"required": ["pairs"]}, {"required": ["matrix"]}]

    arm: dict[str, Any] = {"type": "string", "enum": list(ARMS)}
    top["arms"]["items"] = arm
    top["tasks"]["items"] = {
        "anyOf": [{"type": "string", "enum": list(TASKS)}, {"$ref": "#/$defs/OwnTask"}],
        "description": "a built-in task by its name, or own data",
    }
    for section in SECTIONS:
        parts[_changes(section)] = _partial(parts[_CHANGED[section].__name__])
    changed: dict[str, dict[str, Any]] = {
        section: {"$ref": f"#/$defs/{_changes(section)}"} for section in SECTIONS
    }
    top["overrides"]["propertyNames"] = arm
    top["overrides"]["additionalProperties"] = {
        "type": "object",
        "properties": changed,
        "additionalProperties": False,
    }
    for key, value in {"arm": arm, **changed}.items():
        described = parts["Variation"]["properties"][key]["description"]
        parts["Variation"]["properties"][key] = {**value, "description": described}
    parts["Ablation"]["properties"]["arm"] |= arm
    parts["Ablation"]["properties"]["vary"]["propertyNames"] = {"pattern": _settings()}
    parts["Ablation"]["properties"]["vary"]["examples"] = [{"distillation.temperature": [1, 4]}]
    parts["Halving"]["properties"]["arms"]["examples"] = ["student/kd-*", list(ARMS[-7:-5])]

    for signal in parts["Signals"]["properties"].values():
        signal["anyOf"].append({"type": "number", "description": "the signal's weight"})

    pair, matrix = parts["Pair"], parts["PairMatrix"]
    pair["required"] = ["student"]
    pair["anyOf"] = [{"required": ["teacher"]}, {"required": ["teacher_outputs"]}]
    for model, name in ((pair, "teacher"), (pair, "student"), (parts["MadeStudent"], "from")):
        model["properties"][name]["examples"] = list(ENCODERS)
    for name in ("teachers", "students"):
        matrix["properties"][name]["examples"] = [list(PACKAGED_ENCODERS[:2])]
    number = {"type": "integer"}
    parts["Adapter"]["not"] = {
        "required": ["rank", "budget"],
        "properties": {"rank": number, "budget": number},
    }
    return schema


def _changes(section: str) -> str:
    return f"{section.capitalize()}Changes"


def _partial(section: dict[str, Any]) -> dict[str, Any]:
    """A section some of whose settings are replaced; a dotted one changes a key inside another."""
    changes = copy.deepcopy(section)
    changes.pop("required", None)
    inner = "|".join(re.escape(name) for name in section["properties"])
    changes["patternProperties"] = {rf"^({inner})\..+$": {}}
    return changes


def _settings() -> str:
    """A pattern of ``section.setting`` for every setting there is, and what lies inside it."""
    names = []
    for section, model in _CHANGED.items():
        fields = "|".join(f.alias or name for name, f in model.model_fields.items())
        names.append(rf"{section}\.({fields})")
    return rf"^({'|'.join(names)})(\..+)?$"
