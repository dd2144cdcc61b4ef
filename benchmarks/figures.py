"""One page of the figures of speed, size and quality that are quoted elsewhere, by processor.

Nothing is measured here: the page is made of the JSON files that the other commands wrote.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.results import FIGURES
from benchmarks.speed import whole_epochs
from benchmarks.turns import Ratio, precision

ROOT = Path(__file__).resolve().parent.parent
# Between these lines of the README stands what the demo printed.
_BEGIN, _END = "<!-- printed by kdlora demo", "<!-- end -->"
_KINDS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512", "avx512f": "AVX-512", "avx2": "AVX2"}

Found = dict[str, Any]


def write(folder: Path) -> str:
    """Write `README.md` of a folder of results; returns it."""
    text = page(folder)
    (folder / FIGURES).write_text(text, encoding="utf-8")
    return text


def page(folder: Path, readme: Path = ROOT / "README.md") -> str:
    """The whole page of a folder's results; a part that has none is left out."""
    parts: list[tuple[str, str, Iterator[str]]] = [
        (
            "Training and labelling beside others",
            "`python -m benchmarks speed`, on one processor: `make bench`. Ratios are medians over "
            "rounds in which both did the same texts; the least and the most stand beside them. "
            "Where the first steps of an epoch were timed, *whole epochs* is computed from the "
            "tokens that both padded; elsewhere whole epochs were timed.",
            _speed(folder),
        ),
        (
            "At which share of the processor's rate",
            "By the same command: the time of the layers' matrix products alone over that of "
            "kdlora's whole step.",
            _products(folder),
        ),
        (
            "On a GPU",
            "`python -m benchmarks gpu`: texts a second of an epoch, beside the Trainer's best.",
            _gpu(folder),
        ),
        (
            "A whole cell of a study",
            "`python -m benchmarks cell`: 15 runs, start-up, evaluation and saving counted, beside "
            "the reports' recipe.",
            _cell(folder),
        ),
        (
            "From the shell to the saved student",
            "`python -m benchmarks end-to-end`: beside a script of the Trainer and peft.",
            _end_to_end(folder),
        ),
        ("Where a training step's time goes", "`python -m benchmarks step`.", _step(folder)),
        (
            "Serving",
            "`python -m benchmarks serve MODEL`: one text a request, over loopback.",
            _serve(folder),
        ),
        (
            "Few labels: quality, size and latency",
            "`python -m benchmarks few_rows`: accuracy in per cent (the mean over draws), fp32 "
            "weights on disk, one answer on one thread.",
            _few_rows(folder),
        ),
        (
            "The demo: quality, size and latency",
            "`kdlora demo`; `make results` writes it from the study's records, as in the README.",
            _demo(readme),
        ),
    ]
    lines = [
        "# Figures",
        "",
        "All figures of speed, size and quality that the README and [Speed](../../speed.md) quote, "
        "with the command of each and the kind of processor that it was measured on. "
        "`python -m benchmarks page` writes this page from the JSON files beside it. A machine of "
        "another kind gets a folder of its own.",
    ]
    for title, about, table in parts:
        if rows := list(table):
            lines += ["", f"## {title}", "", about, "", *rows]
    return "\n".join([*lines, "", *_others(folder)]) + "\n"


def _speed(folder: Path) -> Iterator[str]:
    rows = []
    for where, about, group in _groups(folder):
        for peer, found in group["ratios"].items():
            if peer.startswith("products") or peer.startswith("kdlora"):
                continue
            timed = Ratio(**found)
            whole = whole_epochs(group, peer)
            then = "" if whole is None else f"{whole:.1f} x"
            token = group.get("ratios_per_token", {}).get(peer)
            rows.append(
                f"| {group['title']} | {peer} | [{about}]({where}speed.md) | "
                f"{timed.median:.1f} x ({timed.least:.1f} to {timed.most:.1f}) | {then} | "
                f"{'' if token is None else format(Ratio(**token).median, '.2f') + ' x'} | "
                f"{group['measured_at'][:10]} |"
            )
    yield from _table(
        ("what", "beside", "processor", "kdlora is as fast as", "whole epochs", "a padded token",
         "measured"),
        rows,
    )  # fmt: skip


def _products(folder: Path) -> Iterator[str]:
    rows = []
    for where, about, group in _groups(folder):
        found = group["ratios"].get("products alone")
        if found is not None:
            share = Ratio(**found)
            rows.append(
                f"| {group['title']} | [{about}]({where}speed.md) | {share.median:.0%} "
                f"({share.least:.0%} to {share.most:.0%}) |"
            )
    yield from _table(("what", "processor", "share"), rows)


def _gpu(folder: Path) -> Iterator[str]:
    rows = []
    for where, found in _all(folder, "gpu"):
        for one in found["speeds"]:
            rows.append(
                f"| {one['what']} | [{found['device']}]({where}gpu.md) | {one['ours']:,.0f} | "
                f"{one['trainer']:,.0f} | {one['ours'] / one['trainer']:.1f} x |"
            )
    yield from _table(("training", "device", "kdlora", "Trainer", "kdlora is as fast as"), rows)


