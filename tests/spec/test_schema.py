"""The schema accepts every study that ships and rejects what people get wrong."""

from __future__ import annotations

import copy
from pathlib import Path

import jsonschema
import pytest
import yaml

from kdlora.errors import InputError
from kdlora.spec.check import make_study
from kdlora.spec.schema import ARMS, DIALECT, study_schema

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([*ROOT.glob("examples/*.yaml"), *ROOT.glob("src/kdlora/spec/presets/*.yaml")])
GOOD = {
    "name": "s",
    "tasks": ["rte", {"name": "mine", "train": "a.csv", "text": ["a", "b"]}],
    "pairs": [
        {"teacher": "minilm-l6", "student": {"from": "teacher", "layers": [0, 2]}},
        {"student": "minilm-l3", "teacher_outputs": {"file": "t.csv", "kind": "logits"}},
    ],
    "arms": ["teacher/fft", "student/lora", "student/kd-lora"],
    "training": {"lr": 1e-3},
    "adapter": {"targets": "query-value", "budget": 4000},
    "distillation": {"signals": {"kl": 1.0, "dkd": {"beta": 2}}, "teacher_seeds": "all"},
    "overrides": {"student/kd-lora": {"adapter": {"options.init_r": 4}}},
    "variations": {"hot": {"arm": "student/kd-lora", "distillation": {"temperature": 8}}},
    "ablations": [{"arm": "student/lora", "vary": {"training.lr.peft": [1e-4]}}],
    "halving": {"arms": "student/kd-lora*"},
    "unlabelled": {"rte": "more.csv"},
    "exclude": {"task": "rte", "arm": "student/lora"},
}
# A change of GOOD -> what makes it wrong: the place and the new value.
MISTAKES = {
    "unknown key": (("trainig",), {}),
    "unknown setting": (("training", "epoch"), 3),
    "unknown task": (("tasks", 0), "rtee"),
    "unknown arm": (("arms", 1), "student/lorra"),
    "distilled teacher": (("arms", 1), "teacher/kd-lora"),
    "text for a number": (("training", "epochs"), "three"),
    "zero epochs": (("training", "epochs"), 0),
    "share above one": (("distillation", "kd_weight"), 1.5),
    "rank and budget": (("adapter", "rank"), 8),
    "unknown precision": (("training", "precision"), "fp8"),
    "pair without a student": (("pairs", 0), {"teacher": "minilm-l6"}),
    "pair without a teacher": (("pairs", 0), {"student": "minilm-l6"}),
    "task without a file": (("tasks", 1), {"name": "mine"}),
    "override of no arm": (("overrides", "lora"), {}),
    "override of no setting": (("overrides", "student/kd-lora", "adapter", "rnk"), 4),
    "axis without a section": (("ablations", 0, "vary", "temperature"), [1]),
    "axis of no setting": (("ablations", 0, "vary", "distillation.temprature"), [1]),
    "keep all": (("halving", "keep"), 1.0),
    "seed in words": (("seeds",), ["one"]),
}


@pytest.fixture(scope="module")
def validator():
    schema = study_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_ships_is_valid(validator, path):
    assert [e.message for e in validator.iter_errors(yaml.safe_load(path.read_text()))] == []


def test_a_study_with_every_short_form_is_valid(validator):
    make_study(copy.deepcopy(GOOD))  # as the reader sees it
    assert [e.message for e in validator.iter_errors(GOOD)] == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_seen_by_the_editor_and_by_the_reader(validator, mistake):
    place, value = MISTAKES[mistake]
    study = copy.deepcopy(GOOD)
    *outer, last = place
    inside = study
    for part in outer:
        inside = inside[part]
    inside[last] = value
    assert not validator.is_valid(study)
    with pytest.raises(InputError):
        make_study(study)


@pytest.mark.parametrize("key", ["name", "tasks", "pairs"])
def test_what_is_required(validator, key):
    assert not validator.is_valid({k: v for k, v in GOOD.items() if k != key})


def test_a_matrix_stands_for_pairs(validator):
    study = {k: v for k, v in GOOD.items() if k != "pairs"}
    matrix = {"teachers": "minilm-l6", "students": ["minilm-l3", {"from": "a", "layers": [0]}]}
    assert validator.is_valid({**study, "matrix": matrix})


def test_names_and_words_for_the_editor():
    schema = study_schema()
    assert schema["$schema"] == DIALECT
    assert "base_dir" not in schema["properties"]
    pair = schema["$defs"]["Pair"]["properties"]
    assert "minilm-l6" in pair["teacher"]["examples"]
    assert "teacher/given" in ARMS
    assert "student/given" not in ARMS
    described = schema["properties"]["halving"]["description"]
    assert "trained to the end" in described
