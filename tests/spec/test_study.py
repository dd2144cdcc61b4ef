from __future__ import annotations

import copy
import math
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from kdlora.errors import InputError
from kdlora.spec.adapter import Adapter
from kdlora.spec.base import explain
from kdlora.spec.check import make_study, read_study
from kdlora.spec.distillation import Distillation, Hidden, Signals, TeacherOutputs, Texts
from kdlora.spec.encoders import MadeStudent, Pair, Vocabulary, ZeroShotTeacher
from kdlora.spec.grid import ExcludedCells
from kdlora.spec.halving import Halving
from kdlora.spec.plan import make_plan
from kdlora.spec.sections import Data, LearningRates, OwnTask, Training, Windows
from kdlora.spec.study import Study
from kdlora.spec.variations import Ablation, Variation

GOOD = {
    "name": "s",
    "tasks": ["rte"],
    "pairs": [{"teacher": "minilm-l6", "student": "minilm-l3"}],
}


def problems_of(**changes: object) -> str:
    with pytest.raises(InputError) as caught:
        make_study({**GOOD, **changes})
    return "\n".join(caught.value.problems)


def test_defaults_plan_the_control_arms():
    study = make_study(GOOD)
    assert {"student/fft", "student/lora", "student/kd-lora"} <= set(study.arms)
    assert study.baselines


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tasks": ["rtee"]}, "Did you mean 'rte'"),
        ({"trainng": {}}, "trainng: unknown key. Did you mean 'training'"),
        ({"training": {"epoch": 3}}, "training.epoch: unknown key. Did you mean 'epochs'"),
        ({"adapter": {"rank": -8}}, "adapter.rank: input should be greater than 0, got -8"),
        ({"arms": ["student/kd-lorra"]}, "Did you mean 'lora'"),
        ({"arms": ["teacher/kd-lora"]}, "a teacher is not distilled"),
        ({"arms": ["lora"]}, "write role/adaptation"),
        ({"seeds": [1, 1]}, "names a seed twice"),
        ({"distillation": {"kd_weight": 1.5}}, "distillation.kd_weight"),
        ({"pairs": [{"teacher": "a"}]}, "pairs.0.student: is required"),
        ({"overrides": {"student/fft": {"training": {"epochs": 0}}}},
         "overrides.student/fft.training.epochs"),
        ({"overrides": {"student/dora": {}}}, "is not among arms"),
        ({"tasks": [{"name": "x", "train": "t.csv", "text": ["a", "b", "c"]}]},
         "3 text columns given"),
        ({"tasks": [{"name": "x", "train": "t.csv", "metric": "acuracy"}]},
         "Did you mean 'accuracy'"),
    ],
)  # fmt: skip
def test_each_mistake_has_a_sentence(changes, expected):
    assert expected in problems_of(**changes)


