"""What a training step with each variant of LoRA costs, beside plain LoRA's."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.results import write_results
from benchmarks.turns import Contender, Ratio, described, machine, ratio, seconds_in_turns
from kdlora.vocabulary.arm import PEFT_VARIANTS

SHAPES = ("distilbert", "minilm-l3")
PROFILE, ROWS = "movie-reviews", 512
TARGET = 1.15  # times LoRA's seconds
PLAIN = "lora"


def measure(*, rows: int = ROWS, repeats: int = 5) -> dict[str, Any]:
    """Seconds of an epoch of the same texts by shape and variant, in turns, one a round."""
    about, seconds = machine(), {}
    for shape in SHAPES:
        contenders = {
            variant: Contender(
                "benchmarks.contenders:variant_training",
                {"variant": variant, "shape": shape, "profile": PROFILE, "rows": rows},
                tuned=True,
                allocator=True,
            )
            for variant in PEFT_VARIANTS
        }
        seconds[shape] = seconds_in_turns(contenders, repeats)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "measured_at": now, "machine": about, "rows": rows, "repeats": repeats, "target": TARGET,
        "seconds": seconds,
    }  # fmt: skip


def beside_plain(seconds: dict[str, list[float]]) -> dict[str, Ratio]:
    """How many times LoRA's seconds a variant takes, round by round."""
    return {
        variant: ratio(seconds[PLAIN], taken)
        for variant, taken in seconds.items()
        if variant != PLAIN
    }


def write(found: dict[str, Any], folder: Path) -> None:
    """`variants.json` with every number and `variants.md` with the table."""
    write_results(folder, "variants", found, as_markdown(found))


def as_markdown(found: dict[str, Any]) -> str:
    """The table: a row a variant, a column a shape."""
    ratios = {shape: beside_plain(taken) for shape, taken in found["seconds"].items()}
    lines = [
        "# What a step with each variant of LoRA costs",
        "",
        f"An epoch of {found['rows']:,} texts with the lengths of movie reviews, student distilled "
        "from stored logits, rank 8 on query and value, by kdlora's own training. Variants take "
        f"turns; the median of {found['repeats']} rounds and, in brackets, the least and the most. "
        f"Aimed at: {found['target']} times LoRA's seconds.",
        "",
        f"Measured {found['measured_at']} on {described(found['machine'])} by "
        "`python -m benchmarks variants`.",
        "",
        "| times LoRA's seconds | " + " | ".join(ratios) + " |",
        "|---|" + "---:|" * len(ratios),
    ]
    for variant in next(iter(ratios.values())):
        cells = (own[variant] for own in ratios.values())
        told = " | ".join(f"{r.median:.2f} ({r.least:.2f} to {r.most:.2f})" for r in cells)
        lines.append(f"| {variant} | {told} |")
    return "\n".join(lines) + "\n"
