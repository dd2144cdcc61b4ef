"""The engine around the runs: kills, failures, other machines, deadlines. Baselines train fast."""

from __future__ import annotations

import errno
import json
import multiprocessing as mp
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ForkServer
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import pytest

from kdlora import files
from kdlora.engines import local, selection, supervisor
from kdlora.engines.local import call_in_worker, run_plan, start_server
from kdlora.engines.selection import RunSelection
from kdlora.engines.supervisor import EngineOptions
from kdlora.errors import InputError, Interrupted, StoreError
from kdlora.records import leases
from kdlora.records.record import Flag
from kdlora.records.store import Store
from kdlora.spec.plan import make_plan
from tests.harness.finished import share_costs
from tests.harness.moods import BRIEF
from tests.harness.records import record_of


@pytest.fixture
def plan(corner, monkeypatch):
    """The baselines without a model of three tasks that share their files."""
    tasks = [
        {"name": n, "train": corner.train, "eval": corner.eval, "text": "review", "label": "mood"}
        for n in ("one", "two", "three")
    ]
    plan = make_plan(corner.study(tasks=tasks))
    plan.runs[:] = [r for r in plan.runs if r.arm in ("baseline/majority", "baseline/tfidf")]
    ids = {run.run_id for run in plan.runs}
    plan.cells[:] = [cell for cell in plan.cells if cell.run_id in ids]
    monkeypatch.setattr(
        selection, "estimated_seconds", lambda plan, store: dict.fromkeys(ids, 30.0)
    )
    return plan


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(tmp_path / "study")
    store.prepare()
    return store


class Killer:
    """Kills the worker of one run as often as it starts, at most so many times."""

    def __init__(self, run_id: str, times: int) -> None:
        self.run_id, self.times, self.events = run_id, times, []

    def __call__(self, run, event) -> None:
        if run.run_id == self.run_id:
            self.events += [key for key in ("start", "retry", "failed", "done") if key in event]
            if "start" in event and self.times:
                self.times -= 1
                [worker] = [p for p in mp.active_children() if p.name == self.run_id]
                os.kill(worker.pid, signal.SIGKILL)


def test_a_killed_worker_is_tried_once_more(plan, store):
    killer = Killer(plan.runs[0].run_id, 1)
    status = run_plan(plan, store, EngineOptions(threads=1, gpus=("7",)), on_event=killer)
    assert set(status.values()) == {"done"}
    assert killer.events == ["start", "retry", "start", "done"]
    seen = {store.read(run.run_id).environment["visible_gpus"] for run in plan.runs}
    assert seen == {"7"}  # what the worker itself saw


def test_killed_twice_is_a_failure_that_names_the_signal_and_waits_to_be_asked(plan, store):
    bad = plan.runs[0].run_id
    killer = Killer(bad, 2)
    status = run_plan(
        plan, store, EngineOptions(workers=2, threads=1, gpus=("0", "1")), on_event=killer
    )
    assert status.pop(bad) == "failed"
    assert set(status.values()) == {"done"}
    assert killer.events == ["start", "retry", "start", "failed"]
    error = store.read_failure(bad).error
    assert "SIGKILL" in error
    assert "2 times" in error
    seen = {store.read(run_id).environment["visible_gpus"] for run_id in status}
    assert seen == {"0", "1"}  # each of the two workers has its own

    assert run_plan(plan, store)[bad] == "failed"  # at once, without a worker
    again = run_plan(
        plan, store, EngineOptions(threads=1, selection=RunSelection(retry_failed=True))
    )
    assert again[bad] == "done"
    assert store.read_failure(bad) is None


@pytest.fixture
def bare_server(monkeypatch) -> Iterator[ForkServer]:
    """A server of this test alone, without what the others' has loaded in seconds."""
    server = ForkServer()
    for name in ("ensure_running", "connect_to_new_process", "get_inherited_fds"):
        monkeypatch.setattr(forkserver, name, getattr(server, name))
    monkeypatch.setattr(ForkServerContext, "set_forkserver_preload", lambda *names: None)
    yield server
    server._stop()