def _cell(folder: Path) -> Iterator[str]:
    rows = []
    for where, found in _all(folder, "cell"):
        for unit, title in (("wall_s", "that passed"), ("cpu_s", "of the processors")):
            values = found[unit]
            for who, ratios in values["ratios"].items():
                (peer,) = (name for name in values if name not in ("ratios", *values["ratios"]))
                rows.append(
                    f"| {title} | {who} | [{kind(found['machine'])}]({where}cell.md) | "
                    f"{statistics.median(values[who]):.0f} | "
                    f"{statistics.median(values[peer]):.0f} | {statistics.median(ratios):.1f} x |"
                )
    yield from _table(
        ("seconds", "how", "processor", "kdlora", "the recipe", "kdlora is as fast as"), rows
    )


def _end_to_end(folder: Path) -> Iterator[str]:
    rows = []
    for where, found in _all(folder, "end_to_end"):
        for who, seconds in found["wall_s"].items():
            rows.append(
                f"| {who} | [{kind(found['machine'])}]({where}end_to_end.md) | "
                f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f}) |"
            )
    yield from _table(("program", "processor", "seconds"), rows)


def _step(folder: Path) -> Iterator[str]:
    rows = []
    for where, found in _all(folder, "step"):
        for shape, shares in found["shares"].items():
            three = sorted(shares.items(), key=lambda one: -one[1])[:3]
            told = ", ".join(f"{name} {share:.0%}" for name, share in three)
            rows.append(
                f"| {shape} | [{kind(found['machine'])}]({where}step.md) | {told} | "
                f"{shares['optimizer and clipping']:.0%} |"
            )
    yield from _table(("encoder", "processor", "most", "optimizer and clipping"), rows)


def _serve(folder: Path) -> Iterator[str]:
    rows = []
    for where, found in _all(folder, "serve"):
        for connections, one in found["speed"].items():
            if isinstance(one, dict):
                several = "s" * (connections != "1")
                rows.append(
                    f"| {found['title']}, {connections} connection{several} | "
                    f"[{found['machine']}]({where}serve.md) | {one['requests_per_s']:,.0f} | "
                    f"{one['p50_ms']:.1f} | {one['p99_ms']:.1f} |"
                )
    yield from _table(("what", "machine", "requests/s", "p50, ms", "p99, ms"), rows)


def _few_rows(folder: Path) -> Iterator[str]:
    rows = []
    for where, found in _all(folder, "few_rows"):
        cells = found["cells"]
        for name in dict.fromkeys(cell["contender"] for cell in cells):
            own = [cell for cell in cells if cell["contender"] == name]
            asked = dict.fromkeys((cell["task"], cell["rows"]) for cell in own)
            scores = ", ".join(
                f"{task} {n}: "
                + format(
                    100 * statistics.mean(
                        c["accuracy"] for c in own if (c["task"], c["rows"]) == (task, n)
                    ),
                    ".1f",
                )
                for task, n in asked
            )  # fmt: skip
            size, each = (
                statistics.median(c[what] for c in own) for what in ("size_mb", "text_ms")
            )
            rows.append(
                f"| {name} | [{kind(found['machine'])}]({where}few_rows.md) | {scores} | "
                f"{size:.0f} | {each:.1f} |"
            )
    yield from _table(("model", "processor", "accuracy by labels", "MB", "ms a text"), rows)


def _demo(readme: Path) -> Iterator[str]:
    _, found, rest = readme.read_text(encoding="utf-8").partition(_BEGIN)
    if found:
        block = rest.partition("\n")[2].partition(_END)[0].strip()
        yield from block.partition("╭")[0].rstrip().splitlines()
        yield from ("```", "", "[Its page](../demo.md) has the rest.")


def _others(folder: Path) -> Iterator[str]:
    """The pages of this folder that the tables above do not name, with their first headings."""
    yield from ("## What else was measured", "")
    told = {"README", "speed", "cell", "end_to_end", "step", "serve", "few_rows", "gpu"}
    for path in sorted(folder.rglob("*.md")):
        if path.stem not in told:
            title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
            yield f"- [{title}]({path.relative_to(folder).as_posix()})"


def kind(about: Found) -> str:
    """A `machine` in two words: its instructions and what is computed in."""
    flags = about["instructions"]
    name = next((_KINDS[flag] for flag in flags if flag in _KINDS), "none of these")
    return f"{name}, {precision(about)}"


def _all(folder: Path, name: str) -> Iterator[tuple[str, Found]]:
    """What a command found on each kind of processor, and the folder of its page."""
    for path in sorted([folder / f"{name}.json", *folder.glob(f"*/{name}.json")]):
        if path.is_file():
            where = path.parent.relative_to(folder).as_posix()
            found = json.loads(path.read_text(encoding="utf-8"))
            yield ("" if where == "." else f"{where}/"), found


def _groups(folder: Path) -> Iterator[tuple[str, str, Found]]:
    for where, found in _all(folder, "speed"):
        for group in found["measures"]:
            yield where, kind(group["machine"]), group


def _table(head: tuple[str, ...], rows: list[str]) -> Iterator[str]:
    if rows:
        yield f"| {' | '.join(head)} |"
        yield "|---" * len(head) + "|"
        yield from rows
