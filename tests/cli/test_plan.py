"""`kdlora plan`: states, costs, and what another seed or arm would change."""

from __future__ import annotations

import gc
import json
import os
import socket
from pathlib import Path

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from kdlora.cli.app import app
from kdlora.errors import InputError
from kdlora.planning.status import study_status, totals
from kdlora.records.contents import HISTORY, sealed
from kdlora.records.store import Store
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan
from tests.harness.records import write_record

STUDY = {
    "name": "s",
    "tasks": ["rte", "mrpc"],
    "pairs": [{"name": "p", "teacher": "minilm-l6", "student": "minilm-l3"}],
    "arms": ["teacher/fft", "student/lora", "student/kd-lora"],
    "seeds": [1, 2],
    "baselines": False,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seed 1 of RTE is done, one record flagged; one run failed, one is damaged."""
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    store = Store(tmp_path / "out")
    runs = make_plan(make_study(STUDY)).runs
    first = [r for r in runs if (r.task.name, r.seed) == ("rte", 1)]
    for run in first:
        write_record(store, run, 100.0)
    path = store.folder(first[1].run_id) / "record.json"
    record = json.loads(path.read_text())
    record["health"] = [{"name": "diverged", "severity": "error", "detail": "x"}]
    path.write_text(json.dumps(sealed(record)))
    mrpc = [r for r in runs if (r.task.name, r.seed) == ("mrpc", 1)]
    for run, name in zip(mrpc, ("failed.json", "record.damaged-0.json"), strict=False):
        store.folder(run.run_id).mkdir(parents=True)
        (store.folder(run.run_id) / name).write_text("{}")
    return tmp_path


def call(folder: Path, *more: str) -> str:
    arguments = ["plan", str(folder / "study.yaml"), "--out", str(folder / "out"), *more]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    assert gc.isenabled()  # the command does without it while it plans
    return done.output


def test_states_costs_and_coverage(folder):
    found = json.loads(call(folder, "--json", "--workers", "2"))
    assert found["states"] == {"done": 2, "flagged": 1, "failed": 1, "damaged": 1, "missing": 7}
    assert (found["complete_blocks"], found["blocks"]) == (1, 4)
    assert found["learnt_from"] == 3
    assert found["left"]["runs"] == 9
    assert found["left"]["wall_s"] == pytest.approx(found["left"]["seconds"] / 2)
    place = next(c for c in found["coverage"] if (c["task"], c["arm"]) == ("rte", "student/lora"))
    assert (place["planned"], place["done"]) == ([1, 2], [1])
    measured = [r for r in found["runs"] if r["estimate"]["basis"] == "measured run"]
    assert {r["estimate"]["seconds"] for r in measured} == {100.0}
    assert sum(len(students) for students in found["teachers"].values()) == 4


def test_who_names_a_rate_reads_what_becomes_of_the_heads(folder):
    def told(**training) -> str:
        (folder / "study.yaml").write_text(yaml.safe_dump(STUDY | {"training": training}))
        return next((x for x in call(folder).splitlines() if x.startswith("training.lr")), "")

    one_rate = told(lr=2e-5)
    assert "the head of teacher/fft, student/lora, student/kd-lora learns at the rate" in one_rate
    assert "it has 0.001, which training.lr.head sets" in one_rate
    assert "the head of teacher/fft learns" in told(lr={"fft": 2e-5})  # the adapters' is 0.001
    assert told() == told(epochs=1) == told(lr={"fft": 2e-5, "head": 1e-3}) == ""


def test_what_a_person_reads(folder):
    text = call(folder)
    assert "1/2 -s2" in text
    assert "12 runs, 3 done, 9 to do" in text
    assert "4 teacher runs serve 4 distilled students" in text
    assert "complete: 1 of 4" in text


def test_what_another_seed_or_arm_changes(folder):
    found = json.loads(call(folder, "--json", "--add-seed", "3", "--add-arm", "student/kd-dora"))
    by_name = {change["name"]: change for change in found["changes"]}
    seed, arm = by_name["seed 3"], by_name["student/kd-dora"]
    assert (seed["extra"]["runs"], seed["reused"], seed["shared"]) == (6, 3, 12)
    assert (arm["extra"]["runs"], arm["reused"], arm["shared"]) == (4, 3, 12)
    assert by_name["seed 3 and student/kd-dora"]["extra"]["runs"] == 6 + 4 + 2
    assert seed["extra"]["seconds"] > 0
    assert seed["dropped"] == 0
    with pytest.raises(InputError, match="--add-seed 1: the study has it already"):
        call(folder, "--add-seed", "1")
    with pytest.raises(InputError, match="unknown adaptation 'dorra'"):
        call(folder, "--add-arm", "student/kd-dorra")
    with pytest.raises(InputError, match="it has no runs"):
        call(folder, "--learn-from", str(folder / "nothing"))


def test_a_run_that_another_process_holds_is_running(folder):
    store = Store(folder / "out")
    plan = make_plan(make_study(STUDY))
    run_id = plan.runs[-1].run_id
    with store.lease(run_id):
        assert study_status(plan, store).states[run_id] == "running"
    assert study_status(plan, store).states[run_id] == "missing"


def test_who_holds_a_run_is_named_and_nobody_far_away_is_said_to_live(folder):
    store = Store(folder / "out")
    plan = make_plan(make_study(STUDY))
    near, far = plan.runs[-1].run_id, plan.runs[-2].run_id
    store.folder(far).mkdir(parents=True)
    owner = {"host": "far", "boot": "b", "namespace": "n", "pid": 7, "started": "1"}
    content = json.dumps(owner | {"expiry_s": 30.0}).encode() + b"\n" + b"9".zfill(20)
    (store.folder(far) / "lease-000001").write_bytes(content)
    curve = [{"step": 99, "epoch": 1.0}, {"step": 1980, "epoch": 20.0}]
    with store.lease(near):
        history = store.folder(near) / HISTORY
        history.write_text("".join(json.dumps(row) + "\n" for row in curve))
        text = call(folder)
        held = json.loads(call(folder, "--json"))["holders"]
    found = [line for line in text.splitlines() if line.startswith("running:")]
    lines = {line.split(": ")[1].strip(): line for line in found}
    assert set(lines) == set(held) == {near, far}
    here = f"process {os.getpid()} on {socket.gethostname()}"
    assert lines[near].endswith(f"{here}, last evaluated after step 1,980 (epoch 20)")
    assert "process 7 on far, as its lease says" in lines[far]
    for torn in ('{"step": 99}', '{"step": "x", "epoch": 1}', "[1]", "{"):
        history.write_text(torn)
        with store.lease(near):
            assert f"{near}: {here}\n" in call(folder)
    assert "stands still for 30 s" in lines[far]


def test_status_says_what_runs_and_what_was_set_aside(folder, monkeypatch):
    store = Store(folder / "out")
    run_id = make_plan(make_study(STUDY)).runs[-1].run_id
    rows = pd.DataFrame({"run_id": [run_id, run_id], "status": ["missing", "missing"]})
    monkeypatch.setattr("kdlora.records.frame.load_frame", lambda root: rows)
    for name in ("flags_panel", "results_table", "status_table"):
        monkeypatch.setattr(f"kdlora.report.render.terminal.{name}", lambda frame, name=name: name)
    with store.lease(run_id):
        arguments = ["status", str(folder / "out")]
        shown = CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "160"})
    assert f"running:    {run_id}: process {os.getpid()} on" in shown.output
    assert shown.output.count("running:") == 1
    [aside] = store.damaged()
    assert f"set aside: {aside}" in shown.output


def test_wall_clock_is_never_less_than_the_longest_chain():
    plan = make_plan(make_study({**STUDY, "tasks": ["rte"], "seeds": [1]}))
    seen = study_status(plan, Store(Path("nowhere")), workers=50)
    seconds = {r.arm: seen.costs.estimates[r.run_id].seconds for r in plan.runs}
    chain = seconds["teacher/fft"] + seconds["student/kd-lora"]
    assert totals(plan, seen.costs.estimates, 50).wall_s == pytest.approx(chain)