def _parents(_: None, on_note: Callable[[str], None]) -> tuple[int, str | None]:
    """The server that this process was forked from, and what it was told of threads."""
    told = Path(f"/proc/{os.getppid()}/environ").read_bytes().split(b"\0")
    threads = [one.decode() for one in told if one.startswith(b"RAYON_NUM_THREADS=")]
    return os.getppid(), threads[0] if threads else None


def test_a_server_started_early_is_used_and_after_a_kill_another_with_the_workers_share_of_threads(
    bare_server, monkeypatch
):
    monkeypatch.delenv("RAYON_NUM_THREADS", raising=False)
    options = EngineOptions(threads=1)
    start_server(options)
    early = bare_server._forkserver_pid
    assert call_in_worker(_parents, None, print, options) == (early, "RAYON_NUM_THREADS=1")
    os.kill(early, signal.SIGKILL)
    later, threads = call_in_worker(_parents, None, print, options)
    assert later != early
    assert threads == "RAYON_NUM_THREADS=1"


class _NeedsTwo(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one + two)


def _told(end: str, on_note: Callable[[str], None]) -> tuple[bool, str | None]:
    on_note("looking")
    if end == "refused":
        raise InputError(["no config", "no weights"])
    if end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "a bug":
        raise ZeroDivisionError
    if end == "a bug that cannot be sent":
        raise _NeedsTwo(1, 2)
    if end == "waiting":
        time.sleep(600)
    return "torch" in sys.modules, os.environ.get("SET_AFTER_THE_SERVER")


def test_a_call_in_a_worker_returns_what_it_says_and_raises_what_it_refuses(monkeypatch):
    start_server(EngineOptions(threads=1))
    monkeypatch.setenv("SET_AFTER_THE_SERVER", "seen")
    notes: list[str] = []
    assert call_in_worker(_told, "well", notes.append) == (True, "seen")
    assert notes == ["looking"]
    with pytest.raises(InputError) as refused:
        call_in_worker(_told, "refused", notes.append)
    assert refused.value.problems == ["no config", "no weights"]
    with pytest.raises(StoreError, match=r"^told: its process was killed by SIGKILL"):
        call_in_worker(_told, "killed", notes.append)
    with pytest.raises(ZeroDivisionError) as bug:
        call_in_worker(_told, "a bug", notes.append)
    assert "in _told" in bug.value.__notes__[0]
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*in _told.*_NeedsTwo"):
        call_in_worker(_told, "a bug that cannot be sent", notes.append)


