"""Which model a name means: of the hub from its cache, of a study its student, of a run its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from kdlora.errors import InputError, KdloraError, ModelError
from kdlora.ship import named_model
from kdlora.ship.named_model import model_folder, saved_students
from kdlora.ship.predict import load_predictor
from kdlora.ship.source import find_source
from tests.harness.exported import LABELS, save_exported

COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub with one model, me/moods, as a download leaves it; the hub is away."""
    cache = tmp_path / "hub"
    made = save_exported(tmp_path / "made")
    repository = cache / "models--me--moods"
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for number, file in enumerate(path for path in sorted(made.rglob("*")) if path.is_file()):
        blob = repository / "blobs" / str(number)
        blob.write_bytes(file.read_bytes())
        link = repository / "snapshots" / COMMIT / file.relative_to(made)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return cache


def test_a_model_of_the_hub_answers_by_its_name(hub: Path) -> None:
    predictor = load_predictor("me/moods")
    (answer,) = predictor([["good film"]])
    assert answer["label"] in LABELS


def test_a_local_folder_of_that_name_goes_first(hub: Path, tmp_path: Path) -> None:
    local = save_exported(tmp_path / "me" / "moods")
    assert model_folder("me/moods").resolve() == local.resolve()


@pytest.mark.parametrize("ask", [load_predictor, find_source])
def test_what_the_hub_cannot_give_is_one_message(hub: Path, ask) -> None:
    with pytest.raises(ModelError) as caught:
        ask("me/other")
    (problem,) = caught.value.problems
    assert "there is no folder me/other, and the hub cannot be asked" in problem
    assert "hf download me/other" in problem


@pytest.mark.parametrize("given", ["results/studnet", "reslts/student", "Results/student"])
def test_a_slip_in_the_name_of_a_folder_is_told_and_the_hub_not_asked(
    hub: Path, tmp_path: Path, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_exported(tmp_path / "results" / "student")
    monkeypatch.setattr(named_model, "fetch_model", None)
    with pytest.raises(ModelError, match="Did you mean 'results/student'"):
        model_folder(given)


@pytest.mark.parametrize("path", ["./me/moods", "../x", "a/b/c", "results", "me/.hidden", "/a/b"])
def test_what_is_no_name_of_the_hub_is_a_path(hub: Path, path: str) -> None:
    assert model_folder(path) == Path(path)


def test_an_export_of_a_model_without_its_run_says_what_is_missing(hub: Path) -> None:
    with pytest.raises(KdloraError, match="which is not beside it"):
        find_source("me/moods")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a study below `results` with two runs, of one of which it saved a student."""
    root = tmp_path / "results" / "mine"
    for run in ("moods-student-s1", "moods-student-s2"):
        (root / "runs" / run).mkdir(parents=True)
    (root / "plan.json").write_text("{}")
    save_exported(root / "student")
    monkeypatch.chdir(tmp_path)
    return root


def test_a_study_is_its_student_by_folder_and_by_name(study: Path) -> None:
    assert model_folder(study) == study / "student"
    assert model_folder("mine").resolve() == study / "student"
    assert load_predictor("mine").card.label_names == LABELS


def test_of_several_students_one_has_to_be_named(study: Path) -> None:
    (study / "student").rename(study / "moods--a")
    for name in ("moods--a", "moods--b"):
        shutil.copytree(study / "moods--a", study / "student" / name)
    assert saved_students(study) == [study / "student" / n for n in ("moods--a", "moods--b")]
    with pytest.raises(ModelError, match=r"saved 2 students; name one of them: .*moods--a, "):
        model_folder(study)
    assert model_folder(study / "student" / "moods--b") == study / "student" / "moods--b"


def test_a_study_without_a_student_says_what_to_do(study: Path) -> None:
    shutil.rmtree(study / "student")
    with pytest.raises(ModelError, match=rf"saved no student.*name a run: {study}:RUN_ID"):
        model_folder(study)


def test_a_run_is_found_by_its_id_or_a_part_of_it(study: Path) -> None:
    expected = study / "runs" / "moods-student-s2"
    for name in (f"{study}:moods-student-s2", f"{study}:s2", "mine:s2"):
        assert model_folder(name).resolve() == expected
    with pytest.raises(InputError, match="fits 2 runs"):
        model_folder(f"{study}:moods")
    with pytest.raises(InputError, match=r"has no run 'moods-studnet-s1'.*moods-student-s1"):
        model_folder(f"{study}:moods-studnet-s1")


def test_a_folder_without_runs_has_none_of_any_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no runs, so none is called 's1'$"):
        model_folder(f"{tmp_path}:s1")


def test_a_model_that_lies_in_a_folder_with_a_plan_is_itself(study: Path) -> None:
    (study / "config.json").write_text("{}")
    assert model_folder(study) == study
