"""Whole runs in worker processes: order, failures, kills, resuming, equal results."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import yaml

from kdlora.engines.local import run_plan
from kdlora.engines.supervisor import EngineOptions
from kdlora.records.predictions import read_predictions
from kdlora.records.store import Store
from kdlora.spec.plan import make_plan
from tests.harness.commands import in_process
from tests.harness.finished import share_costs


def outputs(store: Store, run_id: str) -> dict[str, np.ndarray]:
    return read_predictions(store.folder(run_id)).by_split()[0]


@pytest.fixture(scope="module")
def done(corner, tiny_study):
    """The tiny study, undisturbed."""
    return make_plan(corner.study()), Store(tiny_study)


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


def test_the_same_spec_again_gives_equal_predictions(corner, done, tmp_path):
    study = corner.study(arms=["teacher/fft", "student/kd-lora"], baselines=False)
    plan, store = make_plan(study), done[1]
    again = Store(share_costs(corner, tmp_path))
    again.prepare()
    run_plan(plan, again, EngineOptions(workers=1, threads=1))
    for run in plan.runs:
        first, second = outputs(store, run.run_id), outputs(again, run.run_id)
        assert first.keys() == second.keys() >= {"selection", "report"}
        for split, values in first.items():
            np.testing.assert_array_equal(second[split], values)


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
    plan, store = make_plan(corner.study(pairs=pairs)), Store(share_costs(corner, tmp_path / "out"))
    store.prepare()
    status = run_plan(plan, store, EngineOptions(threads=1))
    by_arm = {run.arm: status[run.run_id] for run in plan.runs}
    assert by_arm["teacher/fft"] == "failed"
    assert by_arm["student/kd-lora"] == "skipped"
    assert by_arm["baseline/tfidf"] == "done"
    failed = next(r for r in plan.runs if r.arm == "teacher/fft")
    assert "is no safetensors file" in store.read_failure(failed.run_id).error


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


class Started:
    """`kdlora run` of a teacher and its student as a group of processes of their own."""

    def __init__(self, corner, folder: Path) -> None:
        study = corner.study(arms=["teacher/fft", "student/kd-lora"], baselines=False)
        (folder / "study.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json")))
        self.runs, self.store = make_plan(study).runs, Store(share_costs(corner, folder / "out"))
        self.words = ["run", str(folder / "study.yaml"), "--out", str(self.store.root)]

    def until(
        self,
        happened: Callable[[], bool],
        then: signal.Signals,
        to: Callable[[int, int], None] = os.killpg,
    ) -> tuple[int, str]:
        """Start it, and send a signal to all its processes when `happened`; its code and errors.

        With `os.kill` the signal goes to the engine alone.
        """
        process = self.process = subprocess.Popen(
            [sys.executable, "-m", "kdlora", *self.words, "--threads", "1"],
            start_new_session=True, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            # as a terminal has it: what a shell starts in the background is deaf to Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        deadline = time.monotonic() + 120  # a busy machine takes half a minute to begin
        while process.poll() is None and not happened() and time.monotonic() < deadline:
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            to(process.pid, then)
        _, errors = process.communicate(timeout=120)  # the workers, too, have closed their end
        return process.returncode, errors

    def has_children(self) -> bool:
        """Whether the engine has started any process, the first of which are for its server."""
        pid = self.process.pid
        with contextlib.suppress(FileNotFoundError):
            return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text())
        return False

    def evaluations(self, run) -> int:
        """How often a run was evaluated by now."""
        history = self.store.folder(run.run_id) / "history.jsonl"
        return len(history.read_text().splitlines()) if history.exists() else 0

    def check_records(self) -> int:
        """How many records there are; everything that they speak of is there."""
        done = [run for run in self.runs if self.store.read(run.run_id) is not None]
        for run in done:
            assert (self.store.folder(run.run_id) / "model").is_dir()
            assert outputs(self.store, run.run_id)
        return len(done)


@pytest.fixture(scope="module")
def interrupted(corner, tmp_path_factory):
    """A study that was interrupted when its teacher had been evaluated once."""
    started = Started(corner, tmp_path_factory.mktemp("stopped"))
    teacher = started.runs[0]
    return started, started.until(lambda: started.evaluations(teacher) > 0, signal.SIGINT)


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(interrupted):
    started, (code, errors) = interrupted
    assert code == 130, errors
    assert "go on where they stopped" in errors
    assert "Traceback" not in errors
    assert (started.store.folder(started.runs[0].run_id) / "checkpoint.pt").is_file()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for children in /proc")
@pytest.mark.parametrize("seconds", [0, 0.3, 2])
def test_ctrl_c_while_the_server_starts_is_one_line(corner, tmp_path, seconds):
    """So many seconds after the engine started its first process."""
    started = Started(corner, tmp_path)

    def late() -> bool:
        if started.has_children():
            time.sleep(seconds)
            return True
        return False

    code, errors = started.until(late, signal.SIGINT)
    assert code == 130, errors
    assert errors.splitlines()[-1].startswith("error: interrupted")
    assert "Traceback" not in errors


@pytest.mark.parametrize("where", ["kdlora.cli.app", "kdlora.api"])
def test_ctrl_c_before_a_command_has_begun_is_one_line(where):
    script = f"""
import builtins, sys
load = builtins.__import__
def press(name, *rest):
    if name == {where!r}:
        raise KeyboardInterrupt
    return load(name, *rest)
builtins.__import__ = press
from kdlora.cli import main
main(["plan", "x"])
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (130, "error: interrupted\n")


def test_a_killed_study_leaves_only_whole_records_and_ends_like_an_undisturbed_one(
    interrupted, done
):
    """SIGKILL to all processes while the teacher trains, to the engine while its student does.

    What the engine has started ends by itself, after a checkpoint.
    """
    started, _ = interrupted
    for run, to in zip(started.runs, (os.killpg, os.kill), strict=True):
        before = started.evaluations(run)
        began = lambda run=run, n=before: started.evaluations(run) > n  # noqa: E731
        started.until(began, signal.SIGKILL, to)
        started.check_records()
    assert (started.store.folder(started.runs[1].run_id) / "checkpoint.pt").is_file()
    finished = in_process(*started.words, "--threads", "1", cwd=started.store.root)
    assert finished.returncode == 0, finished.stderr
    assert started.check_records() == len(started.runs) == 2
    assert not started.store.damaged()
    for run in started.runs:
        again, undisturbed = outputs(started.store, run.run_id), outputs(done[1], run.run_id)
        np.testing.assert_array_equal(again["report"], undisturbed["report"])


def test_what_the_server_loads_leaves_garbage_to_be_collected():
    before = signal.getsignal(signal.SIGINT)
    import_module("kdlora.engines.preload")
    assert gc.isenabled()
    assert gc.get_freeze_count() > 100_000  # what was loaded is not walked by the workers
    assert "kdlora.engines.worker" in sys.modules
    assert signal.getsignal(signal.SIGINT) is before