def test_a_call_in_a_worker_ends_with_the_caller_who_is_interrupted(monkeypatch):
    processes: list[BaseProcess] = []
    fork = local._fork
    monkeypatch.setattr(
        local, "_fork", lambda *how: (made := fork(*how), processes.append(made[1]))[0]
    )

    def press_ctrl_c(note: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call_in_worker(_told, "waiting", press_ctrl_c)
    assert processes[0].exitcode == -signal.SIGKILL


def test_two_engines_on_one_folder_share_the_runs(plan, store):
    started: list[str] = []
    answers = []

    def note(run, event) -> None:
        if "start" in event:
            started.append(run.run_id)

    def engine() -> None:
        answers.append(run_plan(plan, store, EngineOptions(threads=1), on_event=note))

    engines = [threading.Thread(target=engine) for _ in range(2)]
    for thread in engines:
        thread.start()
    for thread in engines:
        thread.join()
    assert [set(answer.values()) for answer in answers] == [{"done"}, {"done"}]
    for run in plan.runs:  # a worker may find that the other was faster; none does it again
        assert leases.look(store.folder(run.run_id)).released
        assert not list(store.folder(run.run_id).glob("record.damaged*"))
    assert sorted(set(started)) == sorted(run.run_id for run in plan.runs)


def test_a_lease_of_a_dead_machine_is_waited_out_and_that_of_a_living_one_respected(plan, store):
    first, second = plan.runs[0], plan.runs[1]
    owner = {"host": "far", "boot": "b", "namespace": "n", "pid": 1, "started": "1"}
    for run in (first, second):
        store.begin(run)
        content = json.dumps(owner | {"nonce": "x", "expiry_s": 2.0}).encode() + b"\n"
        (store.folder(run.run_id) / "lease-000001").write_bytes(content + b"9".zfill(20))
    path = store.folder(second.run_id) / "lease-000001"
    stop = threading.Event()

    def beat() -> None:
        count = 10
        while not stop.wait(0.05):
            path.write_bytes(path.read_bytes()[:-20] + str(count).encode().zfill(20))
            count += 1
            if store.is_done(first.run_id):  # long after a dead one would have been taken over
                path.write_bytes(path.read_bytes()[:-20] + b"released".ljust(20))
                return

    thread = threading.Thread(target=beat)
    thread.start()
    events = []

    def note(run, event) -> None:
        if run.run_id == second.run_id and ("start" in event or "leased" in event):
            events.append((set(event), store.is_done(first.run_id)))

    status = run_plan(plan, store, EngineOptions(threads=1, expiry_s=3.0), on_event=note)
    stop.set()
    thread.join()
    assert set(status.values()) == {"done"}
    assert events[0][0] == {"leased"}
    assert all(free for keys, free in events if "start" in keys)


def test_at_the_deadline_what_trains_stops_after_a_checkpoint_and_nothing_starts(
    corner, store, monkeypatch
):
    """The time is over when the first run has made some steps; then the same command again."""
    training = corner.study().training.model_dump() | {"epochs": 40}
    study = corner.study(arms=["student/fft"], training=training, baselines=False, seeds=[1, 2])
    plan = make_plan(study)
    jump_s, events = [0.0], []

    def now() -> float:
        return time.monotonic() + jump_s[0]

    monkeypatch.setattr(supervisor, "time", SimpleNamespace(monotonic=now, sleep=time.sleep))

    def note(run, event) -> None:
        events.extend(
            (run.seed, key, event[key]) for key in ("start", "done", "later") if key in event
        )
        if event.get("step", 0) > 3:
            jump_s[0] = 2 * 3600

    status = run_plan(
        plan, store, EngineOptions(threads=1, selection=RunSelection(max_hours=2)), on_event=note
    )
    assert list(status.values()) == ["later", "later"]
    assert events == [
        (1, "start", True),
        (2, "later", "no time is left for it"),
        (1, "later", "stopped after a checkpoint: the time is over"),
    ]
    first = plan.runs[0]
    assert (store.folder(first.run_id) / "checkpoint.pt").is_file()
    assert not store.folder(plan.runs[1].run_id).exists()

    jump_s[0] = 0.0
    monkeypatch.setattr(selection, "estimated_seconds", lambda plan, store: {first.run_id: 1e6})
    events.clear()

    def stop(run, event) -> None:  # it starts before the shorter one, for it has begun
        note(run, event)
        if "start" in event:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=f"`kdlora report {store.root}` writes the report"):
        run_plan(
            plan,
            store,
            EngineOptions(threads=1, selection=RunSelection(max_hours=2)),
            on_event=stop,
        )
    assert events == [(1, "start", True)]


def test_only_what_is_chosen_is_done(plan, store):
    status = run_plan(
        plan, store, EngineOptions(threads=1, selection=RunSelection(only=("one", "arm=*majority")))
    )
    assert list(status.values()) == ["done"]
    assert len(list(store.root.glob("runs/*/record.json"))) == 1


def test_a_full_disk_stops_the_study_and_fails_no_run(plan, store, monkeypatch, tmp_path):
    from kdlora.engines.worker import attempt

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = plan.runs[0]
    monkeypatch.setattr(files, "sync", full)
    assert attempt(run, store) == "full"
    assert not (store.folder(run.run_id) / "failed.json").exists()
    monkeypatch.undo()
    assert attempt(run, store) == "done"


