"""The mirror beside a running study: it takes what ends, and its troubles stay its own."""

from __future__ import annotations

import pytest

from kdlora.errors import InputError
from kdlora.mirrors import mlflow as mlflow_mirror
from kdlora.mirrors.mirror import Target
from kdlora.mirrors.tracker import Tracker
from kdlora.records.frame import save_plan
from kdlora.records.store import Store
from kdlora.spec.plan import make_plan
from tests.harness.records import record_of


@pytest.fixture
def study(corner, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    spec = corner.study(baselines=False, arms=["teacher/fft", "student/lora"])
    plan, store = make_plan(spec), Store(tmp_path / "study")
    store.prepare()
    save_plan(store, spec, plan)
    return plan.runs, store


def finish(store, run) -> dict:
    record = record_of(run)
    store.begin(run)
    store.finish(record)
    return {"done": record}


def test_what_ends_is_entered_and_so_is_what_others_did(study):
    from mlflow.tracking import MlflowClient  # seconds, which every worker of the tests would pay

    (teacher, student), store = study
    notes = []
    with Tracker(store.root, on_note=notes.append) as tracker:
        tracker.on_event(teacher, {"start": True})
        tracker.on_event(teacher, finish(store, teacher))
        finish(store, student)  # by another process: nobody tells this tracker
    assert notes == []
    client = MlflowClient(f"sqlite:///{store.root / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    names = [run.data.tags["kdlora.run_id"] for run in runs]
    assert sorted(names) == sorted([teacher.run_id, student.run_id])


def test_a_server_that_fails_is_warned_of_once_and_the_study_goes_on(study, monkeypatch):
    monkeypatch.setitem(mlflow_mirror._PATIENCE, "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (teacher, student), store = study
    notes = []
    with Tracker(store.root, Target(uri="http://127.0.0.1:9"), on_note=notes.append) as tracker:
        for run in (teacher, student):
            tracker.on_event(run, finish(store, run))
    (note,) = notes
    assert "the study goes on" in note
    assert f"`kdlora track {store.root} --to http://127.0.0.1:9`" in note
    assert store.is_done(student.run_id)


def test_a_server_that_hangs_does_not_hold_the_study_up(study, monkeypatch):
    import threading

    forever = threading.Event()
    monkeypatch.setattr("kdlora.mirrors.tracker.open_mirror", lambda *a, **k: forever.wait())
    notes = []
    with Tracker(study[1].root, on_note=notes.append, patience_s=0.05):
        pass
    forever.set()
    assert "within 0 s" in notes[0]


def test_no_address_is_said_before_anything_runs(study):
    with pytest.raises(InputError, match="Did you mean 'https'"):
        Tracker(study[1].root, Target(uri="htps://team"))
