"""Early decisions on tiny encoders: a survivor is the same run, a crash changes no decision."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kdlora.engines import halving
from kdlora.engines.local import run_plan
from kdlora.engines.supervisor import EngineOptions
from kdlora.errors import Interrupted
from kdlora.evidence.coverage import coverage
from kdlora.evidence.scores import usable_runs
from kdlora.recipes import run as recipes
from kdlora.records.frame import load_frame, save_plan
from kdlora.records.halving import FOLDER, read_rung
from kdlora.records.store import Store
from kdlora.spec.plan import make_plan
from kdlora.spec.study import Study
from kdlora.training.checkpoint import Paused
from tests.harness.finished import share_costs
from tests.harness.moods import BRIEF, Corner

ARMS = ["teacher/fft", "student/lora", "student/kd-lora", "student/kd-olora"]
CHANGES = {
    "arms": ARMS,
    "baselines": False,
    "training": BRIEF,
    "data": {"max_train": 240, "selection_min": 40},
    "variations": {
        "slow": {"arm": "student/kd-lora", "training": {"lr": 1e-6}},
        "r2": {"arm": "student/kd-lora", "adapter": {"rank": 2}},
    },
}
RACE = {"arms": ["student/kd-*"], "rungs": [1, 2]}


def _run(corner: Corner, study: Study, root: Path, **options):
    plan, store = make_plan(study), Store(share_costs(corner, root))
    store.prepare()
    save_plan(store, study, plan)
    status = run_plan(plan, store, EngineOptions(workers=2, threads=1, **options))
    return plan, store, status


@pytest.fixture(scope="module")
def whole(corner, tmp_path_factory):
    """The study without early decisions."""
    return _run(corner, corner.study(**CHANGES), tmp_path_factory.mktemp("halving") / "whole")


@pytest.fixture(scope="module")
def halved(corner, tmp_path_factory):
    study = corner.study(**CHANGES, halving=RACE)
    return _run(corner, study, tmp_path_factory.mktemp("halving") / "halved")


def _titles(plan) -> dict[str, str]:
    return {run.title: run.run_id for run in plan.runs}


def _decisions(root: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (root / FOLDER).iterdir()}


def _expected(whole) -> list[list[str]]:
    """Who is left after each rung, by the learning curves of the undisturbed study."""
    plan, store, _ = whole
    order = [run.run_id for run in plan.runs if run.distillation == "kd"]
    curves = {
        run_id: [
            json.loads(line)["selection"]["macro_f1"]
            for line in (store.folder(run_id) / "history.jsonl").read_text().splitlines()
        ]
        for run_id in order
    }
    first = sorted(order, key=lambda r: -curves[r][0])[:2]
    second = sorted([r for r in order if r in first], key=lambda r: -curves[r][1])[:1]
    return [first, second]


def test_half_goes_on_at_each_rung_by_the_selection_split(whole, halved):
    plan, store, status = halved
    left = _expected(whole)
    made = sorted((json.loads(text) for text in _decisions(store.root).values()),
                  key=lambda d: d["epoch"])  # fmt: skip
    assert [sorted(d["kept"]) for d in made] == [sorted(some) for some in left]
    assert [len(d["candidates"]) for d in made] == [4, 2]
    assert made[0]["metric"] == "macro_f1"
    stopped = {run_id for run_id, state in status.items() if state == "stopped"}
    kd = {run.run_id for run in plan.runs if run.distillation == "kd"}
    assert stopped == kd - set(left[1])
    assert all(state == "done" for run_id, state in status.items() if run_id not in stopped)
    for run_id in stopped:
        folder = store.folder(run_id)
        assert not (folder / "record.json").exists()
        assert not (folder / "checkpoint.pt").exists()
        assert (folder / "history.jsonl").exists()


def test_a_survivor_is_the_run_that_it_would_have_been(whole, halved):
    undisturbed, own = whole[1], halved[1]
    for run_id in (run.run_id for run in halved[0].runs):
        record = own.read(run_id)
        if record is not None:
            assert record.quality == undisturbed.read(run_id).quality
    (winner,) = _expected(whole)[1]
    assert own.read(winner).facts.resumed == 2


def test_a_finished_study_decides_nothing_new(corner, halved):
    before = _decisions(halved[1].root)
    _, _, status = _run(corner, corner.study(**CHANGES, halving=RACE), halved[1].root)
    assert status == halved[2]
    assert _decisions(halved[1].root) == before


def test_killed_between_rung_and_decision(corner, halved, tmp_path, monkeypatch):
    root = tmp_path / "killed"
    taught = next(run.run_id for run in halved[0].runs if run.title == "teacher/fft")
    shutil.copytree(halved[1].folder(taught), root / "runs" / taught)
    study = corner.study(**CHANGES, halving=RACE)

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(halving, "record_decision", die)
    with pytest.raises(Interrupted):
        _run(corner, study, root)
    assert not list(root.glob(f"{FOLDER}/*.json"))
    assert len(list(root.glob("runs/*/rung-1.json"))) == 4
    monkeypatch.undo()
    _, _, status = _run(corner, study, root)
    assert status == halved[2]
    assert _decisions(root) == _decisions(halved[1].root)


def test_the_frame_and_the_analysis_know_who_was_stopped(halved):
    _, store, status = halved
    frame = load_frame(store.root).set_index("run_id")
    stopped = frame[frame["status"] == "stopped"]
    assert set(stopped.index) == {run_id for run_id, state in status.items() if state == "stopped"}
    for run_id, row in stopped.iterrows():
        rung = read_rung(store, run_id, int(row["stopped_epoch"]))
        assert row["rung_score"] == rung.score
        assert row["rung_metric"] == "macro_f1"
    covered = coverage(frame.reset_index())
    assert covered.complete
    assert (covered.expected, covered.present) == (3, 3)
    assert len(covered.stopped) == 3
    assert any("Stopped early" in line for line in covered.sentences())
    usable, notes = usable_runs(frame.reset_index())
    assert len(usable) == 3
    assert any("3 cells were stopped early" in note for note in notes)
    assert not any("no finished run" in note for note in notes)


def test_only_part_of_a_race_is_left_for_later(corner, halved, tmp_path):
    from kdlora.engines.selection import RunSelection

    root = tmp_path / "part"
    taught = next(run.run_id for run in halved[0].runs if run.title == "teacher/fft")
    shutil.copytree(halved[1].folder(taught), root / "runs" / taught)
    study = corner.study(**CHANGES, halving=RACE)
    only = RunSelection(only=("arm=student/kd-olora",))
    plan, _, status = _run(corner, study, root, selection=only)
    run_id = _titles(plan)["student/kd-olora"]
    assert status[run_id] == "later"
    assert not list(root.glob(f"{FOLDER}/*.json"))
    assert load_frame(root).set_index("run_id").loc[run_id, "status"] == "missing"


def test_a_run_pauses_once_and_not_beyond(corner, halved, tmp_path):
    plan, done, _ = halved
    run = next(run for run in plan.runs if run.title == "student/lora")
    store = Store(tmp_path)
    for _ in range(2):  # the second finds the checkpoint at the rung and trains no step
        with pytest.raises(Paused) as paused:
            recipes.run_one(run, store, pause_epoch=1)
        assert paused.value.progress.step == paused.value.progress.history[-1]["step"]
    rung = read_rung(store, run.run_id, 1)
    assert rung is not None
    assert rung == read_rung(done, run.run_id, 1)  # of a run that is done: from its curve
    assert read_rung(store, run.run_id, 2) is None
