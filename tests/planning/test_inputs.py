"""What a run would refuse, a plan refuses: one check for both, before anything is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import kdlora
from kdlora.errors import InputError
from tests.harness.moods import Corner, sentences, write_csv
from tests.harness.tiny_models import save_tiny_encoder

ARMS = ["teacher/fft", "student/kd-lora"]


def pair(corner: Corner, **changes: object) -> list[dict]:
    return [{"name": "p", "teacher": corner.teacher, "student": corner.student} | changes]


def from_file(corner: Corner, path: Path, **outputs: object) -> list[dict]:
    told = {"file": str(path), "kind": "probabilities"} | outputs
    return [{"name": "p", "student": corner.student, "teacher_outputs": told}]


def own_rows(corner: Corner, folder: Path, **columns: list) -> list[dict]:
    """The corner's task, read from a file of 60 rows with some columns replaced."""
    texts, moods = sentences(60, 0)
    path = write_csv(folder / "train.csv", **{"review": texts, "mood": moods} | columns)
    return [{"name": "moods", "train": str(path), "eval": corner.eval, "text": "review",
             "label": "mood"}]  # fmt: skip


def lacks_class_columns(corner, folder):
    path = write_csv(folder / "said.csv", review=["x"], positive=[1])
    return {"pairs": from_file(corner, path)}


def holds_no_classes(corner, folder):
    path = write_csv(folder / "said.csv", review=["x"], mood=["unsure"])
    return {"pairs": from_file(corner, path, kind="labels")}


def holds_other_texts(corner, folder):
    path = write_csv(folder / "said.csv", review=["x"], pos=[1], neg=[0])
    return {"pairs": from_file(corner, path)}


def texts_without_the_column(corner, folder):
    return {"unlabelled": {"moods": str(write_csv(folder / "more.csv", text=["a"]))}}


def texts_of_the_report_split(corner, folder):
    return {"unlabelled": {"moods": corner.eval}}


def labels_that_train_lacks(corner, folder):
    return {"tasks": own_rows(corner, folder, mood=["pos", "great"] * 30)}


def labels_that_are_missing(corner, folder):
    return {"tasks": own_rows(corner, folder, mood=["pos", ""] * 30)}


def more_tokens_than_positions(corner, folder):
    return {"training": {"max_length": 67}}


def no_weights(corner, folder):
    shutil.copytree(corner.student, folder / "bare")
    (folder / "bare" / "model.safetensors").unlink()
    return {"pairs": pair(corner, student=str(folder / "bare"))}


def no_tokenizer(corner, folder):
    shutil.copytree(corner.student, folder / "mute")
    for path in (folder / "mute").glob("tokenizer*"):
        path.unlink()
    return {"pairs": pair(corner, student=str(folder / "mute"))}


def a_teacher_of_other_classes(corner, folder):
    names = {0: "glad", 1: "sad"}
    model = save_tiny_encoder(
        folder / "given", "bert", head=True, num_labels=2, id2label=names,
        label2id={name: i for i, name in names.items()},
    ).path  # fmt: skip
    return {"pairs": pair(corner, teacher=model, teacher_is_trained=True)}


def timed_beside_a_teacher_without_weights(corner, folder):
    shutil.copytree(corner.teacher, folder / "bare")
    (folder / "bare" / "model.safetensors").unlink()
    return {"arms": ["student/fft"], "pairs": pair(corner, teacher=str(folder / "bare"))}


def weights_of_a_class_that_is_none(corner, folder):
    return {"training": {"class_weights": {"poss": 3}, "max_length": 32}}


def weights_of_numbers(corner, folder):
    numbers = [float(i) for i in range(60)]
    tasks = own_rows(corner, folder, mood=numbers)
    tasks[0] |= {"kind": "regression", "eval": None}
    return {"tasks": tasks, "training": {"focal": 2, "max_length": 32}}


FAULTS = {
    weights_of_a_class_that_is_none: "task 'moods' has no class 'poss'. Did you mean",
    weights_of_numbers: "training.focal: task 'moods' has numbers",
    lacks_class_columns: "has no column 'neg'",
    holds_no_classes: "no answer in column 'mood' is a class of the task",
    holds_other_texts: "answers none of the",
    texts_without_the_column: "has no column 'review'",
    texts_of_the_report_split: "unlabelled texts can be used",
    labels_that_train_lacks: "labels that the train file lacks",
    labels_that_are_missing: "no label in row",
    more_tokens_than_positions: "has positions for 66 tokens",
    no_weights: "expected model.safetensors",
    no_tokenizer: "there is no tokenizer",
    timed_beside_a_teacher_without_weights: "expected model.safetensors",
    a_teacher_of_other_classes: "its outputs are named glad, sad, but those of task 'moods' are",
}


@pytest.mark.parametrize("door", [kdlora.plan, kdlora.run])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_plan_and_run_refuse_alike(corner, tmp_path, monkeypatch, door, fault):
    made = tmp_path / "made"
    made.mkdir()
    values = {"arms": ARMS, "baselines": False, **fault(corner, made)}
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError) as caught:
        door(corner.study(**values))
    assert FAULTS[fault] in str(caught.value)
    assert not list((tmp_path / "here").iterdir())


def test_what_is_sound_is_planned(corner):
    assert kdlora.plan(corner.study(arms=ARMS)).runs