@pytest.mark.parametrize(
    ("arm", "section", "settings", "expected"),
    [
        ("student/lora", "distillation", {"temperature": 9}, "Did you mean student/kd-lora?"),
        ("teacher/fft", "distillation", {"temperature": 9}, "teacher/fft has no distillation"),
        ("student/fft", "adapter", {"rank": 2}, "student/fft has no adapter"),
        ("student/lora", "adapter", {"config": {"r": 2}, "method": "LOHA"},
         "adapter.config, adapter.method would change nothing of student/lora"),
        ("student/peft", "adapter", {"rank": 2}, "adapter.rank would change nothing"),
        ("student/frozen", "training", {"epochs": 2, "max_length": 8},
         "student/frozen is not trained, so training.epochs would change nothing"),
        ("teacher/given", "training", {"epochs": 2}, "teacher/given is not trained"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("by", ["overrides", "variations"])
def test_a_setting_that_its_arm_does_not_have_is_refused(arm, section, settings, expected, by):
    place = {"overrides": {arm: {section: settings}},
             "variations": {"v": {"arm": arm, section: settings}}}  # fmt: skip
    text = problems_of(arms=[arm], adapter={"method": "LOHA"}, **{by: place[by]})
    assert (expected if (arm, by) != ("teacher/given", "variations") else "not trained") in text


@pytest.mark.parametrize("arm", ["student/frozen", "teacher/given"])
def test_how_an_untrained_model_reads_is_a_setting_of_it(arm):
    changes = {"overrides": {arm: {"training": {"max_length": 48}}}}
    study = make_study({**GOOD, "arms": [arm], **changes})
    assert study.section(arm, "training").of_untrained().max_length == 48


def choices_of(section: type[BaseModel]):
    """Where a word of a few may stand, or something else: path of keys in a study."""
    for name, field in section.model_fields.items():
        kinds = [get_origin(kind) for kind in get_args(field.annotation)]
        if Literal in kinds and len(kinds) - (type(None) in get_args(field.annotation)) > 1:
            words = [w for k in get_args(field.annotation) if get_origin(k) is Literal
                     for w in get_args(k)]  # fmt: skip
            yield section, name, words[-1]


CHOICES = [one for section in (Training, Adapter, Distillation, Hidden, OwnTask, Data)
           for one in choices_of(section)]  # fmt: skip


@pytest.mark.parametrize("wrong", ["word", 1.5])
@pytest.mark.parametrize(
    ("section", "name", "word"), CHOICES, ids=[f"{s.__name__}.{n}" for s, n, _ in CHOICES]
)
def test_a_value_that_is_none_of_several_types_is_one_line(section, name, word, wrong):
    given = word[:-2] + word[-1] if wrong == "word" else wrong
    values = {"name": "x", "train": "t.csv", "text": "a"} if section is OwnTask else {}
    with pytest.raises(ValidationError) as caught:
        section.model_validate({**values, name: given})
    (line,) = explain(caught.value, section)
    assert line.startswith(f"{name}: input should be ")
    assert f"'{word}'" in line
    assert (f"Did you mean '{word}'?" in line) == (wrong == "word")
    assert not any(odd in line for odd in ("literal[", "dict[", "tuple[", "constrained"))


def test_what_is_wrong_inside_of_one_type_is_told_alone():
    text = problems_of(training={"class_weights": {"bad": 0}})
    assert text == "training.class_weights.bad: input should be greater than 0, got 0"


def test_all_problems_come_at_once():
    text = problems_of(adapter={"rank": 0}, seeds=[], arms=["x"], tasks=["nope"])
    assert all(word in text for word in ("adapter.rank", "seeds", "arms", "tasks.0"))


def test_one_learning_rate_stands_for_both():
    assert make_study({**GOOD, "training": {"lr": 3e-4}}).training.lr.peft == 3e-4


@pytest.mark.parametrize(("alpha", "value"), [("rank", 8), ("2*rank", 16), (5, 5)])
def test_alpha_is_a_number_or_a_multiple_of_rank(alpha, value):
    assert Adapter(rank=8, alpha=alpha).alpha_value == value


def test_overrides_replace_single_values_of_one_arm():
    study = make_study({**GOOD, "overrides": {"student/fft": {"training": {"epochs": 9}}}})
    assert study.section("student/fft", "training").epochs == 9
    assert study.section("student/fft", "training").batch_size == study.training.batch_size
    assert study.section("student/lora", "training") == study.training


def test_a_study_survives_yaml(tmp_path):
    study = make_study({**GOOD, "training": {"epochs": 7}})
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(study.model_dump(mode="json")))
    again = read_study(path)
    assert again.model_dump() == study.model_dump()
    assert again.path("x.csv") == tmp_path / "x.csv"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a: [1", "not valid YAML"),
        (b"- 1", "expected a mapping"),
        (b"\xff\xfe\x00", "cannot read"),
    ],
)
def test_unreadable_files_are_explained(tmp_path, content, expected):
    path = tmp_path / "s.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=expected):
        read_study(path)


@pytest.mark.parametrize("word", ["no", "yes", "on", "off", "No", "YES", "n", "y"])
def test_words_that_other_yaml_takes_for_truth_values_are_words(tmp_path, word):
    path = tmp_path / "study.yaml"
    path.write_text(
        f"name: s\nbaselines: no\ntasks:\n"
        f"  - {{name: t, train: t.csv, text: [{word}], label: {word}x, id: {word}, "
        f"labels: {{{word}: {word}, 1: other}}, positive: {word}}}\n"
        "pairs: [{teacher: a, student: b, teacher_is_trained: on}]\n"
    )
    study = read_study(path)
    (task,) = study.tasks
    assert (task.text, task.id, task.positive) == ((word,), word, word)
    assert task.labels == {word: word, "1": "other"}
    assert study.baselines is False
    assert study.pairs[0].teacher_is_trained is True


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no study file at .*nope\.yaml"):
        read_study(tmp_path / "nope.yaml")


def test_every_field_of_the_schema_is_closed():
    schema = Study.model_json_schema()
    for name, part in {"Study": schema, **schema["$defs"]}.items():
        if part.get("type") == "object":
            assert part["additionalProperties"] is False, name


def test_a_located_study_means_the_same_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text("text,label\nfine,a\n")
    (tmp_path / "enc").mkdir()
    (tmp_path / "enc" / "config.json").write_text("{}")
    study = make_study(
        {
            "base_dir": str(tmp_path),
            "name": "s",
            "tasks": [{"name": "own", "train": "t.csv"}],
            "pairs": [{"teacher": "enc", "student": "distilroberta-base"}],
        }
    )
    located = study.located()
    assert located.tasks[0].train == str(tmp_path / "t.csv")
    assert located.pairs[0].teacher == str(tmp_path / "enc")
    assert located.pairs[0].student == "distilroberta-base"
    assert located.pairs[0].name == study.pairs[0].name
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    values = located.model_dump(mode="json")
    before = [run.run_id for run in make_plan(study).runs]
    assert [run.run_id for run in make_plan(make_study(values)).runs] == before


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000 + "b"], ids=["a part", "a path"])
def test_a_name_longer_than_any_files_leads_to_nothing(name, tmp_path):
    """It is a model of the hub, or told to be no folder; the system's own error is no answer."""
    for pair in ({"teacher": name}, {"student": name}, {"teacher": {"embeddings": name}}):
        study = make_study({**GOOD, "pairs": [{**GOOD["pairs"][0], **pair}]})
        if "/" in name:
            with pytest.raises(InputError, match="no model folder at"):
                make_plan(study)
        else:
            assert name in {
                run.encoder.name for run in make_plan(study).runs if hasattr(run, "encoder")
            }
    for task in ({"hub": name, "train": "train"}, {"train": name}):
        with pytest.raises(InputError, match=r"no folder at|no train file at"):
            make_plan(make_study({**GOOD, "tasks": [{"name": "t", **task}]}))


