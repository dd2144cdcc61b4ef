"""Coverage: holes, duplicates and mixes of grids whose truth is known."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlora.errors import InputError
from kdlora.evidence.coverage import (
    cells_of_all,
    coverage,
    expected_grid,
    pooled_against_balanced,
    task_shares,
)
from kdlora.importing.results import read_results

ARMS, PAIRS, TASKS, SEEDS = ("teacher/fft", "student/kd-lora"), ("p", "q"), ("a", "b", "c"), (1, 2)
GRID = list(product(ARMS, PAIRS, TASKS, SEEDS))


def grid(cells=GRID, **columns) -> pd.DataFrame:
    frame = pd.DataFrame(cells, columns=["arm", "pair", "task", "seed"])
    return frame.assign(score=np.linspace(0.5, 0.9, len(frame)), **columns)


@settings(max_examples=25, deadline=None)
@given(st.sets(st.sampled_from(GRID), max_size=8))
def test_what_is_taken_out_is_what_is_missing(removed):
    kept = [cell for cell in GRID if cell not in removed]
    # every level must still be seen, or the frame cannot know that it is expected
    seen = [set(level) for level in zip(*kept, strict=True)]
    if seen != [set(ARMS), set(PAIRS), set(TASKS), set(SEEDS)]:
        return
    result = coverage(grid(kept))
    assert (result.expected, result.present) == (24, 24 - len(removed))
    assert set(result.holes.itertuples(index=False, name=None)) == removed
    whole = {(p, t) for p in PAIRS for t in TASKS
             if not any(c[1:3] == (p, t) for c in removed)}  # fmt: skip
    blocks = result.blocks[result.blocks["complete"]]
    assert set(zip(blocks["pair"], blocks["task"], strict=True)) == whole
    shared = {c[1:] for c in kept if (ARMS[0], *c[1:]) in kept and (ARMS[1], *c[1:]) in kept}
    assert set(result.shared.itertuples(index=False, name=None)) == shared


def test_duplicates_are_told_from_other_settings():
    frame = pd.concat([grid(rank=8), grid(GRID[:1], rank=8), grid(GRID[:2], rank=16)])
    result = coverage(frame)
    assert result.varied == ("rank",)
    assert result.duplicates[["arm", "rank", "n"]].values.tolist() == [["teacher/fft", 8, 2]]
    assert result.present == 24
    assert result.complete
    assert any("rank" in line for line in result.sentences())


def test_one_run_planned_for_every_seed_is_no_duplicate():
    frame = grid().assign(run_id=[f"r{i}" for i in range(24)])
    again = pd.concat([frame, frame.iloc[:1]])
    assert coverage(again).duplicates.empty
    assert len(coverage(again.assign(run_id=[f"r{i}" for i in range(25)])).duplicates) == 1


def test_a_plan_says_what_is_expected():
    frame = grid(status="done")
    frame.loc[[0, 5], "status"] = ["missing", "failed"]
    result = coverage(frame.iloc[:10])
    assert (result.expected, result.present) == (10, 8)


def test_baselines_and_given_teachers_have_no_seed_to_miss():
    extra = pd.DataFrame(
        [("baseline/majority", "p", "a", 1), ("teacher/given", "p", "a", 1)],
        columns=["arm", "pair", "task", "seed"],
    )
    frame = pd.concat([grid(), extra])
    result = coverage(frame)
    assert result.complete
    assert result.expected == 26
    assert len(expected_grid(frame)) == 26
    assert len(result.shared) == 12  # baselines do not make other cells less shared


def test_pooled_means_beside_balanced_ones():
    # an easy task with ten seeds and a hard one with one: pooling weighs the easy one tenfold
    rows = [("x/y", "p", "easy", s, 0.9) for s in range(10)] + [("x/y", "p", "hard", 0, 0.1)]
    frame = pd.DataFrame(rows, columns=["arm", "pair", "task", "seed", "score"])
    table = pooled_against_balanced(frame, cells_of_all(frame, ["x/y"]))
    assert table["pooled_mean"].iloc[0] == pytest.approx(9.1 / 11)
    assert table["balanced_mean"].iloc[0] == pytest.approx(0.5)


def test_a_task_with_more_pairs_weighs_no_more_than_another():
    rows = [("x/y", pair, "a", 1, 0.9) for pair in "pqr"] + [("x/y", "p", "b", 1, 0.1)]
    frame = pd.DataFrame(rows, columns=["arm", "pair", "task", "seed", "score"])
    table = pooled_against_balanced(frame, cells_of_all(frame, ["x/y"]))
    assert table["balanced_mean"].iloc[0] == pytest.approx(0.5)


def test_shares_and_the_unbalanced_mix_are_said():
    frame = grid([c for c in GRID if c[0] == ARMS[0] or c[2] == "a"])
    shares = task_shares(frame)
    assert shares.sum(axis=1).tolist() == pytest.approx([1, 1])
    assert shares.loc[ARMS[1], "a"] == 1
    assert shares.loc[ARMS[0], "a"] == pytest.approx(1 / 3)
    assert "most for a: 100.0% of student/kd-lora, 33.3%" in coverage(frame).unbalanced[0]


def test_the_742_runs_miss_exactly_what_is_listed(shared):
    frame = read_results(shared / "reference" / "runs.csv").frame
    listed = pd.read_csv(shared / "reference" / "missing_cells.csv")
    arm = np.where(listed["strategy"] == "lora", "teacher/", "student/kd-") + listed["peft"]
    expected = set(zip(arm, listed["family"], listed["task"], listed["seed"], strict=True))
    result = coverage(frame)
    assert (result.expected, result.present) == (1053, 742)
    assert set(result.holes.itertuples(index=False, name=None)) == expected
    assert result.duplicates.empty
    assert result.varied == ()
    assert len(result.shared) == 37
    at_42 = cells_of_all(frame[frame["seed"] == 42], result.arms)
    assert len(at_42) == 27
    kd = result.shares.loc["student/kd-lora"]
    assert kd["cola"] == pytest.approx(0.2)
    assert kd["rte"] == pytest.approx(1 / 15)


def test_balanced_means_are_those_of_the_careful_analysis(shared):
    import json

    truth = json.loads((shared / "reference" / "better_stats.json").read_text())

    def find(node, name):
        if isinstance(node, dict):
            if name in node:
                return node[name]
            node = list(node.values())
        if isinstance(node, list):
            for item in node:
                found = find(item, name)
                if found is not None:
                    return found
        return None

    expected = find(truth, "balanced_mean_of_27_cells")
    table = coverage(read_results(shared / "reference" / "runs.csv").frame).pooled
    means = dict(zip(table["arm"], table["balanced_mean"], strict=True))
    for name, value in expected.items():
        strategy, variant = name.split(":")
        arm = f"student/kd-{variant}" if strategy == "kd-lora" else f"teacher/{variant}"
        assert means[arm] == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    "frame",
    [
        grid(GRID[:1]),
        grid(GRID[:1], status="missing"),
        grid().assign(score=np.nan),
        grid().assign(score="x"),
        grid().drop(columns=["seed", "pair", "score"]),
        grid().assign(seed=None, pair=None),
        grid().assign(arm=None),
        grid().iloc[:0],
    ],
)
def test_odd_frames_give_sentences(frame):
    result = coverage(frame)
    assert all(isinstance(line, str) and line for line in result.sentences())
    assert result.to_dict()["expected"] == result.expected


def test_what_cannot_be_covered_is_said():
    with pytest.raises(InputError, match="no column 'arm'"):
        coverage(grid().drop(columns="arm"))
