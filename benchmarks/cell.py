"""A whole cell of a study: one task, one seed, every arm of the reports and both controls.

A teacher fully fine-tuned, six adapted teachers, six distilled students and two students without
distillation: 15 runs. By kdlora as one command, by the reports' recipe as one program a run; both
with start-up, evaluation and saving. The encoders have MiniLM's shapes and random weights.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import AutoModel, BertConfig

from benchmarks.peers import tokenizer
from benchmarks.reports_run import VARIANTS
from benchmarks.results import write_results
from benchmarks.turns import aims, described, machine
from benchmarks.workload import make_workload

PEER = "(a) reports' recipe"
OURS, OURS_SHARED = "kdlora", "kdlora, a worker a thread"
TARGET = 12

_STUDY = """
name: cell
tasks:
  - {{name: words, train: train.csv, eval: eval.csv}}
pairs: [{{teacher: ./teacher, student: ./student}}]
arms: [teacher/fft, {arms}, student/fft, student/lora]
seeds: [1]
baselines: false
training: {{epochs: 1}}
adapter: {{rank: 8, targets: query-value}}
"""


def prepare(folder: Path, rows: int, held_out: int) -> None:
    """Encoders, texts and the study file of a cell."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, layers in (("teacher", 6), ("student", 3)):
        torch.manual_seed(layers)
        config = BertConfig(
            hidden_size=384, num_hidden_layers=layers, num_attention_heads=12,
            intermediate_size=1536,
        )  # fmt: skip
        AutoModel.from_config(config).save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
    rng = np.random.default_rng(0)
    for name, n, seed in (("train", rows, 1), ("eval", held_out, 2)):
        made = make_workload("movie-reviews", n, seed=seed).texts
        texts = [
            " ".join(f"w{i}" for i in made.ids[made.offsets[k] : made.offsets[k + 1] - 2])
            for k in range(n)
        ]
        labels = np.where(rng.random(n) < 0.5, "yes", "no")
        pd.DataFrame({"text": texts, "label": labels}).to_csv(folder / f"{name}.csv", index=False)
    arms = [f"{role}{v}" for role in ("teacher/", "student/kd-") for v in VARIANTS]
    (folder / "cell.yaml").write_text(_STUDY.format(arms=", ".join(arms)), encoding="utf-8")


def programs(folder: Path) -> list[tuple[str, str, list[str]]]:
    """(who, name, arguments) of every program of a round: the peer's 15, kdlora's among them.

    kdlora does the study twice: with one worker that has all threads, in the middle, so that a
    machine that slows down slows down both; and at the end with as many workers as threads.
    """
    runs = [["teacher", "fft"], ["student", "fft"], ["student", "lora"]]
    runs += [["teacher", v] for v in VARIANTS] + [["student", v, "--kd"] for v in VARIANTS]
    theirs = [
        (PEER, " ".join(run), ["-m", "benchmarks.reports_run", str(folder), *run]) for run in runs
    ]
    study, out = str(folder / "cell.yaml"), str(folder / "out")
    command = ["-m", "kdlora", "run", study, "--out", out]
    whole = (OURS, "study", command)
    shared = (OURS_SHARED, "study", [*command, "--workers", str(torch.get_num_threads())])
    return [*theirs[:8], whole, *theirs[8:], shared]


def measure_cell(
    folder: Path, *, rows: int, held_out: int, repeats: int, pieces: int | None = None
) -> dict[str, Any] | None:
    """Time the cell by both, program by program; None while some are left.

    What is done is kept in `folder`, and at most `pieces` further programs are started, so that
    a busy machine can be measured in its quiet moments. Raises ValueError for a folder that holds
    a cell of another size.
    """
    folder = folder.absolute()
    size = {"rows": rows, "held_out": held_out, "repeats": repeats}
    taken_file = folder / "taken.json"
    if not taken_file.is_file():
        prepare(folder, rows, held_out)
        _write(taken_file, {**size, "programs": []})
    state = json.loads(taken_file.read_text(encoding="utf-8"))
    if {name: state[name] for name in size} != size:
        raise ValueError(f"{folder} holds a cell of another size: {taken_file}")
    todo = [(turn, *program) for turn in range(repeats) for program in programs(folder)]
    for turn, who, name, arguments in todo[len(state["programs"]) :][:pieces]:
        shutil.rmtree(folder / "out", ignore_errors=True)  # of another round, or of a broken one
        wall_s, cpu_s = _run(arguments)
        print(f"  round {turn + 1}  {who}, {name}: {wall_s:.0f} s", flush=True)
        state["programs"].append(
            {"round": turn, "who": who, "name": name, "wall_s": wall_s, "cpu_s": cpu_s}
        )
        _write(taken_file, state)
    if len(state["programs"]) < len(todo):
        left = len(todo) - len(state["programs"])
        print(f"{left} programs are left: run the same command again", flush=True)
        return None
    return summary(state)


