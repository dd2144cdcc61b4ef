"""Kill and damage a tiny study while it is done, then see that nothing was lost or counted twice.

Two engines work on one folder while workers, fork servers and engines are killed at random, records
are torn, truncated and edited, leases of machines that are gone lie about, and the time of day
jumps. Afterwards every run must be recorded once, with the same quality and the same predictions
as in an undisturbed study, and every damaged file must have been set aside.
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
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.tiny_study import tiny_plan
from kdlora.engines.local import run_plan
from kdlora.engines.supervisor import EngineOptions
from kdlora.records import leases
from kdlora.records.predictions import read_predictions
from kdlora.records.store import Store
from kdlora.spec.plan import Plan
from kdlora.spec.run import Run

ROOT = Path(__file__).resolve().parent.parent
EXPIRY_S = 12.0  # short, so that a dead machine's runs are taken over while one waits
# Of the kills. All but the first begin with the loading of torch, which takes 20 workers' time.
TARGETS = {"worker": 0.97, "fork server": 0.01, "engine": 0.01, "everything": 0.01}
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


class Disturber:
    """Kills and damages until told to stop; everything is drawn from one generator.

    `run_s` is about how long a run takes: kills fall anywhere into one.
    """

    def __init__(
        self, folder: Path, plan: Plan, *, seed: int, engines: int = 2, run_s: float = 1.0
    ) -> None:
        self.folder, self.plan, self.store = folder, plan, Store(folder / "study")
        self.rng = random.Random(seed)
        self.engines: list[subprocess.Popen[bytes]] = []
        self.wanted, self.run_s = engines, run_s
        self.outcome = Outcome(runs=len(plan.runs))
        self.harmed: set[str] = set()  # contents that must be found again among what is set aside
        self.seen: dict[str, tuple[int, int]] = {}
        runs = [run.model_dump(mode="json") for run in plan.runs]
        (folder / "runs.json").write_text(json.dumps(runs), encoding="utf-8")
        (folder / "clock").mkdir(exist_ok=True)
        (folder / "clock" / "sitecustomize.py").write_text(_JUMPING_CLOCK)

    def disturb(self, kills: int, until: float) -> None:
        """Kill and damage so often, or until the monotonic time `until`."""
        while sum(self.outcome.kills.values()) < kills and time.monotonic() < until:
            self._engage()
            time.sleep(self.rng.uniform(0.02, self.run_s))
            self._watch_records()
            self._kill()
            # Engines that find everything done end, and the next have to load everything again.
            most = len(self.seen) > len(self.plan.runs) - 2 * self.wanted
            for _ in range(len(self.plan.runs) if most else self.rng.random() < 0.1):
                self.damage(self.rng.choice(self.plan.runs), self.rng.choice(DAMAGES))
        killed = sum(self.outcome.kills.values())
        if killed < kills:
            self.outcome.problems.append(f"time for {killed} of {kills} kills only")
        if not self.outcome.kills["worker"]:
            self.outcome.problems.append("no worker was killed: nothing was tried")

    def finish(self, until: float) -> None:
        """Leave the engines alone until the study is complete."""
        while not all(self.store.is_done(run.run_id) for run in self.plan.runs):
            if time.monotonic() > until:
                break
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
            path = os.pathsep.join(
                [str(self.folder / "clock"), str(ROOT), os.environ.get("PYTHONPATH", "")]
            )
            self.engines.append(
                subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.disturbed_engine", str(self.store.root),
                     str(self.folder / "runs.json"), str(EXPIRY_S)],
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
    files = (path for path in store.damaged() if path.is_file())
    aside = {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    if lost := harmed - aside:
        problems.append(f"{len(lost)} of {len(harmed)} damaged records were not kept")
    return problems


def measure(folder: Path, *, kills: int, runs: int, minutes: float, seed: int = 0) -> Outcome:
    """The whole trial below `folder`; bounded by `minutes` of disturbing and as many to recover."""
    started = time.monotonic()
    plan, reference = undisturbed(folder, runs)
    run_s = (time.monotonic() - started) / runs
    disturber = Disturber(folder, plan, seed=seed, run_s=run_s)
    disturber.disturb(kills, time.monotonic() + 60 * minutes)
    disturber.finish(time.monotonic() + 60 * minutes)
    outcome = disturber.outcome
    outcome.problems += check(plan, reference, disturber.store, disturber.harmed)
    outcome.seconds = time.monotonic() - started
    return outcome


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
