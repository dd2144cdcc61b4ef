"""A whole cell of a study: one task, one seed, every arm of the reports and both controls.

A teacher fully fine-tuned, six adapted teachers, six distilled students and two students without
distillation: 15 runs. By kdlora as one command, by the reports' recipe as one program a run; both
with start-up, evaluation and saving. The encoders have MiniLM's shapes and random weights.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import AutoModel, BertConfig

from benchmarks.peers import tokenizer
from benchmarks.reports_run import VARIANTS
from benchmarks.workload import make_workload

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


def seconds_by_kdlora(folder: Path) -> float:
    """`kdlora run` on the cell, from the shell's start to its end."""
    with tempfile.TemporaryDirectory() as out:
        command = ["-m", "kdlora", "run", str(folder / "cell.yaml"), "--out", f"{out}/cell"]
        return _seconds(command)


def seconds_by_recipe(folder: Path) -> float:
    """The same 15 runs, one program each."""
    runs = [["teacher", "fft"], ["student", "fft"], ["student", "lora"]]
    runs += [["teacher", v] for v in VARIANTS] + [["student", v, "--kd"] for v in VARIANTS]
    return sum(_seconds(["-m", "benchmarks.reports_run", str(folder), *run]) for run in runs)


def _seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return time.perf_counter() - started


def measure_cell(rows: int, held_out: int, repeats: int) -> dict[str, Any]:
    """Seconds of the cell by both, in turns."""
    taken: dict[str, list[float]] = {"kdlora": [], "(a) reports' recipe": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "cell"
        prepare(folder, rows, held_out)
        for turn in range(repeats):
            for who, run in zip(taken, (seconds_by_kdlora, seconds_by_recipe), strict=True):
                taken[who].append(run(folder))
                print(f"  round {turn + 1}  {who}: {taken[who][-1]:.0f} s", flush=True)
    return {
        "rows": rows,
        "held_out": held_out,
        "repeats": repeats,
        "seconds": taken,
        "ratios": [b / a for a, b in zip(*taken.values(), strict=True)],
    }
