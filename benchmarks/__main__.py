"""Time kdlora beside its peers, a whole cell of a study, and matrix products by shape."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks import (
    abstention,
    cell,
    defaults,
    embeddings,
    end_to_end,
    evidence,
    few_rows,
    figures,
    fuzz,
    gpu,
    look,
    matmul,
    plan,
    serve,
    speed,
    step,
    studies,
    variants,
)
from benchmarks.results import OtherMachine, expect_same_machine, write_results
from benchmarks.turns import machine


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("speed", help="the table of ratios")
    table.add_argument("--repeats", type=int, default=5, help="rounds, after one warm-up")
    table.add_argument(
        "--only", nargs="*", choices=list(speed.MEASURES), help="groups; the others stay as kept"
    )
    table.add_argument("--out", type=Path, default=studies.OUT)
    whole = commands.add_parser("cell", help="a whole cell of a study, start-up counted")
    whole.add_argument("--rows", type=int, default=1500, help="training texts")
    whole.add_argument("--held-out", type=int, default=400)
    whole.add_argument("--repeats", type=int, default=1)
    whole.add_argument("--pieces", type=int, default=None, help="programs to run now; all")
    whole.add_argument(
        "--folder", type=Path, default=Path("results/cell"), help="keeps what is done"
    )
    whole.add_argument("--out", type=Path, default=studies.OUT)
    ends = commands.add_parser("end-to-end", help="from the shell to the saved student")
    ends.add_argument("--rows", type=int, default=1500, help="training texts")
    ends.add_argument("--held-out", type=int, default=400)
    ends.add_argument("--epochs", type=int, default=3)
    ends.add_argument("--repeats", type=int, default=3)
    ends.add_argument("--folder", type=Path, default=Path("results/end-to-end"))
    ends.add_argument("--out", type=Path, default=studies.OUT)
    commands.add_parser("matmul", help="rates of matrix products by shape and number of rows")
    shares = commands.add_parser("step", help="where the time of a training step goes")
    shares.add_argument("--out", type=Path, default=studies.OUT)
    kinds = commands.add_parser("variants", help="a step with each variant of LoRA")
    kinds.add_argument("--rows", type=int, default=variants.ROWS)
    kinds.add_argument("--repeats", type=int, default=5, help="rounds, after one warm-up")
    kinds.add_argument("--out", type=Path, default=studies.OUT)
    tables = commands.add_parser("embeddings", help="embeddings updated by row, beside whole")
    tables.add_argument("--shapes", nargs="+", choices=list(embeddings.SHAPES))
    tables.add_argument("--rows", type=int, default=embeddings.ROWS)
    tables.add_argument("--repeats", type=int, default=3, help="rounds, after one warm-up")
    tables.add_argument("--out", type=Path, default=studies.OUT)
    load = commands.add_parser("serve", help="`kdlora serve` under load, over loopback")
    load.add_argument("model", type=Path, help="an exported folder")
    load.add_argument("--variant", default=None)
    load.add_argument("--threads", type=int, default=1)
    load.add_argument("--seconds", type=float, default=10.0, help="of each part")
    load.add_argument("--hostile-seconds", type=float, default=10.0, help="of hostile clients")
    load.add_argument("--good", type=int, default=64, help="connections beside the hostile ones")
    load.add_argument("--minutes", type=float, default=0.0, help="of the memory check; 0: none")
    load.add_argument("--rate", type=float, default=50.0, help="requests/s of the memory check")
    load.add_argument("--out", type=Path, default=studies.OUT)
    rows = commands.add_parser("look", help="time and memory of `kdlora look` by rows")
    rows.add_argument("--rows", type=int, nargs="*", default=list(look.SIZES))
    rows.add_argument("--out", type=Path, default=studies.OUT)
    card = commands.add_parser("gpu", help="whether a GPU gives what the processor gives")
    card.add_argument("--out", type=Path, default=studies.OUT)
    large = commands.add_parser("plan", help="time and memory of a large plan")
    large.add_argument("--runs", type=int, default=100_000)
    truth = commands.add_parser("evidence", help="error rates of the verdicts, by simulation")
    truth.add_argument("--studies", type=int, default=evidence.STUDIES, help="of each design")
    truth.add_argument("--minutes", type=float, default=35.0, help="goes on when called again")
    truth.add_argument("--lines", type=Path, default=evidence.LINES, help="keeps what is done")
    truth.add_argument("--out", type=Path, default=studies.OUT)
    withheld = commands.add_parser("abstention", help="whether answers given are as right as said")
    withheld.add_argument("study", type=Path, nargs="*", help="folders with stored predictions")
    withheld.add_argument("--out", type=Path, default=studies.OUT)
    broken = commands.add_parser("fuzz", help="damaged and hostile inputs for every reader")
    broken.add_argument("--inputs", type=int, default=20_000, help="over all readers, more")
    broken.add_argument("--minutes", type=float, default=30.0, help="no piece begins after them")
    broken.add_argument("--seed", type=int, help="of the first piece; default: next of --lines")
    broken.add_argument("--lines", type=Path, default=studies.OUT / "fuzz.jsonl", help="the pieces")
    broken.add_argument("--only", nargs="*", default=[], help="readers, by their names")
    broken.add_argument("--keep", type=Path, default=Path("results/fuzz"), help="what breaks one")
    broken.add_argument("--out", type=Path, default=studies.OUT)
    tried = commands.add_parser("defaults", help="settings tried on selection splits, by budget")
    tried.add_argument("--data-dir", type=Path, required=True, help="folder of <task>/train.tsv")
    tried.add_argument("--rows", type=int, nargs="*", default=[300, 1000], help="0: all labels")
    tried.add_argument("--only", nargs="*", default=[], choices=defaults.NAMES)
    tried.add_argument("--tasks", nargs="*", default=defaults.TASKS, choices=defaults.TASKS)
    tried.add_argument("--minutes", type=float, default=25.0, help="what is done then is printed")
    tried.add_argument("--folder", type=Path, default=Path("results/defaults"), help="the runs")
    tried.add_argument("--out", type=Path, default=studies.OUT)
    few = commands.add_parser("few_rows", help="what 16 to 200 labels are worth, SetFit beside")
    few.add_argument("--data-dir", type=Path, required=True, help="folder of hate/train.tsv")
    few.add_argument("--rows", type=int, nargs="*", default=list(few_rows.ROWS))
    few.add_argument("--draws", type=int, default=3, help="of the rows")
    few.add_argument("--setfit-python", help="a Python that has setfit; without it, no SetFit")
    few.add_argument("--minutes", type=float, default=10.0, help="goes on when called again")
    few.add_argument("--out", type=Path, default=studies.OUT)
    of_all = commands.add_parser("page", help="one page of what the others found")
    of_all.add_argument("--out", type=Path, default=Path("docs/results/benchmarks"))
    studies.add_commands(commands)
    arguments = parser.parse_args()
    if arguments.command in studies.COMMANDS:
        studies.run_command(arguments)
        return
    if arguments.command == "page":
        print(figures.write(arguments.out), end="")
        return
    if arguments.command == "evidence":
        lines = evidence.simulate(arguments.lines, arguments.studies, minutes=arguments.minutes)
        evidence.write(lines, arguments.out)
        print((arguments.out / "evidence.md").read_text(encoding="utf-8"))
        if any(map(evidence.broken, lines)):
            sys.exit(1)
        return
    if arguments.command == "abstention":
        promises = abstention.run(arguments.study, arguments.out)
        print(abstention.page(promises))
        if any(one.broken for one in promises):
            sys.exit(1)
        return
    if arguments.command == "fuzz":
        broke = fuzz.run(
            arguments.inputs,
            seed=arguments.seed,
            only=tuple(arguments.only),
            keep=arguments.keep,
            lines=arguments.lines,
            out=arguments.out,
            minutes=arguments.minutes,
        )
        sys.exit("; ".join(broke) or 0)
    if arguments.command == "look":
        seen = look.measure(tuple(arguments.rows))
        text = look.page(seen)
        kept = {rows: {**asdict(one), "stdout": None} for rows, one in seen.items()}
        write_results(arguments.out, "look", {"rows": kept}, text)
        print(text, end="")
        return
    if arguments.command == "gpu":
        compared = gpu.measure()
        text = gpu.page(compared)
        write_results(arguments.out, "gpu", asdict(compared), text)
        print(text, end="")
        sys.exit(0 if compared.passed else 1)
    if arguments.command == "few_rows":
        expect_same_machine(arguments.out, "few_rows", machine())
        few_rows.measure(
            arguments.data_dir,
            arguments.out,
            rows=arguments.rows,
            draws=arguments.draws,
            setfit_python=arguments.setfit_python,
            minutes=arguments.minutes,
        )
        print((arguments.out / "few_rows.md").read_text(encoding="utf-8"))
        return
    if arguments.command == "plan":
        plan.print_table(plan.measure(arguments.runs))
        return
    if arguments.command == "serve":
        served = serve.measure(
            arguments.model,
            variant=arguments.variant,
            threads=arguments.threads,
            seconds=arguments.seconds,
            minutes=arguments.minutes,
            rate=arguments.rate,
            hostile_seconds=arguments.hostile_seconds,
            good=arguments.good,
        )
        serve.write(served, arguments.out)
        print((arguments.out / "serve.md").read_text(encoding="utf-8"))
        return
    if arguments.command == "defaults":
        runs_found = defaults.search(
            arguments.data_dir,
            arguments.folder,
            budgets=[rows or None for rows in arguments.rows],
            minutes=arguments.minutes,
            names=arguments.only,
            tasks=arguments.tasks,
        )
        defaults.write(runs_found, arguments.out)
        print(defaults.summary(runs_found))
        return
    if arguments.command == "matmul":
        matmul.print_rates()
        return
    if arguments.command == "step":
        expect_same_machine(arguments.out, "step", machine())
        step.write(step.measure(), arguments.out)
        print((arguments.out / "step.md").read_text(encoding="utf-8"))
        return
    if arguments.command == "variants":
        expect_same_machine(arguments.out, "variants", machine())
        costs = variants.measure(rows=arguments.rows, repeats=arguments.repeats)
        variants.write(costs, arguments.out)
        print(variants.as_markdown(costs))
        return
    if arguments.command == "embeddings":
        expect_same_machine(arguments.out, "embeddings", machine())
        rows_found = embeddings.measure(
            arguments.shapes or tuple(embeddings.SHAPES),
            rows=arguments.rows,
            repeats=arguments.repeats,
        )
        embeddings.write(rows_found, arguments.out)
        print(embeddings.as_markdown(rows_found))
        return
    if arguments.command == "end-to-end":
        expect_same_machine(arguments.out, "end_to_end", machine())
        ends_found = end_to_end.measure(
            arguments.folder,
            rows=arguments.rows,
            held_out=arguments.held_out,
            epochs=arguments.epochs,
            repeats=arguments.repeats,
        )
        end_to_end.write(ends_found, arguments.out)
        print((arguments.out / "end_to_end.md").read_text(encoding="utf-8"))
        return
    if arguments.command == "cell":
        expect_same_machine(arguments.out, "cell", machine())
        cell_found = cell.measure_cell(
            arguments.folder,
            rows=arguments.rows,
            held_out=arguments.held_out,
            repeats=arguments.repeats,
            pieces=arguments.pieces,
        )
        if cell_found is not None:
            cell.write(cell_found, arguments.out)
            print((arguments.out / "cell.md").read_text(encoding="utf-8"))
        return
    expect_same_machine(arguments.out, "speed", machine())
    for name in arguments.only or list(speed.MEASURES):  # what is done is kept
        speed.write(speed.measure([name], arguments.repeats), arguments.out)
    print((arguments.out / "speed.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    try:
        main()
    except OtherMachine as error:
        sys.exit(str(error))
