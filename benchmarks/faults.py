"""Break a tiny study in every way that happens, then see that nothing was lost or counted twice.

Two engines work on one folder while workers, fork servers and engines are killed at random, records
are torn, truncated and edited, leases of machines that are gone lie about, and the time of day
jumps. Afterwards every run must be recorded once, with the same quality and the same predictions as
in an undisturbed study, and every damaged file must have been set aside. A full disk is tried where
a small one may be mounted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import write_results
from benchmarks.tiny_study import tiny_plan
from kdlora.engines.local import run_plan
from kdlora.engines.selection import RunSelection
from kdlora.engines.supervisor import EngineOptions
from kdlora.errors import StoreError
from kdlora.records import leases
from kdlora.records.predictions import read_predictions
from kdlora.records.store import Store
from kdlora.spec.plan import Plan
from kdlora.spec.run import Run

ROOT = Path(__file__).resolve().parent.parent
EXPIRY_S = 12.0  # short, so that a dead machine's runs are taken over while one waits
TARGETS = {"worker": 0.8, "fork server": 0.08, "engine": 0.08, "everything": 0.04}
DAMAGES = ("truncated", "edited", "torn", "foreign lease")

_JUMPING_CLOCK = """
import random, time
_true = time.time
time.time = lambda: _true() + random.choice([0, 0, 0, -1e9, 86400, 3e8])
"""


@dataclass
class Outcome:
    """What was done to the study, and what is wrong with it afterwards."""

    runs: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    damages: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def undisturbed(folder: Path, runs: int) -> tuple[Plan, Store]:
    """The same study without any fault."""
    plan, store = tiny_plan(folder / "inputs", runs=runs), Store(folder / "undisturbed")
    store.prepare()
    status = run_plan(plan, store, EngineOptions(workers=1, threads=1))
    assert set(status.values()) == {"done"}, status
    return plan, store


def work(folder: str, runs: int) -> None:
    """One engine on the disturbed study; the body of a process that is going to be killed."""
    plan, store = tiny_plan(Path(folder) / "inputs", runs=runs), Store(Path(folder) / "study")
    store.prepare()
    run_plan(
        plan,
        store,
        EngineOptions(threads=1, expiry_s=EXPIRY_S, selection=RunSelection(retry_failed=True)),
    )


class Disturber:
    """Kills and damages until told to stop; everything is drawn from one generator."""

    def __init__(self, folder: Path, plan: Plan, *, seed: int, engines: int = 2) -> None:
        self.folder, self.plan, self.store = folder, plan, Store(folder / "study")
        self.rng = random.Random(seed)
        self.engines: list[subprocess.Popen[bytes]] = []
        self.wanted = engines
        self.outcome = Outcome(runs=len(plan.runs))
        self.harmed: set[str] = set()  # contents that must be found again among what is set aside
        self.seen: dict[str, tuple[int, int]] = {}
        (folder / "clock").mkdir(exist_ok=True)
        (folder / "clock" / "sitecustomize.py").write_text(_JUMPING_CLOCK)

    def disturb(self, kills: int, until: float) -> None:
        """Kill and damage so often, or until the monotonic time `until`."""
        while sum(self.outcome.kills.values()) < kills and time.monotonic() < until:
            self._engage()
            time.sleep(self.rng.uniform(0.05, 1.5))
            self._watch_records()
            self._kill()
            if self.rng.random() < 0.3 or self._all_done():
                self.damage(self.rng.choice(self.plan.runs), self.rng.choice(DAMAGES))
        killed = sum(self.outcome.kills.values())
        if killed < kills:
            self.outcome.problems.append(f"time for {killed} of {kills} kills only")
        if not self.outcome.kills["worker"]:
            self.outcome.problems.append("no worker was killed: nothing was tried")

    def finish(self, until: float) -> None:
        """Leave the engines alone until the study is complete."""
        while not self._all_done() and time.monotonic() < until:
            self._engage()
            time.sleep(0.5)
            self._watch_records()
        for engine in self.engines:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(engine.pid, signal.SIGKILL)
            engine.wait()

    def _engage(self) -> None:
        self.engines = [engine for engine in self.engines if engine.poll() is None]
        while len(self.engines) < self.wanted:
            path = os.pathsep.join([str(self.folder / "clock"), str(ROOT)])
            self.engines.append(
                subprocess.Popen(
                    [sys.executable, "-c",
                     f"from benchmarks.faults import work; work({str(self.folder)!r}, "
                     f"{len(self.plan.runs)})"],
                    cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, start_new_session=True,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )
            )  # fmt: skip

    def _kill(self) -> None:
        """One process, while there is a run at work: engines that only start would never work."""
        engines = [engine.pid for engine in self.engines]
        servers = [pid for engine in engines for pid in _children(engine, "forkserver")]
        workers = [pid for server in servers for pid in _children(server)]
        pids = {"worker": workers, "fork server": servers, "engine": engines, "everything": engines}
        if not workers:
            return
        what = self.rng.choices(list(TARGETS), list(TARGETS.values()))[0]
        kill = os.killpg if what == "everything" else os.kill
        with contextlib.suppress(ProcessLookupError):
            kill(self.rng.choice(pids[what]), signal.SIGKILL)
            self.outcome.kills[what] += 1

    def damage(self, run: Run, how: str) -> None:
        """Do one of `DAMAGES` to a run, where it is in a state that allows it."""
        folder = self.store.folder(run.run_id)
        path = folder / "record.json"
        if how == "foreign lease":
            seen = leases.look(folder)
            if not folder.is_dir() or path.exists() or not seen.released:
                return
            self._leave_lease(folder, seen.generation + 1)
        elif path.exists():
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() in self.harmed:
                return  # nobody has looked yet: harmed again, it would not be found
            if how == "truncated":
                content = content[: self.rng.randrange(len(content) - 1)]
            elif how == "edited":
                content = content.replace(b'"seed": ', b'"seed": 1', 1)
            else:
                start = self.rng.randrange(len(content) // 2)
                content = content[:start] + b"\0" * 64 + content[start + 64 :]
            path.write_bytes(content)
            self.harmed.add(hashlib.sha256(content).hexdigest())
            self.seen.pop(run.run_id, None)
            stamp = self.rng.choice([0, 4e9])
            os.utime(path, (stamp, stamp))
        else:
            return
        self.outcome.damages[how] += 1

    def _leave_lease(self, folder: Path, generation: int) -> None:
        owner = {"host": "a-machine-that-is-gone", "boot": "b", "namespace": "n", "pid": 1}
        owner |= {"started": "1", "nonce": str(generation), "expiry_s": EXPIRY_S}
        with (
            contextlib.suppress(FileExistsError),
            (folder / f"lease-{generation:06d}").open("xb") as f,
        ):
            f.write(json.dumps(owner).encode() + b"\n" + b"42".zfill(20))

    def _watch_records(self) -> None:
        """A whole record never changes: who finished a run is the only one who did."""
        for run in self.plan.runs:
            path = self.store.folder(run.run_id) / "record.json"
            with contextlib.suppress(FileNotFoundError):
                state = path.stat()
                if hashlib.sha256(path.read_bytes()).hexdigest() in self.harmed:
                    continue
                now = (state.st_ino, state.st_mtime_ns)
                if self.seen.setdefault(run.run_id, now) != now:
                    self.outcome.problems.append(f"{run.run_id}: its record was written again")
                    self.seen[run.run_id] = now

    def _all_done(self) -> bool:
        return all(self.store.is_done(run.run_id) for run in self.plan.runs)


def check(plan: Plan, reference: Store, store: Store, harmed: set[str]) -> list[str]:
    """Everything that is wrong with a study that ought to be like the undisturbed one."""
    problems = []
    records = sorted(path.parent.name for path in store.root.glob("runs/*/record.json"))
    if records != sorted(run.run_id for run in plan.runs):
        problems.append(f"records: {len(records)} instead of the {len(plan.runs)} planned")
    for run in plan.runs:
        ours, theirs = store.read(run.run_id), reference.read(run.run_id)
        assert theirs is not None
        if ours is None:
            problems.append(f"{run.run_id}: no record")
            continue
        if ours.quality != theirs.quality or ours.agreement != theirs.agreement:
            problems.append(f"{run.run_id}: another quality than undisturbed")
        (mine, _), (other, _) = (
            read_predictions(s.folder(run.run_id)).by_split() for s in (store, reference)
        )
        if not all(np.array_equal(mine[split], values) for split, values in other.items()):
            problems.append(f"{run.run_id}: other predictions than undisturbed")
    aside = {hashlib.sha256(path.read_bytes()).hexdigest() for path in store.damaged()}
    if lost := harmed - aside:
        problems.append(f"{len(lost)} of {len(harmed)} damaged records were not kept")
    return problems


def measure(folder: Path, *, kills: int, runs: int, minutes: float, seed: int = 0) -> Outcome:
    """The whole trial below `folder`; bounded by `minutes` of disturbing and as many to recover."""
    started = time.monotonic()
    plan, reference = undisturbed(folder, runs)
    disturber = Disturber(folder, plan, seed=seed)
    disturber.disturb(kills, time.monotonic() + 60 * minutes)
    disturber.finish(time.monotonic() + 60 * minutes)
    outcome = disturber.outcome
    outcome.problems += check(plan, reference, disturber.store, disturber.harmed)
    outcome.seconds = time.monotonic() - started
    return outcome


def full_disk(folder: Path, runs: int = 6) -> str:
    """A study on a disk that is too small, then made larger; what happened, in words."""
    plan, reference = undisturbed(folder, runs)
    whole_mb = sum(p.stat().st_size for p in reference.root.rglob("*") if p.is_file()) / 2**20
    with _small_disk(folder / "disk", whole_mb * 0.6) as grow:
        if grow is None:
            return "not tried: no small disk may be mounted here"
        store = Store(folder / "disk" / "study")
        store.prepare()
        try:
            run_plan(plan, store, EngineOptions(threads=1))
            return "the disk was never full"
        except StoreError as error:
            told = str(error)
        before = sum(store.is_done(run.run_id) for run in plan.runs)
        grow()
        status = run_plan(plan, store, EngineOptions(threads=1))
        problems = check(plan, reference, store, set())
        if set(status.values()) != {"done"} or problems:
            return f"WRONG: {status} {problems}"
    return f"stopped after {before} of {runs} runs ({told!r}), complete and equal once it had grown"


@contextlib.contextmanager
def _small_disk(folder: Path, size_mb: float) -> Iterator[Any]:
    """A file system in memory with so much room; yields how to enlarge it, None if not allowed."""
    folder.mkdir()
    size = f"size={max(int(size_mb * 1024), 64)}k"
    command = ["mount", "-t", "tmpfs", "-o", size, "none", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    larger = ["mount", "-o", "remount,size=200m", str(folder)]
    try:
        yield lambda: subprocess.run(larger, check=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def _children(pid: int, named: str = "") -> list[int]:
    """Processes whose parent is `pid`, by what their command line holds."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                alive = fields[0] not in "ZX"
                if alive and int(fields[1]) == pid and named in (entry / "cmdline").read_text():
                    found.append(int(entry.name))
    return found


def write(outcome: Outcome, disk: str, out: Path) -> None:
    """Keep it as JSON and print it."""
    print(write_results(out, "faults", {**vars(outcome), "full_disk": disk}))
