"""How long a look at many rows takes, and how much memory: `kdlora look`, start-up included."""

from __future__ import annotations

import csv
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.command import Taken, measured
from kdlora.machine import available_cores

SIZES = (1_000, 10_000, 100_000)
ENCODER = "minilm-l6"
_WORDS = 20_000  # of the made-up language, as frequent as Zipf's law has it
_REPEATED = 0.03  # share of the rows that repeat another
_LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))


def write_rows(path: Path, rows: int, rng: np.random.Generator) -> None:
    """Rows of 4 to 60 made-up words under two labels; some repeat others."""
    words = ["".join(rng.choice(_LETTERS, n)) for n in rng.integers(2, 9, _WORDS)]
    shares = 1 / np.arange(1, _WORDS + 1)
    lengths = rng.integers(4, 60, rows)
    drawn = rng.choice(_WORDS, lengths.sum(), p=shares / shares.sum())
    texts = [" ".join(words[i] for i in part) for part in np.split(drawn, lengths.cumsum()[:-1])]
    for place in rng.choice(rows, int(_REPEATED * rows), replace=False):
        texts[place] = texts[int(rng.integers(rows))]
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "label"])
        writer.writerows(zip(texts, rng.choice(["no", "yes"], rows), strict=True))


def measure(sizes: tuple[int, ...] = SIZES) -> dict[int, Taken]:
    """What a look takes by rows; every size is looked at once."""
    taken = {}
    with tempfile.TemporaryDirectory() as folder:
        for rows in sizes:
            path = Path(folder) / f"rows-{rows}.csv"
            write_rows(path, rows, np.random.default_rng(0))
            taken[rows] = measured(["look", str(path), "--encoder", ENCODER])
    return taken


def page(taken: dict[int, Taken]) -> str:
    """The figures as Markdown."""
    lines = [
        "# What a look at the data takes",
        "",
        f"Measured {datetime.now(UTC).isoformat(timespec='seconds')} on {available_cores()} cores",
        f"by `python -m benchmarks look`: `kdlora look FILE --encoder {ENCODER}`, from its start",
        "to its end, on rows of 4 to 60 made-up words of which 3 % repeat another. Processor",
        "seconds are those of all threads; they do not count the waiting for other programs.",
        "",
        "| rows | seconds | processor seconds | peak memory, MB |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {rows:,} | {one.wall_s:.1f} | {one.cpu_s:.1f} | {one.peak_mb:.0f} |"
        for rows, one in taken.items()
    ]
    return "\n".join(lines) + "\n"
