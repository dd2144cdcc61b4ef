"""What full fine-tuning takes where embeddings are updated by row, beside whole."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.results import write_results
from benchmarks.turns import Contender, described, machine, ratio, seconds_in_turns

SHAPES = {
    "minilm-l3": "30,522 x 384",
    "multilingual-minilm-l12": "250,037 x 384",
    "xlm-r-base": "250,002 x 768",
}
PROFILE, ROWS = "movie-reviews", 1024


def measure(
    shapes: Sequence[str] = tuple(SHAPES), *, rows: int = ROWS, repeats: int = 3
) -> dict[str, Any]:
    """Seconds of an epoch of the same texts by shape, whole and by row, in turns."""
    about, seconds = machine(), {}
    for shape in shapes:
        contenders = {
            name: Contender(
                "benchmarks.contenders:embeddings_training",
                {"by_row": name == "by row", "shape": shape, "profile": PROFILE, "rows": rows},
                tuned=True,
                allocator=True,
            )
            for name in ("whole", "by row")
        }
        seconds[shape] = seconds_in_turns(contenders, repeats)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "measured_at": now, "machine": about, "rows": rows, "repeats": repeats, "seconds": seconds,
    }  # fmt: skip


def write(found: dict[str, Any], folder: Path) -> None:
    """`embeddings.json` with every number and `embeddings.md` with the table."""
    write_results(folder, "embeddings", found, as_markdown(found))


def as_markdown(found: dict[str, Any]) -> str:
    """The table: a row a shape."""
    asked = (
        "" if set(found["seconds"]) == set(SHAPES) else " --shapes " + " ".join(found["seconds"])
    )
    lines = [
        "# Embeddings that are updated by row",
        "",
        f"Full fine-tuning of encoders with random weights by kdlora's own training: an epoch of "
        f"{found['rows']:,} texts with the lengths of movie reviews and words by Zipf's law, with "
        "the one evaluation at its end, before which every row is brought up to date. Both take "
        f"turns; the median of {found['repeats']} rounds and, in brackets, the least and the most.",
        "",
        f"Measured {found['measured_at']} on {described(found['machine'])} by "
        f"`python -m benchmarks embeddings{asked}`.",
        "",
        "| encoder | embeddings | whole, s | by row, s | as fast |",
        "|---|---|---:|---:|---:|",
    ]
    for shape, taken in found["seconds"].items():
        whole, rows = (median(taken[name]) for name in ("whole", "by row"))
        gained = ratio(taken["by row"], taken["whole"])
        lines.append(
            f"| {shape} | {SHAPES[shape]} | {whole:.1f} | {rows:.1f} | "
            f"{gained.median:.2f} ({gained.least:.2f} to "
            f"{gained.most:.2f}) |"
        )
    return "\n".join(lines) + "\n"
