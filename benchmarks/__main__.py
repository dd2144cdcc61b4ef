"""`python -m benchmarks speed`: time kdlora beside its peers; `matmul`: the machine's products."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import matmul, speed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("speed", help="the table of ratios")
    table.add_argument("--repeats", type=int, default=5, help="rounds, after one warm-up")
    table.add_argument("--only", nargs="*", choices=list(speed.MEASURES), default=None)
    table.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    commands.add_parser("matmul", help="rates of matrix products by shape and number of rows")
    arguments = parser.parse_args()
    if arguments.command == "matmul":
        matmul.print_rates()
        return
    results = speed.measure(arguments.only or list(speed.MEASURES), arguments.repeats)
    speed.write(results, arguments.out)
    print((arguments.out / "speed.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
