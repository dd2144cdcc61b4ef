"""How long a report and a comparison of many runs take, and how much memory; start-up included."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.command import measured
from benchmarks.results import write_results
from kdlora.machine import available_cores, processor_name
from kdlora.vocabulary.arm import PEFT_VARIANTS, Arm

RUNS = (742, 10_000)
COMMANDS = ("report", "compare")
TASKS = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")
ARMS = (
    "teacher/fft", *(f"teacher/{v}" for v in PEFT_VARIANTS),
    *(f"student/kd-{v}" for v in PEFT_VARIANTS),
)  # fmt: skip


def write_table(path: Path, runs: int, rng: np.random.Generator) -> int:
    """A table of made-up results, in the shape of the published 742; returns how many runs it has.

    All nine tasks, fine-tuning and all variants of LoRA for the teacher, the same variants for the
    distilled student; more runs are more pairs of encoders and more seeds, as many of either.
    """
    blocks = max(1.0, runs / (len(TASKS) * len(ARMS)))
    pairs = max(1, round(blocks**0.5))
    seeds = max(1, round(blocks / pairs))
    rows = []
    for task in TASKS:
        level = rng.uniform(0.5, 0.95)
        for pair in range(pairs):
            for arm in ARMS:
                student = Arm.read(arm).is_student
                mean = level - 0.02 * student + rng.normal(0, 0.01)
                size = (0.5 if student else 1.0) * (1 + pair % 3)
                for seed in range(seeds):
                    rows.append(
                        {
                            "pair": f"encoder-{pair}",
                            "task": task,
                            "arm": arm,
                            "seed": seed,
                            "metric": "matthews" if task == "cola" else "accuracy",
                            "score": float(np.clip(mean + rng.normal(0, 0.008), 0, 1)),
                            "trainable_params": 1e6 * size,
                            "size_mb": 400 * size,
                            "latency_p50_ms": 20 * size * rng.normal(1, 0.02),
                            "peak_memory_mb": 3000 * size,
                            "train_s": 600 * size * rng.normal(1, 0.05),
                        }
                    )
    pd.DataFrame(rows).to_csv(path, index=False)
    return len(rows)


def measure(runs: Sequence[int] = RUNS, *, tables: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """One row a table and command: processor and wall-clock seconds, peak memory in MB.

    `tables` are results of others, such as the published runs; the made-up ones come after them.
    """
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = list(tables)
        for size in runs:
            path = folder / f"made-up-{size}.csv"
            write_table(path, size, np.random.default_rng(0))
            given.append(path)
        for path in given:
            results = ["--results", str(folder / "results")]
            measured(["import", str(path), "--as", path.stem, *results])
            study = folder / "results" / path.stem
            for command in COMMANDS:
                taken = measured([command, str(study)])
                rows.append(
                    {
                        "table": path.name,
                        "runs": len(pd.read_parquet(study / "imported.parquet", columns=[])),
                        "command": command,
                        "cpu_s": taken.cpu_s,
                        "wall_s": taken.wall_s,
                        "peak_mb": taken.peak_mb,
                    }
                )
    return rows


def page(rows: Sequence[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    lines = [
        "# What a report and a comparison of many runs take",
        "",
        f"Measured {datetime.now(UTC).isoformat(timespec='seconds')} on {processor_name()},",
        f"{available_cores()} cores, by `python -m benchmarks report`: `kdlora report STUDY` and",
        "`kdlora compare STUDY` on an imported table, from the command's start to its end.",
        "Processor seconds are those of all threads; they do not count the waiting for other",
        "programs. Made-up tables have nine tasks and 13 arms, with more pairs of encoders and",
        "more seeds the more runs there are.",
        "",
        "| table | runs | command | processor seconds | seconds | peak memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['table']} | {row['runs']:,} | {row['command']} | {row['cpu_s']:.1f} | "
        f"{row['wall_s']:.1f} | {row['peak_mb']:.0f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def write(rows: list[dict[str, Any]], out: Path) -> None:
    """Keep them as JSON and as a page, and print the page."""
    text = page(rows)
    write_results(out, "report", {"rows": rows}, text)
    print(text, end="")
