"""Commands that try studies: overhead, seconds, many runs, faults, reports of many runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import faults, many_runs, overhead, report, study_seconds

COMMANDS = ("overhead", "many", "faults", "report", "study-seconds")
OUT = Path("results/benchmarks")


def add_commands(commands: Any) -> None:
    """Add the five to the subparsers of ``python -m benchmarks``."""
    cost = commands.add_parser("overhead", help="what a run costs beyond itself")
    cost.add_argument("--runs", type=int, default=12, help="after a warm-up of two")
    lots = commands.add_parser("many", help="stub-size runs: complete, stop half-way, resume")
    lots.add_argument("--runs", type=int, default=1053)
    lots.add_argument("--workers", type=int, default=2)
    lots.add_argument("--folder", type=Path, default=None, help="kept, and taken up again")
    broken = commands.add_parser("faults", help="kill and damage a tiny study at random")
    broken.add_argument("--kills", type=int, default=200, help="more of them; 0: none")
    broken.add_argument("--damages", type=int, default=1000, help="to files, more; 0: none")
    broken.add_argument("--lines", type=Path, default=OUT / "faults.jsonl", help="keeps each piece")
    broken.add_argument("--runs", type=int, default=48)
    broken.add_argument("--minutes", type=float, default=10.0, help="bound of the disturbing")
    broken.add_argument("--seed", type=int, default=0)
    shown = commands.add_parser("report", help="time and memory of report and compare by runs")
    shown.add_argument("--runs", type=int, nargs="*", default=list(report.RUNS), help="made up")
    shown.add_argument("--table", type=Path, nargs="*", default=[], help="of results, as well")
    spent = commands.add_parser("study-seconds", help="where the seconds of a whole study go")
    spent.add_argument("--study", default="demo", help="a study file or a preset")
    spent.add_argument("--folder", type=Path, default=OUT / "study_seconds", help="made; its runs")
    for parser in (cost, lots, broken, shown, spent):
        parser.add_argument("--out", type=Path, default=OUT, help="folder of the JSON")


def run_command(arguments: argparse.Namespace) -> None:
    """Do the command that was asked for. Exits with 1 when faults have left their mark."""
    if arguments.command == "overhead":
        found = overhead.measure(arguments.runs)
        found["overhead_cpu_ms"] = overhead.measure_cpu(arguments.runs)
        overhead.write(found, arguments.out)
    elif arguments.command == "report":
        report.write(report.measure(arguments.runs, tables=arguments.table), arguments.out)
    elif arguments.command == "study-seconds":
        study_seconds.write(study_seconds.measure(arguments.study, arguments.folder), arguments.out)
    elif arguments.command == "many":
        found = many_runs.measure(
            arguments.runs, workers=arguments.workers, folder=arguments.folder
        )
        many_runs.write(found, arguments.out)
    else:
        pieces: list[Callable[[Path], dict[str, Any]]] = []
        if arguments.damages:
            pieces.append(
                partial(faults.damage_piece, damages=arguments.damages, seed=arguments.seed)
            )
        if arguments.kills:
            names = ("kills", "runs", "minutes", "seed")
            asked = {name: getattr(arguments, name) for name in names}
            pieces.append(partial(faults.kill_piece, **asked))
        if faults.run(arguments.lines, arguments.out, pieces):
            raise SystemExit(1)