def test_a_text_with_a_null_is_told():
    assert "'x\\x00y' holds a null character" in problems_of(data_dir="x\0y")


WRONG = [{"from": "x", "odd": 1}, {}, [], [[]], ["x", {}], 3, -0.5, "x", True, None, math.nan]
KD = "student/kd-lora"
SECTIONS: dict[tuple[str | int, ...], tuple[type[BaseModel], Any]] = {  # and one that is right
    (): (Study, GOOD),
    ("tasks", 0): (OwnTask, {"name": "own", "train": "t.csv", "text": "t", "label": "l"}),
    ("pairs", 0): (Pair, GOOD["pairs"][0]),
    ("pairs", 0, "student"): (MadeStudent, {"from": "minilm-l6", "layers": [0, 1]}),
    ("pairs", 0, "student", "vocabulary"): (Vocabulary, {"corpus": "c.txt"}),
    ("pairs", 0, "teacher_outputs"): (TeacherOutputs, {"file": "x.csv"}),
    ("pairs", 0, "teacher"): (ZeroShotTeacher, {"zero_shot": "m"}),
    ("data",): (Data, {}),
    ("unlabelled", "rte"): (Texts, {"file": "x.csv"}),
    ("training",): (Training, {}),
    ("training", "lr"): (LearningRates, {}),
    ("training", "windows"): (Windows, {}),
    ("adapter",): (Adapter, {}),
    ("distillation",): (Distillation, {}),
    ("distillation", "signals"): (Signals, {}),
    ("distillation", "signals", "hidden"): (Hidden, {}),
    ("variations", "x"): (Variation, {"arm": KD, "adapter": {"rank": 4}}),
    ("ablations", 0): (Ablation, {"arm": KD, "vary": {"adapter.rank": [4]}}),
    ("halving",): (Halving, {}),
    ("exclude", 0): (ExcludedCells, {"task": "rte"}),
}


def said_of(values: dict[str, Any]) -> str | None:
    """What is said to be wrong with a study; None where nothing is."""
    try:
        make_study(values)
    except InputError as error:
        return "\n".join(error.problems)
    return None


@pytest.mark.parametrize("section", SECTIONS, ids=lambda place: ".".join(map(str, place)) or "top")
def test_whatever_stands_where_something_else_belongs_is_told(section):
    model, right = SECTIONS[section]
    refused = 0
    for name, field in model.model_fields.items():
        for wrong in WRONG if not field.exclude else ():
            values: Any = copy.deepcopy(GOOD) | (
                {"ablations": [{}]} if "ablations" in section else {}
            )
            values |= {"exclude": [{}]} if "exclude" in section else {}
            around = values
            for part in section[:-1]:
                around = around[part] if isinstance(part, int) else around.setdefault(part, {})
                if isinstance(around, str):
                    around = values["pairs"][0]["student"] = {"from": "minilm-l6"}
            key = field.alias or name
            made = copy.deepcopy(right) | {key: wrong}
            if section:
                around[section[-1]] = made
            else:
                values = made
            told = said_of(values)
            assert told is None or told.strip(), (section, key, wrong)
            refused += key in (told or "")
    assert refused