@pytest.mark.parametrize("noticed_by", ["the engine", "the worker"])
def test_a_teacher_whose_record_goes_is_done_again_and_its_student_then(
    corner, store, monkeypatch, noticed_by
):
    short = {"training": {**BRIEF, "epochs": 1}, "data": {"max_train": 80, "selection_min": 40}}
    arms = ["teacher/fft", "student/kd-lora"]
    plan = make_plan(corner.study(arms=arms, baselines=False, **short))
    share_costs(corner, store.root)
    teacher, student = plan.runs
    events, answers = [], [[]] if noticed_by == "the worker" else []

    missing_teachers = supervisor.missing_teachers

    def look(run, store) -> list[str]:
        return answers.pop() if run is student and answers else missing_teachers(run, store)

    monkeypatch.setattr(supervisor, "missing_teachers", look)

    def note(run, event) -> None:
        events.extend(
            (run.arm, key) for key in ("start", "retry", "failed", "done") if key in event
        )
        if "done" in event and events.count(("teacher/fft", "done")) == 1:
            path = store.folder(teacher.run_id) / "record.json"
            path.write_bytes(path.read_bytes()[:200])

    status = run_plan(plan, store, EngineOptions(threads=1), on_event=note)
    assert set(status.values()) == {"done"}
    begun = [("student/kd-lora", "start")] if noticed_by == "the worker" else []
    assert events == [
        ("teacher/fft", "start"), ("teacher/fft", "done"), *begun, ("teacher/fft", "retry"),
        ("teacher/fft", "start"), ("teacher/fft", "done"),
        ("student/kd-lora", "start"), ("student/kd-lora", "done"),
    ]  # fmt: skip
    assert [p.name for p in store.damaged()] == ["record.damaged-0.json"]
    assert not list(store.root.glob("runs/*/failed.json"))


def test_who_loses_its_lease_writes_no_record(plan, store):
    from kdlora.engines.worker import attempt

    run = plan.runs[0]
    taken = []

    def sleep_long(event) -> None:
        """While this process sleeps before it records, another takes over."""
        if event.get("stage") == "reading data":
            folder = store.folder(run.run_id)
            taken.append(leases.acquire(folder, dead=leases.look(folder)))

    assert attempt(run, store, on_progress=sleep_long) == "lost"
    assert not store.is_done(run.run_id)
    taken[0].check(now=True)
    taken[0].release()
    assert attempt(run, store) == "done"


def test_flagged_runs_are_done_again_and_their_old_records_kept(plan, store):
    run = plan.runs[0]
    run_plan(plan, store, EngineOptions(threads=1))
    flags = {i.run_id: [f.name for f in store.read(i.run_id).health] for i in plan.runs}
    path = store.folder(run.run_id) / "record.json"
    record = store.read(run.run_id)
    flagged = record.model_copy(
        update={"health": [Flag(name="collapsed", severity="error", detail="made up")]}
    )
    path.unlink()
    store.finish(flagged)
    status = run_plan(
        plan,
        store,
        EngineOptions(threads=1, selection=RunSelection(retry_flagged=True, only=(run.run_id,))),
    )
    assert status == {run.run_id: "done"}
    assert [f.name for f in store.read(run.run_id).health] == flags[run.run_id]
    kept = json.loads((store.folder(run.run_id) / "retired-0" / "record.json").read_text())
    assert kept["health"][0]["name"] == "collapsed"


def test_a_half_done_student_of_a_flagged_teacher_begins_anew(corner, store):
    plan = make_plan(corner.study(arms=["teacher/fft", "student/kd-lora"]))
    [teacher] = [run for run in plan.runs if run.role == "teacher"]
    [student] = [run for run in plan.runs if teacher.run_id in run.teachers]
    store.begin(teacher)
    collapsed = Flag(name="collapsed", severity="error", detail="made up")
    store.finish(record_of(teacher).model_copy(update={"health": [collapsed]}))
    folder = store.begin(student)
    (folder / "checkpoint.pt").write_bytes(b"what it learned from the old teacher")
    prepared = selection.prepare_schedule(plan, store, RunSelection(retry_flagged=True))
    assert {run.run_id for run in prepared.retired} == {teacher.run_id, student.run_id}
    assert not (folder / "checkpoint.pt").exists()
    assert (folder / "retired-0" / "checkpoint.pt").exists()


def test_a_flagged_run_that_another_process_retired_is_not_taken_for_done(plan, store, monkeypatch):
    run_plan(plan, store, EngineOptions(threads=1))
    quick = plan.runs[0].run_id

    def flagged(store, run_id) -> bool:
        if run_id == quick:  # the other process looks, and moves, at this moment
            store.retire(run_id)
        return run_id == quick

    monkeypatch.setattr(selection, "_is_flagged", flagged)
    prepared = selection.prepare_schedule(plan, store, RunSelection(retry_flagged=True))
    assert [r.run_id for r in prepared.schedule.in_state("waiting")] == [quick]
