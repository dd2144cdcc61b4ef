"""Writes long/train.csv and long/eval.csv: a tweet behind some 400 tokens of questions.

A text is questions of QQP, drawn at random, then one tweet (Davidson et al. 2017), which is
offensive or not: the class of the text. What decides therefore stands behind what a model of 128
tokens reads, as in a long post that ends with an insult.

    python examples/long_texts.py DATA
    kdlora run examples/long-texts.yaml --data-dir .

DATA holds qqp and hate, each with {train,validation}.tsv. Tweets and questions of the training
texts are none of the held-out ones. Half of the texts are offensive.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

WORDS = (290, 340)  # of the questions before the tweet; a word is some 1.3 tokens


def read(path: Path) -> list[list[str]]:
    """The rows of a tab-separated file without quoting, header left out."""
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]


def long_texts(
    ends: Sequence[tuple[str, str]], questions: Sequence[str], rng: np.random.Generator
) -> list[tuple[str, str]]:
    """A text and its class for each of `ends` (how it ends, class), in a random order."""
    made = []
    for number in rng.permutation(len(ends)):
        end, label = ends[int(number)]
        words: list[str] = []
        enough = int(rng.integers(*WORDS))
        while len(words) < enough:
            words += questions[int(rng.integers(len(questions)))].split()
        made.append((" ".join([*words, end]), label))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder with qqp and hate")
    parser.add_argument("--train", type=int, default=1000, help="training texts")
    parser.add_argument("--held-out", type=int, default=600, help="held-out texts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("long"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(options.seed)
    parts = {"train": ("train", options.train), "eval": ("validation", options.held_out)}
    for name, (split, most) in parts.items():
        tweets: dict[str, list[str]] = {"offensive": [], "neither": []}
        for row in read(options.data / "hate" / f"{split}.tsv"):
            tweets["neither" if row[-1] == "2" else "offensive"].append(row[0])
        ends = [
            (own[int(i)], label)
            for label, own in tweets.items()
            for i in rng.permutation(len(own))[: most // 2]
        ]
        questions = [row[0] for row in read(options.data / "qqp" / f"{split}.tsv")]
        path = options.out / f"{name}.csv"
        with path.open("w", encoding="utf-8", newline="") as handle:
            rows = long_texts(ends, questions, rng)
            csv.writer(handle, lineterminator="\n").writerows([("text", "label"), *rows])
        print(f"wrote {len(rows):,} texts to {path}")


if __name__ == "__main__":
    main()
