"""The speed table: kdlora beside its peers, and beside the machine's matrix products."""

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
from benchmarks.contenders import N_LABELLED
from benchmarks.results import expect_same_machine, write_results
from benchmarks.turns import Contender, Ratio, aims, described, in_turns, machine, precision, ratio

MAKE = "benchmarks.contenders"
BEST = "(b) Trainer at its best"


@dataclass(frozen=True)
class Measure:
    """One group of contenders that take turns; `target` maps a peer to the ratio aimed at.

    `flops` gives the floating point operations that the products of the layers need for one text.
    """

    title: str
    contenders: dict[str, Contender]
    target: dict[str, float]
    flops: Callable[[], float]


def _train(kind: str, shape: str, profile: str, steps: int, lora: bool = True) -> Contender:
    arguments = {"kind": kind, "shape": shape, "profile": profile, "steps": steps, "lora": lora}
    return Contender(f"{MAKE}:training", arguments, tuned=kind.startswith("ours"))


def _products(shape: str, profile: str, steps: int, packed: bool, lora: bool = True) -> Contender:
    arguments = {
        "shape": shape, "profile": profile, "steps": steps, "packed": packed, "lora": lora,
    }  # fmt: skip
    return Contender(f"{MAKE}:products_of_training", arguments, tuned=True)


def _training_flops(shape: str, profile: str, steps: int, trains: str) -> float:
    batches = products.training_batches(profile, steps)[1:]  # the first is not timed
    return products.flops_per_text(products.products_of(shape, trains=trains), batches)


def _labelling_flops(shape: str, profile: str) -> float:
    batches = products.labelling_batches(profile, N_LABELLED)
    return products.flops_per_text(products.products_of(shape, trains="nothing"), batches)


def _label(kind: str, shape: str, profile: str) -> Contender:
    arguments = {"kind": kind, "shape": shape, "profile": profile}
    return Contender(f"{MAKE}:labelling", arguments, tuned=kind == "ours")


def student(shape: str, profile: str, *, all_peers: bool) -> Measure:
    """KD-LoRA training of a student against the peers and against its products alone."""
    steps = 16 if all_peers else 8
    contenders = {
        "kdlora": _train("ours", shape, profile, steps),
        "kdlora, operations shared": _train("ours-shared", shape, profile, steps),
        "products alone": _products(shape, profile, steps, packed=False),
        "products, packed": _products(shape, profile, steps, packed=True),
        BEST: _train("trainer_at_its_best", shape, profile, steps),
    }
    target = {BEST: 2.5}
    if all_peers:
        contenders |= {
            "(a) reports' recipe": _train("reports_recipe", shape, profile, 3),
            "(c) teacher in every step": _train("online_teacher", shape, profile, 5),
        }
        target |= {"(a) reports' recipe": 15, "(c) teacher in every step": 5}
    return Measure(
        f"KD-LoRA training, {shape}, lengths of {profile}",
        contenders,
        target,
        partial(_training_flops, shape, profile, steps, "adapters"),
    )


def teacher(profile: str) -> Measure:
    """Full fine-tuning of a BERT-base size teacher."""
    return Measure(
        f"Full fine-tuning, bert-base, lengths of {profile}",
        {
            "kdlora": _train("ours", "bert-base", profile, 6, lora=False),
            "products alone": _products("bert-base", profile, 6, packed=False, lora=False),
            BEST: _train("trainer_at_its_best", "bert-base", profile, 6, lora=False),
        },
        {BEST: 1.5},
        partial(_training_flops, "bert-base", profile, 6, "everything"),
    )


def inference(shape: str, profile: str) -> Measure:
    """Labelling raw texts."""
    return Measure(
        f"Labelling texts, {shape}, lengths of {profile}",
        {
            "kdlora": _label("ours", shape, profile),
            "products alone": Contender(
                f"{MAKE}:products_of_labelling", {"shape": shape, "profile": profile}, tuned=True
            ),
            "pipeline, fp32, batch 32": _label("pipeline", shape, profile),
        },
        {"pipeline, fp32, batch 32": 6},
        partial(_labelling_flops, shape, profile),
    )


MEASURES: dict[str, Measure] = {
    "student": student("distilbert", "movie-reviews", all_peers=True),
    "student-cola": student("distilbert", "cola", all_peers=False),
    "student-sst2": student("distilbert", "sst2", all_peers=False),
    "student-mrpc": student("distilbert", "mrpc", all_peers=False),
    "student-rte": student("distilbert", "rte", all_peers=False),
    "student-l3": student("minilm-l3", "movie-reviews", all_peers=False),
    "teacher": teacher("movie-reviews"),
    "labelling": inference("distilbert", "movie-reviews"),
    "labelling-teacher": inference("bert-base", "movie-reviews"),
}


def measure(names: list[str], repeats: int) -> dict[str, Any]:
    """Time the named measures; returns what `write` keeps."""
    results = []
    for name in names:
        group = MEASURES[name]
        print(group.title, flush=True)
        taken = in_turns(group.contenders, repeats)
        results.append(
            {
                "name": name,
                "title": group.title,
                "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "machine": machine(),
                "repeats": repeats,
                "seconds_per_unit": taken,
                "target": group.target,
                "flops_per_unit": group.flops(),
                "ratios": {
                    peer: asdict(ratio(taken["kdlora"], taken[peer]))
                    for peer in taken
                    if peer != "kdlora"
                },
            }
        )
    return {"measures": results}


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
    lines = [
        "# Speed, side by side",
        "",
        f"Measured on {described(about)} by `make bench`: all contenders of a group take turns "
        "after a warm-up, at the time that is given; ratios are taken round by round. kdlora and "
        f"peer (b) compute in {precision(about)}, peers (a) and (c) and the pipeline in fp32. "
        "A share of the products' rate is the time of the matrix products alone over the time of "
        "kdlora's whole step: the layers' products at the lengths that occur, without what kdlora "
        "need not compute and without those of adapters, attention and head. Beside it stand the "
        "floating point operations of these products a second, in kdlora's step and alone.",
        "",
        f"| what | a second (median) | kdlora is | least - most | {aims(about)} |",
        "|---|---|---|---|---|",
    ]
    for group in results["measures"]:
        taken = group["seconds_per_unit"]
        when = f"{group['measured_at'][:16]}, {group['repeats']} rounds"
        for what in ("threads", "instructions", "torch", "transformers"):
            if group["machine"][what] != about[what]:
                when += f"; {what} {group['machine'][what]}"
        lines.append(f"| **{group['title']}** ({when}) | | | | |")
        for name, seconds in taken.items():
            rate = 1 / sorted(seconds)[len(seconds) // 2]
            lines.append(f"| {name} | {rate:.1f} | {_verdict(group, name)} |")
    return "\n".join(lines) + "\n"


def _verdict(group: dict[str, Any], name: str) -> str:
    found = group["ratios"].get(name)
    if found is None:
        return "| |"
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
        return f"at {value.median:.0%} of their rate{rates} | {spread} | " + (
            "60 %" if "alone" in name and "KD-LoRA" in group["title"] else ""
        )
    target = group["target"].get(name)
    aimed = f"{target:g} x" if target else ""
    return f"{value.median:.1f} x as fast | {value.least:.1f} - {value.most:.1f} | {aimed}"
