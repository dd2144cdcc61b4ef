"""Where the seconds of a whole study go, from the shell to its end: training, and all around it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.results import write_results
from benchmarks.turns import described, machine

TARGET = 0.8  # of the wall-clock time that is training
START, CHECK, WORKER, BETWEEN, END, LEAVE = (
    "starting the command",
    "checking the study, its data and its models",
    "starting a worker",
    "between two runs",
    "merging the student, and the report",
    "leaving the command",
)
TRAINING, EVALUATING = "training", "evaluating between epochs"
ORDER = (
    START,
    CHECK,
    WORKER,
    "reading data",
    "labelling by the teacher",
    "building the model",
    TRAINING,
    EVALUATING,
    "saving and scoring",
    "measuring",
    "recording",
    BETWEEN,
    END,
    LEAVE,
)


def measure(study: str, out: Path) -> dict[str, Any]:
    """Seconds by part of a study that is run from the shell by one worker, into an empty folder.

    `study` is a study file or a preset's name. What is downloaded is to be here already.
    """
    if out.exists():
        raise FileExistsError(f"{out} is there already, and its runs would not be done again")
    begun = time.time()
    program = "import sys; from benchmarks.study_seconds import run; run(*sys.argv[1:])"
    subprocess.run([sys.executable, "-c", program, study, str(out)], check=True)
    ended = time.time()
    found = json.loads((out / _SECONDS).read_text(encoding="utf-8"))
    seconds = {START: found["begun"] - begun, **found["seconds"], LEAVE: ended - found["ended"]}
    return {
        "study": study,
        "runs": found["runs"],
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "seconds": seconds,
        "wall_s": ended - begun,
        "target": TARGET,
    }


_SECONDS = "seconds.json"


def run(study: str, out: str) -> None:
    """Run a study with a clock; what `measure` starts in a process of its own."""
    import kdlora

    seconds: dict[str, float] = {}
    part, since = CHECK, time.time()
    begun, trained, runs = since, 0.0, 0
    steps = False  # whether the run that is going on has trained in steps, as baselines do not

    def begin(following: str) -> None:
        nonlocal part, since
        now = time.time()
        seconds[part] = seconds.get(part, 0.0) + now - since
        part, since = following, now

    def on_event(_: Any, event: dict[str, Any]) -> None:
        nonlocal trained, runs, steps
        if "start" in event:
            steps = False
            begin(WORKER)
        elif "stage" in event:
            steps = steps or event["stage"] == TRAINING
            begin(event["stage"])
        elif "done" in event:
            trained += (event["done"].efficiency.train_s or 0.0) if steps else 0.0
            runs += 1
            begin(BETWEEN)

    kdlora.run(study, out=out, on_event=on_event)
    part = END  # what came after the last run is no pause between two
    begin(LEAVE)
    seconds[EVALUATING] = seconds.get(TRAINING, 0.0) - trained
    seconds[TRAINING] = trained
    found = {"begun": begun, "ended": since, "runs": runs, "seconds": seconds}
    (Path(out) / _SECONDS).write_text(json.dumps(found), encoding="utf-8")


def write(found: dict[str, Any], folder: Path) -> None:
    """`study_seconds.json` with every number and `study_seconds.md` with the table."""
    print(write_results(folder, "study_seconds", found, as_markdown(found)))


def as_markdown(found: dict[str, Any]) -> str:
    """The table: seconds and share of each part, in the order of a run."""
    seconds, whole = found["seconds"], found["wall_s"]
    share = seconds.get(TRAINING, 0.0) / whole
    lines = [
        "# Where a study's seconds go",
        "",
        f"`kdlora {'demo' if found['study'] == 'demo' else 'run ' + found['study']}`, "
        f"{found['runs']} runs by one worker, {whole:.0f} seconds from the shell to its end, of "
        f"which {100 * share:.0f} % are training steps (aim {100 * found['target']:.0f} %). All "
        "runs of the study are added. Evaluations choose the checkpoint; saving and scoring loads "
        "the saved model again; measuring times its latency beside the teacher's.",
        "",
        f"Measured {found['measured_at']} on {described(found['machine'])} by `python -m "
        f"benchmarks study-seconds --study {found['study']}`.",
        "",
        "| part | seconds | share |",
        "|---|---:|---:|",
    ]
    known = [part for part in ORDER if part in seconds]
    for part in known + sorted(set(seconds) - set(known)):
        lines.append(f"| {part} | {seconds[part]:.1f} | {100 * seconds[part] / whole:.1f} % |")
    return "\n".join(lines) + "\n"
