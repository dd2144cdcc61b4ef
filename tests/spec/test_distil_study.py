"""What `kdlora distil` means as a study, from the command line and from Python alike."""

from __future__ import annotations

import inspect

import pytest

import kdlora
from kdlora.cli.study import distil as command
from kdlora.errors import InputError
from kdlora.spec.distil_study import DistilArguments
from kdlora.spec.distil_study import distil_study as study_of
from kdlora.spec.plan import make_plan
from kdlora.spec.run import DistilledRun
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
