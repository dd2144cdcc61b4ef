"""Write the pages of docs/results again from stored records: `make results`.

    python scripts/make_results.py [--only PAGE] [--out FOLDER]

What is to be written stands in docs/results/pages.yaml. A page whose study is not on this machine
is left as it is, and that is said.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from kdlora.choice.exports import read_exports
from kdlora.cli.study import show
from kdlora.importing.results import import_results
from kdlora.records.frame import load_frame, load_histories, read_plan
from kdlora.records.predictions import RunOutputs
from kdlora.report.build import ReportFiles
from kdlora.report.content.parts import ReportInputs
from kdlora.report.content.study import build
from kdlora.report.document import Report
from kdlora.report.render.repository_page import write_page
from kdlora.report.stored_outputs import read_bins, read_stored_outputs
from kdlora.ship.card import read_card
from kdlora.ship.study_result import StudyResult

# between them stands what the demo printed, in the README
BEGIN, END = "<!-- printed by kdlora demo", "<!-- end -->"

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "results"
SHARED = Path(os.environ.get("KDLORA_SHARED", ROOT.parent / "shared"))


def source_of(page: dict[str, Any]) -> Path:
    """The study's folder, or the table that is to be imported."""
    if "imports" in page:
        return SHARED / page["imports"]
    given = Path(page["study"]).expanduser()
    return given if given.is_absolute() else ROOT / "results" / given


def report_of(page: dict[str, Any], source: Path, work: Path) -> Report:
    """The whole report of a page's study."""
    if "imports" in page:
        folder, _ = import_results(source, study=page["page"], results=work)
        rerun = f"kdlora import {source.name} --as {page['page']}\nkdlora report {page['page']}"
        spec: dict[str, Any] = {}
    else:
        folder, spec = source, read_plan(source)["study"]
        rerun = f"kdlora run {spec['name']}.yaml"
    frame = load_frame(folder)
    examples = None
    if "study" in page:
        forms = read_exports(folder, frame).forms
        examples = partial(read_stored_outputs, frame, folder, forms)
    inputs = ReportInputs(
        page.get("title", page["page"]),
        spec,
        rerun=rerun,
        histories=lambda: load_histories(folder),
        bins=lambda: read_bins(frame, folder),
        examples=examples,
        texts=RunOutputs(folder, "report"),
    )
    return build(frame, inputs)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="write this page alone")
    parser.add_argument("--out", type=Path, default=PAGES, help="folder to write to")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    for page in yaml.safe_load((PAGES / "pages.yaml").read_text(encoding="utf-8")):
        name = page["page"]
        if given.only not in (None, name):
            continue
        source = source_of(page)
        if not source.exists():
            print(f"{name}: left as it is, for want of {source.name}")
            continue
        with tempfile.TemporaryDirectory() as work:
            report = report_of(page, source, Path(work))
        paths = write_page(
            report, given.out, name, tables=page.get("tables", []), figures=page.get("figures", [])
        )
        if name == "demo" and given.out == PAGES:
            write_printed_run(source, ROOT / "README.md")
        size = sum(path.stat().st_size for path in paths)
        print(f"{name}: {len(paths)} files, {size / 1e3:.0f} kB")
    write_index(given.out)


def write_printed_run(study: Path, readme: Path) -> None:
    """Put what `kdlora demo` prints in the end, of these records, between the README's marks."""
    out, shown = StringIO(), Path("results/demo")
    card = read_card(study / "student")
    assert card is not None, f"{study} holds no student"
    files = ReportFiles(shown / "report.html", shown / "report.md", (), ())
    students = [(shown / "student", card)]
    result = StudyResult(shown, {}, load_frame(study), files, students=students)
    show(result, Console(file=out, width=80))
    lines = [line.rstrip() for line in out.getvalue().rstrip().splitlines()]
    text = readme.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    mark, end = rest.partition("\n")[0], rest.partition(END)[2]
    printed = "\n".join([BEGIN + mark, "```", *lines, "```", END])
    readme.write_text(head + printed + end, encoding="utf-8")


def write_index(folder: Path) -> None:
    """List the pages that are there."""
    lines = [
        "# Results",
        "",
        "Pages that `make results` wrote from stored records. A study's own report has all its "
        "tables, and its figures can be explored.",
        "",
        "| page | from |",
        "|---|---|",
    ]
    for page in yaml.safe_load((PAGES / "pages.yaml").read_text(encoding="utf-8")):
        if (folder / f"{page['page']}.md").is_file():
            lines.append(f"| [{page['title']}]({page['page']}.md) | {page['about']} |")
    lines += [
        "",
        "[`benchmarks/`](benchmarks/README.md) keeps what `python -m benchmarks` measured, with "
        "[all figures on one page](benchmarks/README.md): "
        "[speed](benchmarks/speed.md) with fast bf16 and [without](benchmarks/avx2/speed.md), a "
        "[study's cell](benchmarks/cell.md), a [step's shares](benchmarks/step.md), the "
        "[variants of LoRA](benchmarks/variants.md), [serving](benchmarks/serve.md), the "
        "[settings tried](benchmarks/defaults.md), how often "
        "[verdicts are right](benchmarks/evidence.md) and [promises of withheld answers hold]"
        "(benchmarks/abstention.md), a [fuzz of every reader](benchmarks/fuzz.md), what a "
        "[look at the data](benchmarks/look.md) takes, what [few rows](benchmarks/few_rows.md) are "
        "worth, faults, many small runs.",
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
