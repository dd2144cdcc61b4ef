"""Break a tiny study in every way that happens, then see that nothing was lost or counted twice.

Processes are killed while they work (`benchmarks.kills`), one file of each kind is damaged
(`benchmarks.damage`), records become those of other versions, and disks of many sizes are full,
where a small one may be mounted.

Each piece is a line in a file: called again, the script adds to what was tried before.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import damage, kills
from benchmarks.kills import check, undisturbed
from benchmarks.results import write_results
from benchmarks.tiny_study import tiny_study
from kdlora.distillation import soft_labels
from kdlora.engines.local import run_plan
from kdlora.engines.supervisor import EngineOptions
from kdlora.errors import StoreError
from kdlora.records.frame import save_plan
from kdlora.records.record import checksum
from kdlora.records.store import Store
from kdlora.spec.plan import Plan


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


def kill_piece(folder: Path, *, seed: int, **asked: Any) -> dict[str, Any]:
    """A piece of the killing, asked for as in `kills.measure`, as its line in the file."""
    return {"piece": "kills", "seed": seed, **vars(kills.measure(folder, seed=seed, **asked))}


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


def _killed(killed: Counter[str], harmed: Counter[str]) -> list[str]:
    """The part of the page about kills; nothing where there were none."""
    if not killed:
        return []
    return [
        "## Killed while at work", "",
        f"{sum(killed.values()):,} kills by SIGKILL at random moments ("
        f"{', '.join(f'{n} {what}' for what, n in killed.most_common())}), two engines on one "
        f"folder, beside {sum(harmed.values())} damages to records and leases "
        f"({', '.join(f'{n} {what}' for what, n in harmed.most_common())}).", "",
    ]  # fmt: skip


def page(lines: list[dict[str, Any]]) -> str:
    """The tables in Markdown."""
    killed: Counter[str] = Counter()
    harmed: Counter[str] = Counter()
    kinds: dict[str, Counter[str]] = {}
    for line in lines:
        killed.update(line.get("kills", {}))
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
        f"the same scores and the same predictions. {len(lines)} piece{'s' * (len(lines) > 1)}, "
        f"{sum(line['seconds'] for line in lines) / 60:.0f} minutes.", "",
        f"**{'; '.join(problems) or 'Nothing lost, counted twice or silently different'}.**", "",
        *_killed(killed, harmed),
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