def summary(state: dict[str, Any]) -> dict[str, Any]:
    """Seconds of either side by round, in all and of the processors, and their ratios."""
    done = pd.DataFrame(state["programs"])
    found: dict[str, Any] = {k: state[k] for k in ("rows", "held_out", "repeats")}
    for unit in ("wall_s", "cpu_s"):
        sums = done.pivot_table(index="round", columns="who", values=unit, aggfunc="sum")
        found[unit] = {who: sums[who].tolist() for who in (OURS, OURS_SHARED, PEER)}
        found[unit]["ratios"] = {
            who: (sums[PEER] / sums[who]).tolist() for who in (OURS, OURS_SHARED)
        }
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"measured_at": now, "machine": machine(), **found, "programs": state["programs"]}


def write(found: dict[str, Any], folder: Path) -> None:
    """`cell.json` with every number and `cell.md` with the table."""
    write_results(folder, "cell", found, as_markdown(found))


def as_markdown(found: dict[str, Any]) -> str:
    """The table: minutes of either side, and how many times as fast kdlora is."""
    about = found["machine"]
    lines = [
        "# A whole cell of a study",
        "",
        f"One task of {found['rows']:,} training and {found['held_out']:,} held-out texts, one "
        "seed, 15 runs: a teacher fully fine-tuned and with each of six adapters, a student "
        "distilled with each of them, and two students without distillation. Encoders have the "
        "shapes of MiniLM (6 and 3 layers of 384). kdlora does it as one command, with one worker "
        "that has all threads (its default) and with a worker a thread (`--workers`), the reports' "
        "recipe (Trainer and peft, fp32, padded to 128, cached logits) as one program a run. "
        "Start-up, evaluation and saving are counted on both sides.",
        "",
        f"Measured {found['measured_at']} on {described(about)} by "
        f"`python -m benchmarks cell --rows {found['rows']} --held-out {found['held_out']} "
        f"--repeats {found['repeats']}`. Seconds of the processors are what both cost on a "
        "machine that others use too; those that passed depend on them.",
        "",
        f"| seconds | kdlora | (a) reports' recipe | kdlora is | {aims(about)} |",
        "|---|---|---|---|---|",
    ]
    for unit, title in (("wall_s", "that passed"), ("cpu_s", "of the processors")):
        values = found[unit]
        theirs = statistics.median(values[PEER])
        aimed = f"{TARGET} x" if unit == "wall_s" else ""
        for who in (OURS, OURS_SHARED):
            ours, ratio = statistics.median(values[who]), statistics.median(values["ratios"][who])
            name = title + who.removeprefix("kdlora")
            lines.append(
                f"| {name} | {ours:.0f} | {theirs:.0f} | {ratio:.1f} x as fast | {aimed} |"
            )
    return "\n".join(lines) + "\n"


def _run(arguments: list[str]) -> tuple[float, float]:
    """Seconds that passed, and of the processors, of a program and all that it started."""
    _adopt_orphans()
    before, started = _cpu_s(), time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    wall_s = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    with contextlib.suppress(ChildProcessError):  # none is left
        while True:
            os.wait()
    return wall_s, _cpu_s() - before


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _adopt_orphans() -> None:
    """Become the parent of processes whose own has ended (kdlora's fork server), to count them.

    Linux only; elsewhere their seconds are missing.
    """
    set_child_subreaper = 36
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
