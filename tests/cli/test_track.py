"""`kdlora track`: what it says, twice, and when nothing answers."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from kdlora.cli.app import app
from kdlora.errors import StoreError
from kdlora.mirrors import mlflow as mlflow_mirror
from kdlora.records.frame import save_plan
from kdlora.records.store import Store
from kdlora.spec.plan import make_plan
from tests.harness.records import record_of


@pytest.fixture
def root(corner, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    spec = corner.study(baselines=False, arms=["teacher/fft"])
    plan, store = make_plan(spec), Store(tmp_path / "study")
    store.prepare()
    save_plan(store, spec, plan)
    store.begin(plan.runs[0])
    store.finish(record_of(plan.runs[0]))
    return store.root


def test_it_says_what_it_did(root):
    first = CliRunner().invoke(app, ["track", str(root)])
    assert f"1 records of {root} are in MLflow's experiment 'tiny'" in first.output
    assert "1 added, 0 replaced, 0 there already" in first.output
    again = CliRunner().invoke(app, ["track", str(root)])
    assert "0 added, 0 replaced, 1 there already" in again.output


def test_a_dead_server_is_one_message(root, monkeypatch):
    for name in mlflow_mirror._PATIENCE:
        monkeypatch.setenv(name, "0" if name.endswith("RETRIES") else "2")
    done = CliRunner().invoke(app, ["track", str(root), "--to", "http://127.0.0.1:9"])
    assert isinstance(done.exception, StoreError)
    assert "MLflow at http://127.0.0.1:9 did not take the records" in str(done.exception)
    assert "\n" not in str(done.exception)
