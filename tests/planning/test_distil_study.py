"""What `kdlora distil` means as a study, from the command line and from Python alike."""

from __future__ import annotations

import inspect

import pytest

import kdlora
from kdlora.cli.study import distil as command
from kdlora.errors import InputError
from kdlora.planning.distil_study import DistilArguments, task_name_of
from kdlora.planning.distil_study import distil_study as study_of
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan
from kdlora.spec.run import DistilledRun, EmbeddingsTeacherRun
from tests.harness.moods import sentences, write_csv

ENCODERS = {"teacher": "minilm-l6", "student": "minilm-l3"}


def distil_study(**arguments):
    return study_of(DistilArguments(**arguments))


RUNNING = {"strict", "out", "workers", "threads", "on_event", "on_note"}  # not of the study


@pytest.fixture
def files(tmp_path):
    texts, moods = sentences(60, 0)
    write_csv(tmp_path / "few.csv", review=texts, mood=moods)
    write_csv(tmp_path / "many.csv", review=sentences(80, 1)[0])
    write_csv(tmp_path / "more.csv", review=sentences(20, 2)[0])
    return tmp_path


def columns(folder) -> dict:
    return {"train": folder / "few.csv", "text": "review", "label": "mood", **ENCODERS}


def test_texts_without_labels_teach_the_distilled_student_alone(files):
    study = distil_study(**columns(files), unlabelled=[files / "many.csv", files / "more.csv"])
    runs = make_plan(study).runs
    taught = {run.arm: run for run in runs if isinstance(run, DistilledRun)}
    assert taught.keys() == {"student/kd-lora"}
    sources = taught["student/kd-lora"].unlabelled
    assert [(source.file, source.text) for source in sources] == [
        (str(files / name), ("review",)) for name in ("many.csv", "more.csv")
    ]
    alone = distil_study(**columns(files), unlabelled=files / "many.csv")
    assert [texts.file for texts in alone.tasks[0].unlabelled] == [str(files / "many.csv")]


def test_the_texts_of_training_pairs_may_make_more_pairs(files):
    texts = sentences(60, 0)[0]
    write_csv(files / "pairs.csv", a=texts, b=texts[::-1], mood=["alike", "other"] * 30)
    given = {"train": files / "pairs.csv", "text": ("a", "b"), "label": "mood", **ENCODERS}
    plan = kdlora.plan(distil_study(**given, unlabelled="recombined"))
    (run,) = (run for run in plan.runs if isinstance(run, DistilledRun))
    assert [(source.file, source.text) for source in run.unlabelled] == [("recombined", ("a", "b"))]
    with pytest.raises(InputError, match="recombined makes pairs anew, but the task has one text"):
        kdlora.plan(distil_study(**columns(files), unlabelled="recombined"))


def test_all_that_is_wrong_with_the_files_comes_in_one_message(files):
    write_csv(files / "other.csv", reviews=["x"])
    with pytest.raises(InputError) as caught:
        kdlora.plan(distil_study(**columns(files), unlabelled=files / "other.csv"))
    assert "has no column 'review'. Did you mean 'reviews'?" in str(caught.value)
    with pytest.raises(InputError) as caught:
        kdlora.plan(
            distil_study(**columns(files) | {"train": "no.csv"}, unlabelled=["a.csv", "b.csv"])
        )
    assert len(caught.value.problems) == 3


def test_settings_by_name_are_those_of_their_sections(files):
    named = distil_study(**columns(files), epochs=7, lr=2e-4, rank=4, kd_weight=0.9, max_train=50)
    assert (named.training.epochs, named.adapter.rank, named.data.max_train) == (7, 4, 50)
    assert named.training.lr.fft == named.training.lr.peft == 2e-4
    assert named.distillation.kd_weight == 0.9
    sections = {"training": {"warmup": 0.2}}
    both = distil_study(**columns(files), epochs=7, sections=sections)
    assert (both.training.epochs, both.training.warmup) == (7, 0.2)
    assert sections == {"training": {"warmup": 0.2}}  # what the user holds is not changed


def test_the_command_and_both_functions_take_the_same_arguments():
    study = inspect.signature(DistilArguments).parameters
    python = inspect.signature(kdlora.distil).parameters
    shell = set(inspect.signature(command).parameters) - RUNNING
    assert set(python) - RUNNING == set(study)
    assert {"seeds" if name == "seed" else name for name in shell} == set(study) - {"sections"}
    for name, parameter in study.items():
        assert parameter.default == python[name].default, name
    documented = kdlora.distil.__doc__
    assert all(f"{name}" in documented for name in python)


