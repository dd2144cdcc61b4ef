"""From the shell to the saved student: one user's Trainer script beside kdlora, everything counted.

Both have the same encoders, rows and epochs. `kdlora run` does what the script does, a teacher and
a student that learns from it. `kdlora distil` trains two more models, the student without a teacher
by full fine-tuning and by the adapter, and chooses among three. kdlora also writes a report.
"""

from __future__ import annotations

import ctypes.util
import os
import shutil
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.cell import prepare
from benchmarks.results import write_results
from benchmarks.turns import ALLOCATOR, described, machine

SCRIPT, RUN, DISTIL = "a Trainer script", "`kdlora run`, the same models", "`kdlora distil`"
MODELS = {SCRIPT: 2, RUN: 2, DISTIL: 4}
SELECTION = 500  # training rows that choose the best epoch, on all sides

_STUDY = """
name: end
tasks: [{{name: words, train: train.csv, eval: eval.csv, metric: accuracy}}]
pairs: [{{teacher: ./teacher, student: ./student}}]
arms: [teacher/fft, student/kd-lora]
seeds: [1]
baselines: false
training: {{epochs: {epochs}}}
adapter: {{rank: 16, targets: all-linear}}
"""


def measure(folder: Path, *, rows: int, held_out: int, epochs: int, repeats: int) -> dict[str, Any]:
    """Wall-clock seconds of each program by round, in turns."""
    folder = folder.absolute()
    prepare(folder, rows, held_out)
    (folder / "end.yaml").write_text(_STUDY.format(epochs=epochs), encoding="utf-8")
    taken: dict[str, list[float]] = {who: [] for who in MODELS}
    for turn in range(repeats):
        for who, arguments in commands(folder, epochs).items():
            for made in ("out", "saved"):
                shutil.rmtree(folder / made, ignore_errors=True)
            taken[who].append(_seconds(arguments, who == SCRIPT))
            print(f"  round {turn + 1}  {who}: {taken[who][-1]:.1f} s", flush=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    size = {"rows": rows, "held_out": held_out, "epochs": epochs, "repeats": repeats}
    return {"measured_at": now, "machine": machine(), **size, "wall_s": taken}


def commands(folder: Path, epochs: int) -> dict[str, list[str]]:
    """What is run, by who."""
    out = ["--out", str(folder / "out")]
    return {
        SCRIPT: ["-m", "benchmarks.trainer_script", str(folder), str(epochs), str(SELECTION)],
        RUN: ["-m", "kdlora", "run", str(folder / "end.yaml"), *out],
        DISTIL: [
            "-m", "kdlora", "distil", "--train", str(folder / "train.csv"),
            "--eval", str(folder / "eval.csv"), "--teacher", str(folder / "teacher"),
            "--student", str(folder / "student"), "--metric", "accuracy", "--kind",
            "classification", "--epochs", str(epochs), *out,
        ],
    }  # fmt: skip


def _seconds(arguments: list[str], theirs: bool) -> float:
    environment = dict(os.environ)
    if theirs and (library := ctypes.util.find_library(ALLOCATOR)):
        environment["LD_PRELOAD"] = library
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment
    )
    taken = time.perf_counter() - begun
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(arguments)} failed:\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
        )
    return taken


def write(found: dict[str, Any], folder: Path) -> None:
    """`end_to_end.json` with every number and `end_to_end.md` with the table."""
    write_results(folder, "end_to_end", found, as_markdown(found))


def as_markdown(found: dict[str, Any]) -> str:
    """The table: seconds of each program, and how many times as long the script took."""
    lines = [
        "# From the shell to the saved student",
        "",
        f"{found['rows']:,} training rows of a CSV file, {SELECTION} of which choose the best of "
        f"{found['epochs']} epochs, and {found['held_out']:,} rows to score. The encoders have the "
        "shapes of MiniLM (teacher 6 layers of 384, student 3). The script (`benchmarks/"
        "trainer_script.py`) uses the Trainer and peft as well as one can: grouped by length, "
        "fused AdamW, eager attention, the number format that is fast here, large batches where "
        "nothing is trained"
        f"{', tcmalloc' if found['machine']['tcmalloc'] else ''}. Start-up, tokenising, training, "
        "evaluation and saving are counted on all sides, and kdlora's checks, timing and report.",
        "",
        f"Measured {found['measured_at']} on {described(found['machine'])} by `python -m "
        f"benchmarks end-to-end --rows {found['rows']} --held-out {found['held_out']} --epochs "
        f"{found['epochs']} --repeats {found['repeats']}`, in turns.",
        "",
        "| program | models trained | seconds (median) | least - most | seconds a model | "
        "the script takes |",
        "|---|---|---|---|---|---|",
    ]
    script = found["wall_s"][SCRIPT]
    for who, seconds in found["wall_s"].items():
        ratios = [a / b for a, b in zip(script, seconds, strict=True)]
        median = statistics.median(seconds)
        times = "" if who == SCRIPT else f"{statistics.median(ratios):.2f} x as long"
        lines.append(
            f"| {who} | {MODELS[who]} | {median:.1f} | {min(seconds):.1f} - {max(seconds):.1f} | "
            f"{median / MODELS[who]:.1f} | {times} |"
        )
    return "\n".join(lines) + "\n"
