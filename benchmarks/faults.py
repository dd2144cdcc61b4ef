"""Break a tiny study in every way that happens, then see that nothing was lost or counted twice.

Two engines work on one folder while workers, fork servers and engines are killed at random, records
are torn, truncated and edited, leases of machines that are gone lie about, and the time of day
jumps. Afterwards every run must be recorded once, with the same quality and the same predictions
as in an undisturbed study, and every damaged file must have been set aside. Then one file of each
kind is damaged (`benchmarks.damage`), records become those of other versions, and disks of many
sizes are full, where a small one may be mounted.

Each piece is a line in a file: called again, the script adds to what was tried before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import damage
from benchmarks.results import write_results
from benchmarks.tiny_study import tiny_plan, tiny_study
from kdlora.distillation import soft_labels
from kdlora.engines.local import run_plan
from kdlora.engines.selection import RunSelection
from kdlora.engines.supervisor import EngineOptions
from kdlora.errors import StoreError
from kdlora.records import leases
from kdlora.records.frame import save_plan
from kdlora.records.predictions import read_predictions
from kdlora.records.record import checksum
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
    files = (path for path in store.damaged() if path.is_file())
    aside = {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
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


def repairs(folder: Path, plan: Plan, reference: Store, *, seed: int) -> list[dict[str, Any]]:
    """Files damaged in a copy of the finished study, which then goes on: what it made of each."""
    found = []
    for name in REPAIRED:
        rng = random.Random(f"{seed} {name}")
        place = folder / name.replace("/", "-").replace("*", "any")
        shutil.copytree(reference.root, place)
        store = Store(place)
        having = [p for p in sorted(place.glob(f"runs/*/{name}")) if p.is_file()]
        path = rng.choice(having)
        content = damage.harmed(path.read_bytes(), rng)
        if name == soft_labels.FILE:  # only who learns from the teacher reads it
            student = next(r for r in plan.runs if path.parent.name in r.teachers)
            (store.folder(student.run_id) / "record.json").unlink()
            content = path.read_bytes()  # of a logit: the head has blanks that say nothing
            content = content[:-1] + bytes([content[-1] ^ 1 << rng.randrange(8)])
        path.write_bytes(content)
        status = run_plan(plan, store, EngineOptions(threads=1))
        problems = check(plan, reference, store, set())
        if set(status.values()) != {"done"}:
            problems.append(f"{status}")
        kept = [p for p in place.rglob("*") if p.is_file() and ".damaged-" in str(p)]
        if content not in [p.read_bytes() for p in kept]:
            problems.append(f"the damaged {name} was not kept")
        found.append({"file": name, "problems": problems})
        shutil.rmtree(place)
    return found


REPAIRED = ("record.json", "predictions.parquet", "history.jsonl", "model/config.json",
            "model/*.safetensors", soft_labels.FILE)  # fmt: skip


def other_versions(folder: Path, plan: Plan, reference: Store) -> list[str]:
    """Records of an older and a newer version; what is wrong with how they are read, in words."""
    problems = []
    for name, (change, read) in VERSIONS.items():
        store = Store(folder / name.replace(" ", "-"))
        shutil.copytree(reference.root, store.root)
        for run in plan.runs:
            path = store.folder(run.run_id) / "record.json"
            values = json.loads(path.read_text())
            change(values)
            values["checksum"] = checksum(values)
            path.write_text(json.dumps(values))
        before = {p: p.read_bytes() for p in store.root.rglob("*") if p.is_file()}
        try:
            status = run_plan(plan, store, EngineOptions(threads=1))
            understood = set(status.values()) == {"done"}
        except StoreError as error:
            understood = "was written by kdlora" not in str(error)
        if understood != read:
            problems.append(f"{name}: {'not' * read} read")
        after = {p: p.read_bytes() for p in before if p.is_file()}
        if before != after or store.damaged():
            problems.append(f"{name}: something was moved or written anew")
        shutil.rmtree(store.root)
    return problems


def _older(values: dict[str, Any]) -> None:
    for name in ("files", "task"):
        values.pop(name, None)


def _newer(values: dict[str, Any]) -> None:
    values["novelty"] = {"a": [1]}
    values["run"]["novelty"] = values["efficiency"]["novelty"] = 1


# What another version made of a record, and whether this one is to read it.
VERSIONS: dict[str, tuple[Callable[[dict[str, Any]], None], bool]] = {
    "an older version": (_older, True),
    "a newer version, fields added": (_newer, True),
    "a newer version, another schema": (lambda values: values.update(schema=2), False),
    "a newer version, another meaning": (lambda v: v.update(status="postponed"), False),
}


def full_disk(folder: Path, plan: Plan, reference: Store, share: float) -> str:
    """A study on a disk of a share of what it needs, then made larger; what happened, in words."""
    whole_mb = sum(p.stat().st_size for p in reference.root.rglob("*") if p.is_file()) / 2**20
    with _small_disk(folder / f"disk-{share}", whole_mb * share) as grow:
        if grow is None:
            return "not tried: no small disk may be mounted here"
        store = Store(folder / f"disk-{share}" / "study")
        told = "it never said so"
        try:
            store.prepare()
            save_plan(store, tiny_study(folder / "inputs", seeds=1), plan)
            run_plan(plan, store, EngineOptions(threads=1))
        except StoreError as error:
            told = "it said that the disk is full" if "full" in str(error) else f"WRONG: {error}"
        before = sum(store.is_done(run.run_id) for run in plan.runs)
        grow()
        status = run_plan(plan, store, EngineOptions(threads=1))
        problems = check(plan, reference, store, set())
        if set(status.values()) != {"done"} or problems:
            return f"WRONG: {status} {problems}"
    return f"{before} of {len(plan.runs)} runs done, {told}; complete and equal once it had grown"


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


def kill_piece(folder: Path, *, kills: int, runs: int, minutes: float, seed: int) -> dict[str, Any]:
    """A piece of the disturbing, as its line in the file."""
    outcome = measure(folder, kills=kills, runs=runs, minutes=minutes, seed=seed)
    return {"piece": "kills", "seed": seed, **vars(outcome)}


def damage_piece(folder: Path, *, damages: int, seed: int) -> dict[str, Any]:
    """Damaged files, records of other versions and full disks, as their line in the file."""
    began = time.monotonic()
    plan, reference = undisturbed(folder, 4)
    (folder / "damage").mkdir()
    tallies = damage.damage_all(folder / "damage", plan, reference, number=damages, seed=seed)
    return {
        "piece": "damages",
        "seed": seed,
        "kinds": [vars(tally) for tally in tallies],
        "repairs": repairs(folder / "repairs", plan, reference, seed=seed),
        "versions": list(VERSIONS),
        "version_problems": other_versions(folder / "versions", plan, reference),
        "disks": {f"{s:g}": full_disk(folder, plan, reference, s) for s in DISKS},
        "seconds": time.monotonic() - began,
    }


DISKS = (0.02, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)  # of what the study needs


def problems_of(lines: list[dict[str, Any]]) -> list[str]:
    """All that must not be, in sentences."""
    found = []
    for line in lines:
        found += line.get("problems", [])
        found += [f"{k['kind']}: {w}" for k in line.get("kinds", []) for w in k["wrong"]]
        found += [f"{r['file']}: {p}" for r in line.get("repairs", []) for p in r["problems"]]
        found += line.get("version_problems", [])
        found += [f"{s}: {told}" for s, told in line.get("disks", {}).items() if "WRONG" in told]
    return found


def page(lines: list[dict[str, Any]]) -> str:
    """The tables in Markdown."""
    kills: Counter[str] = Counter()
    harmed: Counter[str] = Counter()
    kinds: dict[str, Counter[str]] = {}
    for line in lines:
        kills.update(line.get("kills", {}))
        harmed.update(line.get("damages", {}))
        for kind in line.get("kinds", []):
            own = kinds.setdefault(kind["kind"], Counter())
            own.update({k: v for k, v in kind.items() if isinstance(v, int)})
            own["wrong"] += len(kind["wrong"])
    total = sum(own["flips"] + own["cuts"] for own in kinds.values())
    problems = problems_of(lines)
    text = [
        "# Faults", "",
        "`python -m benchmarks faults` kills, damages and fills up a study of tiny encoders, and "
        "holds what comes out against an undisturbed one: the same runs, each recorded once, with "
        f"the same scores and the same predictions. {len(lines)} pieces, "
        f"{sum(line['seconds'] for line in lines) / 60:.0f} minutes.", "",
        f"**{'; '.join(problems) or 'Nothing lost, counted twice or silently different'}.**", "",
        "## Killed while at work", "",
        f"{sum(kills.values()):,} kills by SIGKILL at random moments ("
        f"{', '.join(f'{n} {what}' for what, n in kills.most_common())}), two engines on one "
        f"folder, beside {sum(harmed.values())} damages to records and leases "
        f"({', '.join(f'{n} {what}' for what, n in harmed.most_common())}).", "",
        "## One flipped bit, or cut off", "",
        f"{total:,} damages to files that are read back. Named: one of kdlora's errors says which "
        "file. Not trusted: it is as if it were not there, and is made again. Unchanged: the bit "
        "says nothing, and all that is read is what was written.", "",
        "| file | flipped | cut | named | not trusted | unchanged | wrong |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *(f"| {name} | {own['flips']} | {own['cuts']} | {own['named']} | {own['untrusted']} | "
          f"{own['unchanged']} | {own['wrong']} |" for name, own in kinds.items()), "",
    ]  # fmt: skip
    repaired = Counter(r["file"] for line in lines for r in line.get("repairs", []))
    if repaired:
        text += [
            "A study in which such a file lies goes on, sets it aside and ends like the undisturbed"
            f" one: {', '.join(f'{name} ({n})' for name, n in repaired.items())}.", "",
        ]  # fmt: skip
    versions = [name for line in lines for name in line.get("versions", [])]
    if versions:
        text += ["## Records of other versions", ""]
        text += [f"- {name}: {'read' if VERSIONS[name][1] else 'named, nothing moved'}"
                 for name in dict.fromkeys(versions)] + [""]  # fmt: skip
    disks = {s: told for line in lines for s, told in line.get("disks", {}).items()}
    if disks:
        text += ["## A disk that is full", ""]
        text += ["| room, of what the study needs | what happened |", "|---:|---|"]
        text += [f"| {float(s):.0%} | {told} |" for s, told in disks.items()] + [""]
    return "\n".join(text)


def run(lines: Path, out: Path, pieces: Iterable[Callable[[Path], dict[str, Any]]]) -> list[str]:
    """Do the pieces, keep a line of each, write the page of all; returns the problems."""
    lines.parent.mkdir(parents=True, exist_ok=True)
    for piece in pieces:
        with tempfile.TemporaryDirectory() as folder, lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(piece(Path(folder))) + "\n")
    found = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    text = page(found)
    write_results(out, "faults", {"pieces": found}, text)
    print(text)
    return problems_of(found)
