"""The user's choice of engine and mirror: wrong ones are told at once, right ones are followed."""

from __future__ import annotations

import pytest

from kdlora import extras
from kdlora.engines.execution import Execution
from kdlora.errors import InputError
from kdlora.records.frame import save_plan
from kdlora.records.store import Store
from kdlora.spec.plan import make_plan
from tests.harness.records import record_of


def test_all_that_is_wrong_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    execution = Execution("ray", "lokal", mlflow_uri="htp://team")
    with pytest.raises(InputError) as caught:
        execution.check(tmp_path)
    text = str(caught.value)
    assert "pip install 'kdlora[ray]'" in text
    assert "'lokal' is no address of a Ray cluster" in text
    assert "pip install 'kdlora[mlflow]'" in text
    assert "Did you mean 'http'" in text


def test_a_wrong_engine_and_an_address_without_ray(tmp_path):
    with pytest.raises(InputError, match=r"unknown engine 'rey'\. Did you mean 'ray'"):
        Execution("rey").check(tmp_path)
    with pytest.raises(InputError, match="--address auto is for --engine ray"):
        Execution(address="auto").check(tmp_path)
    Execution().check(tmp_path)
    Execution(mlflow=True).check(tmp_path)


def test_a_study_that_is_done_is_mirrored_all_the_same(corner, tmp_path):
    from mlflow.tracking import MlflowClient  # seconds, which every worker of the tests would pay

    spec = corner.study(baselines=False, arms=["teacher/fft"])
    plan, store = make_plan(spec), Store(tmp_path / "study")
    store.prepare()
    save_plan(store, spec, plan)
    (teacher,) = plan.runs
    store.begin(teacher)
    store.finish(record_of(teacher))
    database = tmp_path / "team.db"
    status = Execution(mlflow_uri=str(database)).run_plan(plan, store)
    assert status == {teacher.run_id: "done"}
    client = MlflowClient(f"sqlite:///{database}")
    (run,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert run.data.tags["kdlora.run_id"] == teacher.run_id
