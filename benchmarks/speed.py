"""The speed table: kdlora beside its peers, and beside the machine's matrix products.

All contenders of a group work on the same texts, every text once a round, each by its own batching;
what their batches hold is counted beside the time.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import products
from benchmarks.padding import first_steps
from benchmarks.results import expect_same_machine, write_results
from benchmarks.turns import (
    Contender,
    Ratio,
    Turn,
    aims,
    described,
    in_turns,
    machine,
    precision,
    ratio,
)
from benchmarks.workload import make_workload

MAKE = "benchmarks.contenders"
BEST = "(b) Trainer at its best"
RECIPE, ONLINE = "(a) reports' recipe", "(c) teacher in every step"
PIPELINE, LOOP = "pipeline, fp32, batch 32", "(b) loop at its best"


@dataclass(frozen=True)
class Measure:
    """One group of contenders that take turns on `rows` texts with the lengths of `profile`.

    `target` maps a peer to the ratio aimed at. `flops` gives the floating point operations that the
    products of the layers need for one text.
    """

    title: str
    profile: str
    rows: int
    contenders: dict[str, Contender]
    target: dict[str, float]
    flops: Callable[[], float]


def _train(kind: str, shape: str, profile: str, rows: int, lora: bool = True) -> Contender:
    arguments = {"kind": kind, "shape": shape, "profile": profile, "rows": rows, "lora": lora}
    return Contender(
        f"{MAKE}:training",
        arguments,
        tuned=kind.startswith("ours"),
        allocator=kind == "trainer_at_its_best",
    )


def _products(shape: str, profile: str, rows: int, packed: bool, lora: bool = True) -> Contender:
    arguments = {"shape": shape, "profile": profile, "rows": rows, "packed": packed, "lora": lora}
    return Contender(f"{MAKE}:products_of_training", arguments, tuned=True)


def _training_flops(shape: str, profile: str, rows: int, trains: str) -> float:
    batches = products.training_batches(profile, rows)
    return products.flops_per_text(products.products_of(shape, trains=trains), batches)


def _labelling_flops(shape: str, profile: str, rows: int) -> float:
    batches = products.labelling_batches(profile, rows)
    return products.flops_per_text(products.products_of(shape, trains="nothing"), batches)


def _label(kind: str, shape: str, profile: str, rows: int) -> Contender:
    arguments = {"kind": kind, "shape": shape, "profile": profile, "rows": rows}
    return Contender(f"{MAKE}:labelling", arguments, tuned=kind == "ours", allocator=kind == "loop")


def student(shape: str, profile: str, rows: int = 512) -> Measure:
    """KD-LoRA training of a student against the best peer and against its products alone."""
    return Measure(
        f"KD-LoRA training, {shape}, lengths of {profile}",
        profile,
        rows,
        {
            "kdlora": _train("ours", shape, profile, rows),
            "kdlora, operations shared": _train("ours-shared", shape, profile, rows),
            "products alone": _products(shape, profile, rows, packed=False),
            "products, packed": _products(shape, profile, rows, packed=True),
            BEST: _train("trainer_at_its_best", shape, profile, rows),
        },
        {BEST: 2.5},
        partial(_training_flops, shape, profile, rows, "adapters"),
    )


def recipes(shape: str, profile: str, rows: int = 256) -> Measure:
    """The same against the slow peers, on fewer texts."""
    return Measure(
        f"KD-LoRA training, {shape}, lengths of {profile}, as it is often done",
        profile,
        rows,
        {
            "kdlora": _train("ours", shape, profile, rows),
            RECIPE: _train("reports_recipe", shape, profile, rows),
            ONLINE: _train("online_teacher", shape, profile, rows),
        },
        {RECIPE: 15, ONLINE: 5},
        partial(_training_flops, shape, profile, rows, "adapters"),
    )


def teacher(profile: str, rows: int = 256) -> Measure:
    """Full fine-tuning of a BERT-base size teacher."""
    return Measure(
        f"Full fine-tuning, bert-base, lengths of {profile}",
        profile,
        rows,
        {
            "kdlora": _train("ours", "bert-base", profile, rows, lora=False),
            "products alone": _products("bert-base", profile, rows, packed=False, lora=False),
            BEST: _train("trainer_at_its_best", "bert-base", profile, rows, lora=False),
        },
        {BEST: 1.5},
        partial(_training_flops, "bert-base", profile, rows, "everything"),
    )


def inference(shape: str, profile: str, rows: int = 512) -> Measure:
    """Labelling raw texts."""
    return Measure(
        f"Labelling texts, {shape}, lengths of {profile}",
        profile,
        rows,
        {
            "kdlora": _label("ours", shape, profile, rows),
            "products alone": Contender(
                f"{MAKE}:products_of_labelling",
                {"shape": shape, "profile": profile, "rows": rows},
                tuned=True,
            ),
            LOOP: _label("loop", shape, profile, rows),
            PIPELINE: _label("pipeline", shape, profile, rows),
        },
        {PIPELINE: 6},
        partial(_labelling_flops, shape, profile, rows),
    )


MEASURES: dict[str, Measure] = {
    "student": student("distilbert", "movie-reviews"),
    "student-recipes": recipes("distilbert", "movie-reviews"),
    "student-cola": student("distilbert", "cola"),
    "student-sst2": student("distilbert", "sst2"),
    "student-mrpc": student("distilbert", "mrpc"),
    "student-rte": student("distilbert", "rte", rows=256),
    "student-l3": student("minilm-l3", "movie-reviews"),
    "teacher": teacher("movie-reviews"),
    "labelling": inference("distilbert", "movie-reviews"),
    "labelling-teacher": inference("bert-base", "movie-reviews", rows=256),
}

# Until 29 November 2026 the first steps of an epoch were timed, so many by group, and not the same
# texts by all: what is kept of that time is corrected by what those steps held.
FIRST_STEPS = {
    "student": 16, "student-cola": 8, "student-sst2": 8, "student-mrpc": 8, "student-rte": 8,
    "student-l3": 8, "teacher": 6,
}  # fmt: skip


def measure(names: list[str], repeats: int) -> dict[str, Any]:
    """Time the named measures; returns what `write` keeps."""
    results = []
    for name in names:
        print(MEASURES[name].title, flush=True)
        results.append(_group(name, in_turns(MEASURES[name].contenders, repeats), repeats))
    return {"measures": results}


def _group(name: str, taken: dict[str, list[Turn]], repeats: int) -> dict[str, Any]:
    """What is kept of a group. Raises RuntimeError if a contender left texts out."""
    group = MEASURES[name]
    done = {who: statistics.mean(turn.texts for turn in turns) for who, turns in taken.items()}
    wrong = {who: texts for who, texts in done.items() if texts != group.rows}
    if wrong:
        raise RuntimeError(f"{name} is on {group.rows} texts, but these did others: {wrong}")
    each_s = {who: [t.seconds / t.texts for t in turns] for who, turns in taken.items()}
    token_s = {who: [t.seconds / t.padded_tokens for t in turns] for who, turns in taken.items()}
    others = [who for who in taken if who != "kdlora"]
    return {
        "name": name,
        "title": group.title,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "repeats": repeats,
        "rows": group.rows,
        "tokens_per_unit": float(make_workload(group.profile, group.rows).texts.lengths.mean()),
        "padded_tokens_per_unit": {
            who: statistics.mean(t.padded_tokens / t.texts for t in turns)
            for who, turns in taken.items()
        },
        "settings": {who: turns[-1].settings for who, turns in taken.items()},
        "seconds_per_unit": each_s,
        "target": group.target,
        "flops_per_unit": group.flops(),
        "ratios": {who: asdict(ratio(each_s["kdlora"], each_s[who])) for who in others},
        "ratios_per_token": {who: asdict(ratio(token_s["kdlora"], token_s[who])) for who in others},
    }


def write(results: dict[str, Any], folder: Path) -> None:
    """`speed.json` with every number and `speed.md` with the table.

    Groups that were not measured this time stay as they were kept in `folder`. Raises OtherMachine
    if those are another processor's.
    """
    for group in results["measures"]:
        expect_same_machine(folder, "speed", group["machine"])
    groups = {group["name"]: group for group in [*_kept(folder), *results["measures"]]}
    results = {"measures": [groups[name] for name in MEASURES if name in groups]}
    write_results(folder, "speed", results, as_markdown(results))


def _kept(folder: Path) -> list[dict[str, Any]]:
    path = folder / "speed.json"
    return json.loads(path.read_text(encoding="utf-8"))["measures"] if path.is_file() else []


def as_markdown(results: dict[str, Any]) -> str:
    """The table of ratios with their spread, and the machine it was taken on."""
    about = results["measures"][0]["machine"]
    whole = any("rows" in group for group in results["measures"])
    parts = any(_of_first_steps(group) for group in results["measures"])
    lines = [
        "# Speed, side by side",
        "",
        f"Measured on {described(about)} by `make bench`: all contenders of a group take turns "
        "after a warm-up, at the time that is given; ratios are taken round by round. "
        f"{_WHOLE if whole else ''}kdlora and peers (b) compute in {precision(about)}"
        f"{', unless another format is named' if whole else ''}; peers (a) and (c) and the "
        "pipeline in fp32. "
        "A share of the products' rate is the time of the matrix products alone over the time of "
        "kdlora's whole step: the layers' products at the lengths that occur, without what kdlora "
        "need not compute and without those of adapters, attention and head. Beside it stand the "
        "floating point operations of these products a second, in kdlora's step and alone.",
        "",
        f"| what | texts a second (median) | padded tokens a text | kdlora is | least - most | "
        f"a padded token | {aims(about)} |",
        "|---|---|---|---|---|---|---|",
    ]
    for group in results["measures"]:
        lines += [_head(group, about), *(_row(group, who) for who in group["seconds_per_unit"])]
    return "\n".join([*lines, *(["", _OLD] if parts else [])]) + "\n"


_WHOLE = (
    "In a round each does the same texts once, by its own batching, and the tokens of its batches, "
    "padding among them, are counted; a padded token's ratio leaves the batching out. Peer (b) "
    "sorts pools of 50 batches by length, as on a large training set; attention, number format and "
    "size of its batches of labelling are those that were fastest in a trial; it has tcmalloc "
    "where that is installed. "
)
_OLD = (
    "Groups marked \\* are older than 30 November 2026: the first steps of an epoch were timed. "
    "They held fewer tokens than the rest for kdlora, whose batches are shuffled, and more for the "
    "Trainer, which begins with the longest texts. `now` is the ratio over whole epochs that "
    "follows if time goes with padded tokens: what both did in the steps that were timed, against "
    "what they do over the epoch of 1,600 texts, by the same batching. It is computed, not timed "
    "again, and peer (b) had sdpa and malloc then."
)


def whole_epochs(group: dict[str, Any], name: str) -> float | None:
    """What the first steps of an epoch say of whole ones; None where whole epochs were timed."""
    if not _of_first_steps(group) or not name.startswith("("):
        return None
    profile, steps = MEASURES[group["name"]].profile, FIRST_STEPS[group["name"]]
    bias = first_steps(profile, steps, grouped=name.startswith("(b)"))
    return float(Ratio(**group["ratios"][name]).median / bias)


def _of_first_steps(group: dict[str, Any]) -> bool:
    return "rows" not in group and group["name"] in FIRST_STEPS


def _head(group: dict[str, Any], about: dict[str, Any]) -> str:
    when = f"{group['measured_at'][:16]}, {group['repeats']} rounds"
    if "rows" in group:
        when += f" of {group['rows']} texts, {group['tokens_per_unit']:.1f} tokens each"
    for what in ("threads", "instructions", "torch", "transformers"):
        if group["machine"][what] != about[what]:
            when += f"; {what} {group['machine'][what]}"
    mark = " \\*" if _of_first_steps(group) else ""
    return f"| **{group['title']}**{mark} ({when}) | | | | | | |"


def _row(group: dict[str, Any], who: str) -> str:
    rate = 1 / statistics.median(group["seconds_per_unit"][who])
    padded = group.get("padded_tokens_per_unit", {}).get(who)
    settings = group.get("settings", {}).get(who)
    name = f"{who} ({settings})" if settings else who
    held = "" if padded is None else f"{padded:.1f}"
    return f"| {name} | {rate:.1f} | {held} | {_verdict(group, who)} |"


def _verdict(group: dict[str, Any], name: str) -> str:
    """The cells from "kdlora is" on."""
    found = group["ratios"].get(name)
    if found is None:
        return "| | |"
    value = Ratio(**found)
    if name.startswith("products"):
        spread = f"{value.least:.0%} - {value.most:.0%}"
        rates = ""
        if flops := group.get("flops_per_unit"):
            ours, alone = (
                flops / statistics.median(group["seconds_per_unit"][who]) / 1e9
                for who in ("kdlora", name)
            )
            rates = f", {ours:,.0f} of {alone:,.0f} GFLOP/s"
        return f"at {value.median:.0%} of their rate{rates} | {spread} | | " + (
            "60 %" if "alone" in name and "KD-LoRA" in group["title"] else ""
        )
    target = group["target"].get(name)
    aimed = f"{target:g} x" if target else ""
    words = f"{value.median:.1f} x as fast"
    per_token = ""
    if "ratios_per_token" in group:
        per_token = f"{Ratio(**group['ratios_per_token'][name]).median:.2f} x"
    elif (whole := whole_epochs(group, name)) is not None:
        words = f"then {words}, now {whole:.1f} x"
    return f"{words} | {value.least:.1f} - {value.most:.1f} | {per_token} | {aimed}"
