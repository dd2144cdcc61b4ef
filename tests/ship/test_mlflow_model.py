"""The saved student in a real MLflow store: loaded by mlflow itself, it answers as predict does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from typer.testing import CliRunner

import kdlora
from kdlora import extras
from kdlora.cli.app import app
from kdlora.errors import InputError, StoreError
from kdlora.mirrors.mirror import mirror_study
from kdlora.ship.calibration import calibrate_folder
from kdlora.ship.mlflow_model import log_students

if TYPE_CHECKING:
    from mlflow import MlflowClient

TEXTS = ["the film was good", "a dull evening", "neither"]


@pytest.fixture(scope="module")
def study(tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny study whose records are mirrored and whose student is logged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        root = tmp_path_factory.mktemp("logged") / "study"
        shutil.copytree(tiny_study, root)
        mirror_study(root)
        (student,) = log_students(root)
        assert student.added
    return root


@pytest.fixture(autouse=True)
def no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # which mlflow.set_tracking_uri sets


@pytest.fixture
def store(study: Path, no_address: None) -> MlflowClient:
    """MLflow as another program finds it, loaded only here: it takes every worker seconds."""
    import mlflow

    uri = f"sqlite:///{study / 'mlflow.db'}"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    yield mlflow.MlflowClient(uri)
    mlflow.set_tracking_uri(before)


def logged(client: MlflowClient):
    experiment = client.get_experiment_by_name("tiny")
    return client.search_logged_models([experiment.experiment_id])


def probabilities(study: Path) -> list[float]:
    return [one["probability"] for one in kdlora.predict(study / "student", TEXTS)]


def test_mlflow_loads_it_and_it_answers_as_predict_does(store: MlflowClient, study: Path) -> None:
    import mlflow

    (model,) = logged(store)
    loaded = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
    assert loaded.metadata.signature.inputs.input_names() == ["review"]
    found = loaded.predict(pd.DataFrame({"review": TEXTS}))
    expected = kdlora.predict(study / "student", TEXTS)
    assert list(found["prediction"]) == [one["label"] for one in expected]
    assert list(found["probability"]) == pytest.approx(probabilities(study), abs=1e-6)
    assert loaded.metadata.signature.outputs.input_names()[0] == "prediction"


def test_it_is_an_output_of_its_run_and_its_files_are_the_student(
    store: MlflowClient, study: Path, tmp_path: Path
) -> None:
    import mlflow

    (model,) = logged(store)
    run = store.get_run(model.source_run_id)
    assert run.data.tags["kdlora.run_id"] == model.tags["kdlora.run_id"]
    assert [one.model_id for one in run.outputs.model_outputs] == [model.model_id]
    place = mlflow.artifacts.download_artifacts(f"models:/{model.model_id}", dst_path=str(tmp_path))
    (weights,) = Path(place).rglob("model.safetensors")
    assert weights.read_bytes() == (study / "student" / "model.safetensors").read_bytes()
    assert "kdlora[train]==" in (Path(place) / "requirements.txt").read_text()


def test_again_adds_nothing_and_a_student_that_changed_replaces_it(
    store: MlflowClient, study: Path, tmp_path: Path
) -> None:
    import mlflow

    (before,) = logged(store)
    (again,) = log_students(study)
    assert not again.added
    assert again.uri == f"models:/{before.model_id}"
    calibrate_folder(study, temperature=True, threshold=None)
    (changed,) = log_students(study)
    assert changed.added
    (after,) = logged(store)
    assert after.model_id != before.model_id
    found = mlflow.pyfunc.load_model(changed.uri).predict(pd.DataFrame({"review": TEXTS}))
    assert list(found["probability"]) == pytest.approx(probabilities(study), abs=1e-6)


def test_the_command_says_what_the_model_is_called(study: Path) -> None:
    done = CliRunner().invoke(app, ["track", str(study), "--models"])
    assert done.exception is None, done.output
    assert f"{study / 'student'} is the model 'moods student-" in done.output
    assert "models:/m-" in done.output


def test_what_cannot_be_logged_is_one_message(study: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    root = tmp_path / "study"
    shutil.copytree(study, root, ignore=shutil.ignore_patterns("mlflow-artefacts", "cache"))
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    for run in client.search_runs([client.get_experiment_by_name("tiny").experiment_id]):
        client.delete_run(run.info.run_id)
    with pytest.raises(StoreError, match="has no entry in MLflow's experiment"):
        log_students(root)
    with pytest.MonkeyPatch.context() as patch:
        there = {"mlflow", "sqlalchemy", "alembic"}
        patch.setattr(extras, "find_spec", lambda name: name if name in there else None)
        with pytest.raises(InputError, match=r"logging a model needs torch,.*'kdlora\[train\]'"):
            log_students(root)
    shutil.rmtree(root / "student")
    with pytest.raises(StoreError, match="saved no student"):
        log_students(root)
    done = CliRunner().invoke(app, ["track", str(root), "--trackio", "--models"])
    assert isinstance(done.exception, InputError)
    assert "--models are of MLflow" in str(done.exception)
