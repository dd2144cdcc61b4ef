"""`kdlora init`: presets listed, printed and written, the schema, and what is refused."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import yaml
from typer.testing import CliRunner

from kdlora.api import as_study, check
from kdlora.cli.app import app
from kdlora.errors import InputError
from kdlora.spec import presets
from kdlora.spec.plan import make_plan
from kdlora.spec.schema import study_schema
from tests.harness.moods import sentences, write_csv


def kdlora(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["init", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def refused(*arguments: str) -> str:
    with pytest.raises(InputError) as error:
        CliRunner().invoke(app, ["init", *arguments], catch_exceptions=False)
    return str(error.value)


def test_every_preset_is_listed_with_a_line():
    lines, names = kdlora().splitlines(), presets.preset_names()
    assert "glue" in names
    for name in names:
        (line,) = [text for text in lines if text.split()[:1] == [name]]
        assert len(line) > len(name) + 20
        assert len(line) <= 110


@pytest.mark.parametrize("name", presets.preset_names())
def test_a_preset_is_printed_as_it_ships_and_runs_by_its_name(name):
    assert kdlora(name) == presets.read_preset(name)
    assert as_study(name).name == name


def test_the_published_grid():
    plan = make_plan(as_study("glue"))
    runs = [run for run in plan.runs if run.role != "baseline"]
    published = [
        run
        for run in runs
        if run.arm == "teacher/fft"
        or (run.role == "teacher" and run.adaptation != "fft")
        or (run.distillation == "kd" and run.adaptation != "fft")
    ]
    assert len(published) == 1053 == 3 * 9 * 3 * 13
    assert len(runs) == 1053 + 648
    assert len(plan.runs) == 1746
    blocks = Counter((run.pair, run.task.name, run.seed) for run in published)
    assert set(blocks.values()) == {13}
    lora = next(run for run in runs if run.arm == "student/kd-lora")
    assert (lora.lr, lora.adapter.rank, lora.adapter.alpha_value) == (5e-4, 8, 16)


def test_the_matrix_shares_what_it_can():
    plan = make_plan(as_study("matrix"))
    trained = [run for run in plan.runs if run.role != "baseline"]
    # 3 seeds: 2 teachers, 2 students x 2 arms without a teacher, 4 pairs x 2 arms with one
    assert len(trained) == 3 * (2 + 4 + 8)


def test_the_small_grid():
    assert len(make_plan(as_study("glue-small")).runs) == 3 * (2 * 16 + 3)


def test_own_data_is_written_filled_in_and_planned(tmp_path):
    path = tmp_path / "study.yaml"
    said = kdlora("own-data", "--to", str(path))
    assert "kdlora plan" in said
    first, rest = path.read_text().split("\n", 1)
    assert first == "# yaml-language-server: $schema=kdlora.schema.json"
    assert rest == presets.read_preset("own-data")
    assert json.loads((tmp_path / "kdlora.schema.json").read_text()) == study_schema()
    texts, labels = sentences(80, 1)
    write_csv(tmp_path / "train.csv", text=texts, label=labels)
    plan = make_plan(as_study(path))
    assert {run.task.name for run in plan.runs} == {"my-task"}
    assert yaml.safe_load(path.read_text())["name"] == "own-data"


def test_a_language_models_answers_are_read_where_the_preset_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "answers.csv", text=["a film"], label=["Positive"])
    runs = check(as_study("llm-labels")).runs
    taught = [run for run in runs if run.distillation == "kd"]
    assert [(run.pair, run.title) for run in taught if run.seed == 42] == [
        ("llm--minilm-l6", "student/kd-fft"),
        ("llm--minilm-l6", "student/kd-lora"),
        ("llm--minilm-l6", "student/kd-fft[one-epoch]"),
        ("llm--mpnet-base", "student/kd-fft[one-epoch]"),
    ]
    assert all(source.is_rest for run in taught for source in run.unlabelled)
    assert {(run.data.max_train, run.data.max_selection) for run in runs} == {(200, 100)}
    (teacher,) = [run for run in runs if run.role == "teacher"]
    assert teacher.outputs.file == str(tmp_path / "answers.csv")


def test_weights_and_a_teacher_are_tried_each_with_and_without_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part, n in (("train", 1200), ("eval", 100)):
        texts, labels = sentences(n, 1)
        names = ["positive" if label == "pos" else "negative" for label in labels]
        write_csv(tmp_path / f"rare-{part}.csv", text=texts, label=names)
    runs = check(as_study("rare-classes")).runs
    students = {(r.arm, r.training.class_weights) for r in runs if r.role == "student"}
    assert students == {
        (arm, weights)
        for arm in ("student/lora", "student/kd-lora")
        for weights in ("none", "balanced")
    }


def test_a_file_is_not_replaced_unasked(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("mine")
    assert "is there already" in refused("demo", "--to", str(path))
    assert path.read_text() == "mine"
    assert not (tmp_path / "kdlora.schema.json").exists()
    kdlora("demo", "--to", str(path), "--replace")
    assert "name: demo" in path.read_text()


def test_the_schema_is_printed_or_written(tmp_path):
    assert json.loads(kdlora("--schema")) == study_schema()
    path = tmp_path / "any.json"
    kdlora("--schema", "--to", str(path))
    assert json.loads(path.read_text()) == study_schema()


def test_what_is_refused(tmp_path):
    assert "Did you mean 'glue'" in refused("glu")
    assert "give one of them" in refused("glue", "--schema")
    assert "which preset" in refused("--to", str(tmp_path / "a.yaml"))
    assert "no folder" in refused("demo", "--to", str(tmp_path / "no" / "a.yaml"))


def test_a_name_that_is_no_preset_says_which_there_are():
    with pytest.raises(InputError, match=r"neither a study file nor a preset.*Did you mean 'demo'"):
        as_study("demp")
    with pytest.raises(InputError, match=r"no study file at demp\.yaml"):
        as_study("demp.yaml")


def test_a_folder_of_a_presets_name_is_in_nobodys_way(tmp_path, monkeypatch):
    (tmp_path / "glue").mkdir()
    monkeypatch.chdir(tmp_path)
    assert as_study("glue").name == "glue"
