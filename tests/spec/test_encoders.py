"""Students that are made of a part of another encoder."""

from __future__ import annotations

import pytest

from kdlora.errors import InputError
from kdlora.spec.check import make_study
from kdlora.spec.encoders import encoder_title
from kdlora.spec.plan import make_plan
from kdlora.spec.run import read_run


@pytest.fixture
def corpus(tmp_path) -> str:
    path = tmp_path / "texts.txt"
    path.write_text("one\ntwo\n", "utf-8")
    return str(path)


def made(student: object, **changes):
    pair = {"teacher": "big", "student": student}
    return make_study({"name": "s", "tasks": ["rte"], "pairs": [pair]} | changes)


def student(spec: object):
    plan = make_plan(made(spec, arms=["student/kd-lora"]))
    return next(run for run in plan.runs if run.role == "student")


def test_a_student_keeps_some_layers_and_some_tokens(corpus):
    run = student({"from": "teacher", "layers": [0, 2], "vocabulary": {"corpus": corpus}})
    assert run.encoder.title == "big[0,2; vocabulary 0.999 of texts.txt]"
    assert run.encoder.vocabulary.keep == 0.999
    assert run.pair == "big--teacher-layers-0-2-vocabulary-0.999"
    assert run.reference.vocabulary is None
    assert read_run(run.model_dump_json()).run_id == run.run_id


def test_what_is_kept_is_part_of_the_id_and_where_the_corpus_lies_is_not(corpus, tmp_path):
    ids = [student({"from": "teacher", "vocabulary": {"corpus": corpus, **more}}).run_id
           for more in ({}, {"keep": 0.9}, {"keep": 0.999}, {"text": "body"})]  # fmt: skip
    assert len(set(ids)) == 3
    copied = tmp_path / "copied.txt"
    copied.write_text("one\ntwo\n", "utf-8")
    assert student({"from": "big", "vocabulary": {"corpus": str(copied)}}).run_id == ids[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"from": "big"}, "says nothing of what is kept: give layers, vocabulary or both"),
        ({"from": "big", "vocabulary": {}}, r"vocabulary\.corpus: is required"),
        ({"from": "big", "vocabulary": {"corpus": "x.txt", "keep": 0}}, "greater than 0"),
        ({"from": "big", "vocabulary": {"corpus": "x.txt", "keep": 1.1}}, "less than or equal to"),
        ({"from": "big", "vocabulary": {"corpus": "x.txt", "kept": 1}}, "Did you mean 'keep'"),
    ],
)
def test_a_student_that_cannot_be_made_is_told(given, message):
    with pytest.raises(InputError, match=message):
        made(given)


def test_trained_weights_of_the_teacher_do_not_go_with_fewer_tokens(corpus):
    given = {"from": "teacher", "layers": [0], "vocabulary": {"corpus": corpus}}
    with pytest.raises(InputError, match="tokens included"):
        make_plan(made(given, arms=["student/kd-lora"], distillation={"start": "teacher"}))


def test_an_encoder_is_called_by_what_is_kept():
    assert encoder_title("big", None) == "big"
    assert encoder_title("big", (0, 2)) == "big[0,2]"


def test_teachers_that_came_before_vocabularies_keep_their_ids():
    ids = {"embeddings": "sst2-teacher-given-s0-8e3fcf6b7273",
           "zero_shot": "sst2-teacher-given-s0-40726fb72c02"}  # fmt: skip
    for way, known in ids.items():
        pair = {"name": "p", "teacher": {way: "a"}, "student": "b"}
        values = {"name": "s", "tasks": ["sst2"], "pairs": [pair], "arms": ["student/kd-lora"]}
        runs = make_plan(make_study(values)).runs
        assert [run.run_id for run in runs if run.role == "teacher"] == [known]
