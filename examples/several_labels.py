"""Writes posts/train.csv, eval.csv and texts.csv: texts that may each have several labels, or none.

No set with several labels a text is at hand under a licence that lets it be shipped, so this one is
joined from four others, and says so. A text is one to three parts, each from a source of its own:

- a sentence of a film review (SST-2): the label praise or criticism;
- a tweet (Davidson et al. 2017): offensive, hate, or neither, which is no label;
- a question (QQP): question;
- a sentence of a grammar book (CoLA), which has no label, where no other part was drawn.

    python examples/several_labels.py DATA
    kdlora run examples/several-labels.yaml --data-dir .

Labels of one text are drawn independently of each other, which is kinder than life: in real sets
they come together. "hate" is rare, in some two of a hundred texts. texts.csv has no labels.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

SIZES = {"train": ("train", 4000), "eval": ("validation", 1500), "texts": ("train", 8000)}
REVIEW, TWEET, QUESTION = 0.5, 0.4, 0.3  # how often a text has such a part
TWEETS: tuple[tuple[str, ...], ...] = (("hate",), ("offensive",), ())


def read(path: Path) -> list[list[str]]:
    """The rows of a tab-separated file without quoting, header left out."""
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]


def posts(
    sources: Mapping[str, Sequence[Sequence[str]]], n: int, rng: np.random.Generator
) -> list[tuple[str, str]]:
    """n texts and their labels, with a bar between; a source's last cell is the class."""

    def drawn(name: str) -> Sequence[str]:
        rows = sources[name]
        return rows[int(rng.integers(len(rows)))]

    made = []
    for _ in range(n):
        parts, labels = [], list[str]()
        if rng.random() < REVIEW:
            text, label = drawn("sst2")
            parts.append(text)
            labels.append("praise" if label == "1" else "criticism")
        if rng.random() < TWEET:
            text, label = drawn("hate")
            parts.append(text)
            labels += TWEETS[int(label)]
        if rng.random() < QUESTION:
            parts.append(drawn("qqp")[0])
            labels.append("question")
        if not parts:
            parts.append(drawn("cola")[0])
        made.append((" ".join(rng.permutation(parts).tolist()), "|".join(labels)))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder with sst2, hate, qqp and cola")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("posts"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(options.seed)
    for name, (split, n) in SIZES.items():
        sources = {s: read(options.data / s / f"{split}.tsv") for s in ("sst2", "hate", "qqp")}
        cola = read(options.data / "cola" / f"{split}.tsv")
        sources["cola"] = [row for row in cola if row[-1] == "1"]
        path = options.out / f"{name}.csv"
        with path.open("w", encoding="utf-8", newline="") as handle:
            rows = [("text", "labels"), *posts(sources, n, rng)]
            known = 1 if name == "texts" else 2
            csv.writer(handle, lineterminator="\n").writerows(row[:known] for row in rows)
        print(f"wrote {n:,} texts to {path}")


if __name__ == "__main__":
    main()
