"""What is found before the first run: here, texts longer than an encoder has positions for."""

from __future__ import annotations

import shutil

import pytest

import kdlora
from kdlora.errors import InputError
from kdlora.planning.preflight import preflight
from kdlora.spec.plan import make_plan
from tests.harness.tiny_models import save_tiny_encoder

ARMS = ["teacher/fft", "student/kd-lora"]


def check(corner, max_length: int = 32, **changes) -> list[str]:
    """The problems of a study of the corner at a length."""
    training = {"epochs": 1, "batch_size": 16, "max_length": max_length, "precision": "fp32"}
    study = corner.study(**{"arms": ARMS, "baselines": False, "training": training, **changes})
    try:
        preflight(make_plan(study), lambda note: None)
    except InputError as error:
        return error.problems
    return []


def pair(corner, **changes) -> list[dict]:
    return [{"name": "p", "teacher": corner.teacher, "student": corner.student} | changes]


def test_texts_longer_than_the_positions_are_refused_before_anything_runs(corner, tmp_path) -> None:
    assert check(corner, 66) == []
    problems = check(corner, 67)
    assert len(problems) == 2
    for problem, name, family in zip(
        problems, ("teacher", "student"), ("bert", "distilbert"), strict=True
    ):
        assert problem.startswith(f"{corner.folder / name}: training.max_length is 67, but ")
        assert f"this {family} encoder has positions for 66 tokens. Set training.max" in problem
    training = {"epochs": 1, "max_length": 600}
    with pytest.raises(InputError, match="max_length is 600"):
        kdlora.run(corner.study(training=training), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rows_of_the_table_that_hold_no_token_and_families_without_one(corner, tmp_path) -> None:
    roberta = save_tiny_encoder(tmp_path / "roberta", "roberta").path
    deberta = save_tiny_encoder(tmp_path / "deberta", "deberta-v2").path
    pairs = pair(corner, teacher=deberta, student=roberta)
    assert check(corner, 65, pairs=pairs) == []
    assert ["for 65 tokens" in problem for problem in check(corner, 66, pairs=pairs)] == [True]
    assert len(check(corner, 4000, pairs=pairs)) == 1  # DeBERTa's positions are relative


def test_every_length_that_an_arm_is_trained_at_is_checked(corner) -> None:
    vary = {"arm": "student/kd-lora", "vary": {"training.max_length": [100, 32]}}
    assert [corner.student in problem for problem in check(corner, ablations=[vary])] == [True]


def test_a_teacher_that_reads_at_its_students_length_is_checked_at_it(corner, tmp_path) -> None:
    long = save_tiny_encoder(tmp_path / "long", "bert", max_position_embeddings=130, seed=3).path
    changes = {
        "pairs": pair(corner, student=long),
        "overrides": {"student/kd-lora": {"training": {"max_length": 128}}},
    }
    assert check(corner, **changes) == []  # it labels them at its own length
    changes |= {"distillation": {"signals": {"hidden": 1.0}}}
    changes["variations"] = {
        "kl": {"arm": "student/kd-lora", "distillation": {"signals": {"kl": 1.0}},
               "training": {"max_length": 128}},
    }  # fmt: skip
    problems = check(corner, **changes)
    assert [corner.teacher in problem for problem in problems] == [True]


def test_a_given_teacher_is_checked_too(corner, tmp_path) -> None:
    labels = {"num_labels": 2, "id2label": {0: "neg", 1: "pos"}, "label2id": {"neg": 0, "pos": 1}}
    long = save_tiny_encoder(tmp_path / "long", "bert", max_position_embeddings=130, seed=3).path
    given = save_tiny_encoder(tmp_path / "given", "bert", head=True, **labels).path
    pairs = pair(corner, teacher=given, student=long, teacher_is_trained=True)
    arms = ["teacher/given", "student/kd-lora"]
    assert check(corner, 66, pairs=pairs, arms=arms) == []
    assert [given in problem for problem in check(corner, 100, pairs=pairs, arms=arms)] == [True]


def test_a_teacher_that_students_are_only_timed_beside_is_read_before_they_train(corner, tmp_path):
    alone = {"arms": ["student/fft", "student/lora"]}
    assert check(corner, **alone) == []
    shutil.copytree(corner.teacher, tmp_path / "odd")
    config = tmp_path / "odd" / "config.json"
    config.write_text(config.read_text().replace('"bert"', '"burt"'))
    pairs = pair(corner, teacher=str(tmp_path / "odd"))
    assert ["burt" in problem for problem in check(corner, pairs=pairs, **alone)] == [True]