@pytest.fixture
def answers(files):
    """Texts without labels, what a model says of them and of the labelled ones, and those."""
    texts, moods = sentences(400, 5)
    write_csv(files / "texts.csv", review=texts[:240])
    write_csv(files / "gold.csv", review=texts[240:], mood=moods[240:])
    write_csv(files / "answers.csv", review=texts, mood=moods)
    return files


def without_labels(folder, **changes) -> dict:
    values = {"train": folder / "texts.csv", "eval": folder / "gold.csv", "text": "review"}
    values |= {"label": "mood", "student": "minilm-l3"}
    return values | {"teacher_outputs": folder / "answers.csv"} | changes


def test_a_file_of_answers_teaches_texts_without_labels(answers):
    study = distil_study(**without_labels(answers))
    assert study.arms == ["teacher/given", "student/kd-lora"]
    outputs = study.pairs[0].teacher_outputs
    assert (outputs.kind, outputs.label) == ("labels", None)
    plan = kdlora.plan(study)
    assert [run.title for run in plan.runs] == study.arms
    assert [source.is_rest for source in plan.runs[1].unlabelled] == [True]


def test_a_column_of_labels_that_is_empty_is_none(answers):
    texts = sentences(60, 8)[0]
    write_csv(answers / "empty.csv", review=texts, mood=[""] * 60)
    given = without_labels(answers, train=answers / "empty.csv")
    assert distil_study(**given).arms == ["teacher/given", "student/kd-lora"]
    write_csv(answers / "one.csv", review=texts, mood=[*[""] * 59, "pos"])
    given = without_labels(answers, train=answers / "one.csv")
    assert "student/lora" in distil_study(**given).arms


def test_labels_that_are_there_train_the_controls(answers):
    study = distil_study(**without_labels(answers, train=answers / "few.csv"))
    assert study.arms == [
        "teacher/given",
        "student/fft",
        "student/lora",
        "student/frozen",  # of fewer than 200 labels
        "student/kd-lora",
    ]


@pytest.mark.parametrize(
    ("columns", "changes", "kind"),
    [
        ({"mood": ["pos"]}, {}, "labels"),
        ({"pos": [0.5], "neg": [0.5]}, {}, "probabilities"),
        ({"score": [3.5]}, {}, "scores"),
        ({"verdict": ["pos"]}, {"outputs_label": "verdict"}, "labels"),
        ({"pos": [3], "neg": [0]}, {"outputs_kind": "votes"}, "votes"),
        ({"mood": ["pos|neg"]}, {"label_separator": "|"}, "labels"),
        ({"mood": ['["pos"]']}, {"kind": "multilabel"}, "labels"),
        ({"pos": [0.9], "neg": [0.8]}, {"label_separator": "|"}, "probabilities"),
        ({"pos": [0.9], "neg": [0.8]}, {"labels": ("pos", "neg")}, "probabilities"),
        (
            {"mood": ["pos;neg"]},
            {"labels": ("pos", "neg"), "outputs_separator": ";"},
            "labels",
        ),
    ],
)
def test_a_files_columns_tell_what_it_holds(answers, columns, changes, kind):
    write_csv(answers / "said.csv", review=["x"], **columns)
    given = without_labels(answers, teacher_outputs=answers / "said.csv", **changes)
    assert distil_study(**given).pairs[0].teacher_outputs.kind == kind


def test_rows_without_any_label_are_labelled_rows(answers):
    texts = sentences(240, 9)[0]
    write_csv(answers / "tags.csv", review=texts, mood=["pos", "", ""] * 80)
    given = {"train": answers / "tags.csv", "text": "review", "label": "mood", **ENCODERS}
    assert "student/frozen" not in distil_study(**given, label_separator="|").arms
    assert "student/frozen" in distil_study(**given).arms  # 80 labels


def test_a_teachers_separator_is_the_tasks_where_none_is_given(answers):
    write_csv(answers / "tags.csv", review=["x"] * 20, mood=["pos|neg", ""] * 10)
    write_csv(answers / "said.csv", review=["x"], mood=["pos"])
    given = without_labels(answers, teacher_outputs=answers / "said.csv", label_separator="|")
    given |= {"train": answers / "tags.csv", "eval": None}
    for changes, separator in (({}, "|"), ({"outputs_separator": ";"}, ";")):
        plan = make_plan(distil_study(**given, **changes))
        (outputs,) = (run.outputs for run in plan.runs if run.title == "teacher/given")
        assert outputs.label_separator == separator


