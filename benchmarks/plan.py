"""How long a large plan takes, and how much memory: `kdlora plan`, command line included."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.command import measured

TASKS = ["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli"]
_VARIANTS = ["lora", "adalora", "dora", "mrlora", "olora", "rslora"]
_FORMS = ("seeds", "settings", "matrix")


def study(runs: int, form: str) -> dict[str, Any]:
    """A study of at least so many runs: large by its seeds, its settings or its encoders."""
    arms = ["teacher/fft", "student/fft", *(f"student/{v}" for v in _VARIANTS)]
    arms += [f"teacher/{v}" for v in _VARIANTS] + [f"student/kd-{v}" for v in _VARIANTS]
    values: dict[str, Any] = {"name": f"large-{form}", "tasks": TASKS, "arms": arms, "seeds": [1]}
    values["matrix"] = {"teachers": ["bert-base-uncased"], "students": ["distilbert-base-uncased"]}
    if form == "seeds":
        values["seeds"] = list(range(_times(runs, len(arms) * 9)))
    elif form == "settings":
        n = _times(runs, 9 * 2)  # two arms, each setting once
        rates = [1e-5 * (1 + i) for i in range(n)]
        values["ablations"] = [
            {"arm": arm, "vary": {"training.weight_decay": rates}}
            for arm in ("student/lora", "student/kd-lora")
        ]
    else:
        n = 1
        while 9 * (n * 7 + n * 7 + n * n * 6) < runs:
            n += 1
        values["matrix"] = {
            "teachers": [f"lab/teacher-{i}" for i in range(n)],
            "students": [f"lab/student-{i}" for i in range(n)],
        }
    return values


def _times(runs: int, a_time: int) -> int:
    return -(-runs // a_time)


def measure(runs: int) -> list[dict[str, Any]]:
    """One row a form of study: wall-clock and processor seconds, peak memory in MB = 10^6 bytes."""
    rows = []
    for form in _FORMS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "study.yaml"
            path.write_text(yaml.safe_dump(study(runs, form)), encoding="utf-8")
            taken = measured(["plan", str(path), "--out", str(Path(folder) / "out")])
            said = re.search(r"^(\d+) runs, ", taken.stdout, flags=re.MULTILINE)
            assert said is not None, taken.stdout
            found = {"wall_s": taken.wall_s, "cpu_s": taken.cpu_s, "peak_mb": taken.peak_mb}
            rows.append({"form": form, "runs": int(said.group(1)), **found})
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    print(f"{'large by':10} {'runs':>8} {'wall':>8} {'cpu':>8} {'memory':>8}")
    for row in rows:
        print(
            f"{row['form']:10} {row['runs']:8,} {row['wall_s']:6.1f} s {row['cpu_s']:6.1f} s "
            f"{row['peak_mb']:5.0f} MB"
        )
