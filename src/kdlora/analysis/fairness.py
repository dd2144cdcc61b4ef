"""What else than the arm differs between the two sides of a comparison."""

from __future__ import annotations

import pandas as pd

from kdlora.store.fairness import FIELDS, conditions

_LONG = ("versions",)  # whose values are too long to be read in a sentence


def conditions_by_run(frame: pd.DataFrame) -> pd.DataFrame:
    """`conditions` of every run, by run id; of none where runs have no id."""
    if "run_id" not in frame:
        return conditions(frame.iloc[:0])
    runs = frame.drop_duplicates("run_id")
    return conditions(runs).set_axis(runs["run_id"].astype(str))


def unequal_between(table: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
    """Sentences on the conditions in which paired runs differ, field by field.

    `table` is that of `conditions_by_run`; `cells` has the columns run_a and run_b (see
    `pairing.Matched`). Of a side that averages several runs the first one speaks for them.
    """
    known = set(table.index)
    pairs = [
        (str(a), str(b))
        for a, b in zip(cells["run_a"], cells["run_b"], strict=True)
        if str(a) in known and str(b) in known
    ]
    sentences = []
    for field, name in FIELDS.items():
        values = table[field].to_dict()
        differing = [
            (values[a], values[b])
            for a, b in pairs
            if values[a] is not None and values[b] is not None and values[a] != values[b]
        ]
        if not differing:
            continue
        a, b = differing[0]
        shown = "" if field in _LONG else f" ({a} against {b})"
        sentences.append(f"{name} differs in {len(differing)} of {len(pairs)} paired cells{shown}")
    return sentences