def test_weights_of_classes_are_given_by_option_and_by_argument(files, monkeypatch):
    from typer.testing import CliRunner

    from kdlora.cli import study as module
    from kdlora.cli.app import app

    seen = []
    monkeypatch.setattr(module, "_run", lambda study, *rest, **options: seen.append(study.training))
    words = ["distil", "--train", str(files / "few.csv"), "--text", "review", "--label", "mood",
             "--teacher", "minilm-l6", "--student", "minilm-l3"]  # fmt: skip

    def said(*more: str):
        result = CliRunner().invoke(app, [*words, *more], catch_exceptions=True)
        return seen.pop() if seen else str(result.exception or result.output)

    assert said("--class-weights", "balanced", "--focal", "2").weighting == {
        "class_weights": "balanced",
        "focal": "2",
    }
    weights = {"pos": 10.0, "a=b": 0.5}
    named = ("--class-weights", "pos=10", "--class-weights", "a=b=0.5")
    assert said(*named).class_weights == weights
    assert said().weighting == {}
    assert "expected balanced alone, or CLASS=WEIGHT" in said("--class-weights", "pos=many")
    assert "expected balanced alone" in said(
        "--class-weights", "balanced", "--class-weights", "pos=2"
    )
    assert "twice" in said("--class-weights", "pos=2", "--class-weights", "pos=3")
    python = distil_study(**columns(files), class_weights=weights, focal=2)
    assert python.training.weighting == {"class_weights": "a=b 0.5, pos 10", "focal": "2"}


def test_a_file_that_is_not_there_is_the_only_problem(answers):
    given = without_labels(answers, teacher_outputs="nowhere.csv", kind="classification")
    with pytest.raises(InputError) as caught:
        kdlora.plan(distil_study(**given))
    (problem,) = caught.value.problems
    assert "teacher_outputs: no file at nowhere.csv" in problem


def test_a_teacher_that_answers_by_entailment(answers):
    given = without_labels(answers, teacher_outputs=None, teacher="an/nli-model")
    study = distil_study(**given, hypothesis="The mood is {}.")
    assert study.pairs[0].zero_shot.hypothesis == "The mood is {}."
    assert study.pairs[0].teacher == "an/nli-model"
    assert study.arms == ["teacher/given", "student/kd-lora"]


def test_a_linear_model_on_embeddings_teaches_beside_arms_that_learn_from_labels(
    files,
):
    study = distil_study(**columns(files), teacher_embeddings=True)
    assert study.arms[0] == "teacher/given"
    assert {"student/fft", "student/lora", "student/kd-lora"} < set(study.arms)  # and the controls
    (teacher,) = (run for run in make_plan(study).runs if run.role == "teacher")
    assert isinstance(teacher, EmbeddingsTeacherRun)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher_outputs": None}, "who teaches"),
        ({"teacher": "minilm-l6"}, "two teachers"),
        ({"hypothesis": "{}"}, "name it as teacher"),
        ({"teacher_embeddings": True}, "name it as teacher"),
        (
            {
                "teacher_outputs": None,
                "teacher": "x",
                "teacher_embeddings": True,
                "hypothesis": "{}",
            },
            "two ways to teach",
        ),
        (
            {
                "teacher_outputs": None,
                "teacher": "x",
                "teacher_embeddings": True,
                "teacher_is_trained": False,
            },
            "leave it out here",
        ),
        ({"teacher_outputs": None, "teacher": "x", "confidence": "c"}, "confidence is of a teach"),
        ({"teacher_is_trained": True}, "leave it out here"),
    ],
)
def test_teachers_that_contradict_each_other(answers, changes, message):
    with pytest.raises(InputError, match=message):
        distil_study(**without_labels(answers, **changes))


def test_arms_that_have_nothing_to_learn_from_are_refused(answers):
    study = distil_study(**without_labels(answers))
    more = make_study(
        study.model_dump() | {"arms": ["student/lora", *study.arms], "baselines": True}
    )
    with pytest.raises(InputError) as caught:
        kdlora.plan(more)
    assert "student/lora learns from labels, but no train row of task 'texts'" in str(caught.value)
    assert "no train row has a label: set baselines: false" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "joins"),
    [
        ({}, True),
        ({"windows": "mean"}, True),
        ({"windows": {"stride": 4}}, True),
        ({"windows": "max"}, False),  # a frozen encoder's head is fitted to means
        ({"sections": {"training": {"windows": {"pooling": "max"}}}}, False),
    ],
)
def test_a_frozen_encoder_joins_few_labels_where_it_can_read_the_texts(tmp_path, options, joins):
    file = tmp_path / "few.csv"
    file.write_text("text,label\n" + "good,yes\nbad,no\n" * 10)
    study = distil_study(train=file, **ENCODERS, **options)
    arms = [str(planned) for planned in study.planned_arms()]
    assert ("student/frozen" in arms) == joins


def test_files_that_differ_after_a_dot_name_different_tasks() -> None:
    names = ["rev.csv", "rev.2023.csv", "rev.2024.csv.gz"]
    assert [task_name_of(name) for name in names] == ["rev", "rev-2023", "rev-2024"]
