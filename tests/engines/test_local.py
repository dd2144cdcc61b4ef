"""Whole runs in worker processes: order, failures, kills, resuming, equal results."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from kdlora.engines.local import run_plan
from kdlora.engines.supervisor import EngineOptions
from kdlora.records.predictions import read_predictions
from kdlora.records.store import Store
from kdlora.spec.plan import make_plan


def outputs(store: Store, run_id: str) -> dict[str, np.ndarray]:
    return read_predictions(store.folder(run_id)).by_split()[0]


@pytest.fixture(scope="module")
def done(corner, tmp_path_factory):
    """The tiny study, undisturbed."""
    plan, store = make_plan(corner.study()), Store(tmp_path_factory.mktemp("done"))
    store.prepare()
    status = run_plan(plan, store, EngineOptions(workers=2, threads=1))
    assert set(status.values()) == {"done"}
    return plan, store


def test_every_run_is_recorded_and_kd_students_agree_with_their_teacher(done):
    plan, store = done
    for run in plan.runs:
        record = store.read(run.run_id)
        assert record.quality.score is not None
        if run.distillation == "kd":
            shared = record.agreement
            assert shared.teacher_run_id == run.teacher_run_id
            assert shared.lower_bound - 1e-9 <= shared.agreement <= shared.upper_bound + 1e-9
            teacher = store.read(run.teacher_run_id)
            assert shared.teacher_score == teacher.quality.score
    teacher = store.read(next(r.run_id for r in plan.runs if r.arm == "teacher/fft"))
    assert teacher.quality.score > 0.9  # otherwise nothing above says much


def test_the_same_spec_again_gives_equal_predictions(done, tmp_path):
    plan, store = done
    again = Store(tmp_path)
    again.prepare()
    run_plan(plan, again, EngineOptions(workers=1, threads=1))
    for run in plan.runs:
        for split, values in outputs(store, run.run_id).items():
            np.testing.assert_array_equal(outputs(again, run.run_id)[split], values)


def test_nothing_is_trained_twice(done):
    plan, store = done
    before = {r.run_id: (store.folder(r.run_id) / "record.json").stat().st_mtime_ns
              for r in plan.runs}  # fmt: skip
    events = []
    run_plan(plan, store, on_event=lambda run, event: events.append(event))
    assert events == []
    for run_id, stamp in before.items():
        assert (store.folder(run_id) / "record.json").stat().st_mtime_ns == stamp


def test_a_failing_run_is_recorded_its_students_skipped_and_the_rest_done(corner, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(corner.teacher, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    pairs = [{"name": "tiny", "teacher": str(broken), "student": corner.student}]
    plan, store = make_plan(corner.study(pairs=pairs)), Store(tmp_path / "out")
    store.prepare()
    status = run_plan(plan, store, EngineOptions(threads=1))
    by_arm = {run.arm: status[run.run_id] for run in plan.runs}
    assert by_arm["teacher/fft"] == "failed"
    assert by_arm["student/kd-lora"] == "skipped"
    assert by_arm["baseline/tfidf"] == "done"
    failed = next(r for r in plan.runs if r.arm == "teacher/fft")
    assert "weights" in store.read_failure(failed.run_id).error


def test_a_cache_that_does_not_fit_the_record_stops_the_student(done, tmp_path):
    plan, store = done
    copy = Store(tmp_path / "copy")
    shutil.copytree(store.root, copy.root)
    student = next(r for r in plan.runs if r.arm == "student/kd-lora")
    shutil.rmtree(copy.folder(student.run_id))
    from kdlora.distillation import soft_labels

    folder = copy.folder(student.teacher_run_id)
    labels = soft_labels.load(folder)
    flipped = labels.logits[:, ::-1].copy()
    soft_labels.save(type(labels)(labels.ids, flipped, labels.teacher_run_id, labels.label_names,
                                  labels.data_fingerprint), folder)  # fmt: skip
    status = run_plan(plan, copy, EngineOptions(threads=1))
    assert status[student.run_id] == "failed"
    assert "do not belong together" in copy.read_failure(student.run_id).error


def command(corner, tmp_path) -> tuple[list[str], Store]:
    study = corner.study(arms=["teacher/fft", "student/kd-lora"], baselines=False)
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study.model_dump(mode="json")))
    out = tmp_path / "out"
    run = [sys.executable, "-m", "kdlora", "run", str(path), "--out", str(out), "--threads", "1"]
    return run, Store(out)


def test_a_killed_study_leaves_only_whole_records_and_ends_like_an_undisturbed_one(
    corner, done, tmp_path
):
    """SIGKILL to the whole process group at random moments, then once to the end."""
    arguments, store = command(corner, tmp_path)
    plan = make_plan(corner.study(arms=["teacher/fft", "student/kd-lora"], baselines=False))
    rng = random.Random(0)

    def attempt(seconds: float | None) -> int:
        process = subprocess.Popen(
            arguments,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for run in plan.runs:
            record = store.read(run.run_id)
            if record is not None:  # then everything it speaks of is there
                assert (store.folder(run.run_id) / "model").is_dir()
                assert outputs(store, run.run_id)
        return process.returncode

    # from the first imports to the measuring at the end of a run
    for longest in (4, 7, 10, 13):
        attempt(longest * (0.6 + 0.4 * rng.random()))
    assert attempt(None) == 0
    assert not store.damaged()
    for run in plan.runs:
        again, undisturbed = outputs(store, run.run_id), outputs(done[1], run.run_id)
        np.testing.assert_array_equal(again["report"], undisturbed["report"])


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(corner, tmp_path):
    arguments, store = command(corner, tmp_path)
    process = subprocess.Popen(arguments, start_new_session=True, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    for _ in range(2400):  # a busy machine takes half a minute to begin
        if list(store.root.glob("runs/*/history.jsonl")) or process.poll() is not None:
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "go on where they stopped" in errors
    assert "Traceback" not in errors
    again = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
