"""The mirror in a real SQLite database, read back by mlflow itself."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from kdlora import extras
from kdlora.errors import InputError, StoreError
from kdlora.importing.results import read_results
from kdlora.mirrors import entries
from kdlora.mirrors.mirror import mirror_study, open_mirror
from kdlora.mirrors.mlflow import resolve_uri
from kdlora.records.store import Store
from tests.harness.records import half_done_study, record_of


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory) -> Path:
    """A database with mlflow's tables, made once: that takes seconds."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def study(corner, tmp_path, empty_database, monkeypatch):
    """A folder with the tiny study's plan, a done teacher, a done and a failed student."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store, arms = half_done_study(corner.study(baselines=False), tmp_path / "study")
    shutil.copy(empty_database, store.root / "mlflow.db")
    return store, arms


def mirrored(store: Store, name: str = "tiny"):
    """All live entries, by kdlora's run id, as another program would read them."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{store.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    ids = [run.data.tags["kdlora.run_id"] for run in runs]
    assert len(ids) == len(set(ids)), "a record was entered twice"
    return client, dict(zip(ids, runs, strict=True))


def test_every_record_is_entered_with_axes_measures_curve_and_flags(study):
    store, arms = study
    done = mirror_study(store.root)
    assert (done.added, done.replaced, done.kept) == (3, 0, 0)
    client, runs = mirrored(store)

    student = runs[arms["student/kd-lora"].run_id]
    assert student.info.status == "FINISHED"
    assert student.info.end_time - student.info.start_time == 60_000
    assert student.data.params["arm"] == "student/kd-lora"
    assert student.data.params["adapter.rank"] == "4"
    assert student.data.params["lr"] == "0.01"
    assert student.data.params["kd.temperature"] == "2.0"
    assert student.data.params["teacher_run_id"] == arms["teacher/fft"].run_id
    measured = student.data.metrics
    assert measured["report/accuracy"] == measured["score"] == 0.75
    assert measured["teacher/agreement"] == 0.9
    assert measured["efficiency/train_s"] == 1.5
    assert "selection/mcc" not in measured  # undefined is not zero
    assert student.data.tags["kdlora.flags"] == "barely_trained"
    assert student.data.tags["kdlora.flag.barely_trained"] == "warning: 20 steps"
    assert student.data.tags["kdlora.report"] == str(store.root / "report.html")
    assert "kd.temperature" not in runs[arms["teacher/fft"].run_id].data.params
    curve = client.get_metric_history(student.info.run_id, "learning/selection_accuracy")
    assert [(point.step, point.value) for point in curve] == [(10, 0.6), (20, 0.8)]

    failed = runs[arms["student/lora"].run_id]
    assert failed.info.status == "FAILED"
    assert failed.data.tags["kdlora.error"] == "no memory"


def test_the_mirror_is_imported_as_the_records_are(study):
    store, arms = study
    mirror_study(store.root)
    frame = read_results(store.root / "mlflow.db").frame
    found = {row["arm"]: row for row in frame.to_dict("records")}
    assert sorted(found) == sorted(("teacher/fft", "student/kd-lora", "student/lora"))
    assert found["student/lora"]["status"] == "failed"
    for arm in ("teacher/fft", "student/kd-lora"):
        record = store.read(arms[arm].run_id)
        assert found[arm]["run_id"] == record.run_id
        assert found[arm]["score"] == found[arm]["report.accuracy"] == record.quality.score
        assert found[arm]["train_s"] == record.efficiency.train_s
        assert found[arm]["trainable_params"] == record.efficiency.trainable_params
        assert (found[arm]["task"], found[arm]["seed"]) == ("moods", record.run.seed)
    assert found["student/kd-lora"]["teacher_run_id"] == arms["teacher/fft"].run_id
    assert found["student/kd-lora"]["rank"] == 4
    student = frame.set_index("arm").loc["student/kd-lora"]
    assert student["flags"] == ("barely_trained",)
    assert student["flag_severities"] == ("warning",)


def test_mirroring_again_adds_only_what_changed(study):
    store, arms = study
    mirror_study(store.root)
    before = {k: run.info.run_id for k, run in mirrored(store)[1].items()}
    again = mirror_study(store.root)
    assert (again.added, again.replaced, again.kept) == (0, 0, 3)
    assert {k: run.info.run_id for k, run in mirrored(store)[1].items()} == before

    store.finish(record_of(arms["student/lora"], accuracy=0.5))
    store.begin(arms["student/fft"])
    store.finish(record_of(arms["student/fft"]))
    later = mirror_study(store.root)
    assert (later.added, later.replaced, later.kept) == (1, 1, 2)
    runs = mirrored(store)[1]
    assert runs[arms["student/lora"].run_id].info.status == "FINISHED"
    assert runs[arms["student/lora"].run_id].data.metrics["score"] == 0.5


def test_an_entry_that_was_torn_is_made_anew(study, monkeypatch):
    store, arms = study
    mirror = open_mirror(store.root)
    record = store.read(arms["teacher/fft"].run_id)

    def breaks(*arguments, **named):
        raise ConnectionError("the cable")

    with monkeypatch.context() as patch:
        patch.setattr(type(mirror.sink.client), "set_tag", breaks)
        with pytest.raises(ConnectionError):
            mirror.add(record)
    assert mirrored(store)[1]  # half of it is there
    assert mirror.add(record) == "replaced"
    assert mirror.add(record) == "kept"
    assert entries.COMPLETE in mirrored(store)[1][record.run_id].data.tags


def test_two_mirrors_at_once_enter_no_record_twice(study):
    store, _ = study
    open_mirror(store.root)  # the experiment exists
    results = []

    def work():
        results.append(mirror_study(store.root))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(result.added for result in results) == 3
    assert sum(result.replaced for result in results) == 0
    assert len(mirrored(store)[1]) == 3


def test_artefacts_are_the_files_of_the_run(study):
    store, arms = study
    mirror_study(store.root, artefacts=True)
    client, runs = mirrored(store)
    run_id = arms["teacher/fft"].run_id
    names = {item.path for item in client.list_artifacts(runs[run_id].info.run_id)}
    assert names == {"record.json", "spec.json", "history.jsonl"}


def test_where_to(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert resolve_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert resolve_uri(str(tmp_path / "team.db"), tmp_path) == f"sqlite:///{tmp_path}/team.db"
    assert resolve_uri("http://team:5000", tmp_path) == "http://team:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://other")
    assert resolve_uri(None, tmp_path) == "https://other"
    for wrong, hint in (
        ("htpp://team:5000", "Did you mean 'http'"),
        (str(tmp_path), "it is a folder"),
        (str(tmp_path / "none" / "x.db"), "there is no folder"),
    ):
        with pytest.raises(InputError, match=hint):
            resolve_uri(wrong, tmp_path)


def test_without_mlflow_the_message_names_the_extra(study, monkeypatch):
    store, _ = study
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "alembic" else name)
    with pytest.raises(InputError, match=r"needs alembic,.*: pip install 'kdlora\[mlflow\]'"):
        open_mirror(store.root)


def test_a_folder_without_a_study_is_named(tmp_path):
    with pytest.raises(StoreError, match="holds no study"):
        mirror_study(tmp_path)
