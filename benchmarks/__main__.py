"""Time kdlora beside its peers, a whole cell of a study, and matrix products by shape."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks import cell, matmul, speed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("speed", help="the table of ratios")
    table.add_argument("--repeats", type=int, default=5, help="rounds, after one warm-up")
    table.add_argument("--only", nargs="*", choices=list(speed.MEASURES), default=None)
    table.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    whole = commands.add_parser("cell", help="a whole cell of a study, start-up counted")
    whole.add_argument("--rows", type=int, default=2000, help="training texts")
    whole.add_argument("--held-out", type=int, default=500)
    whole.add_argument("--repeats", type=int, default=1)
    whole.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    commands.add_parser("matmul", help="rates of matrix products by shape and number of rows")
    arguments = parser.parse_args()
    if arguments.command == "matmul":
        matmul.print_rates()
        return
    if arguments.command == "cell":
        found = cell.measure_cell(arguments.rows, arguments.held_out, arguments.repeats)
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "cell.json").write_text(json.dumps(found, indent=2), encoding="utf-8")
        print(json.dumps(found, indent=2))
        return
    results = speed.measure(arguments.only or list(speed.MEASURES), arguments.repeats)
    speed.write(results, arguments.out)
    print((arguments.out / "speed.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
