from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kdlora.evidence.aggregates import shared_cells
from tests.harness.evidence_frames import grid

ARMS = ["teacher/fft", "teacher/lora", "student/kd-lora"]


def by_arm(arm: str, pair: str, task: str, seed: int) -> float:
    return 0.5 + 0.1 * ARMS.index(arm) + 0.01 * seed


def test_only_cells_of_all_arms_count() -> None:
    frame = grid(by_arm, arms=ARMS)
    frame = frame[~((frame["arm"] == "student/kd-lora") & (frame["seed"] > 1))]
    table = shared_cells(frame)
    assert table.n_cells == 2
    assert table.by_task == {"t0": 1, "t1": 1}
    np.testing.assert_allclose(table.table.loc[("bert", "t0", 1), ARMS], [51, 61, 71])
    assert table.cost == {"student/kd-lora": 4, "teacher/fft": 0, "teacher/lora": 0}
    assert any("without student/kd-lora there would be 4 cells more" in n for n in table.notes)


def test_blocks_are_means_over_seeds_and_tasks_means_over_blocks() -> None:
    frame = grid(by_arm, arms=ARMS, pairs=["p", "q"])
    frame = frame[~((frame["pair"] == "q") & (frame["seed"] > 1))]
    table = shared_cells(frame, ARMS)
    blocks, tasks = table.means_by("blocks"), table.means_by("tasks")
    assert blocks.table.shape == (4, 3)
    assert blocks.table.loc[("p", "t0"), "teacher/fft"] == pytest.approx(52)
    assert tasks.table.loc["t0", "teacher/fft"] == pytest.approx((52 + 51) / 2)
    with pytest.raises(ValueError, match="unknown level"):
        table.means_by("runs")


def test_patterns_are_columns_of_averages() -> None:
    frame = grid(by_arm, arms=ARMS)
    table = shared_cells(frame, ["teacher/*", "student/kd-lora"])
    assert table.table.loc[("bert", "t0", 1), "teacher/*"] == pytest.approx(56)


def test_an_arm_without_seeds_serves_all_seeds() -> None:
    frame = pd.concat(
        [grid(by_arm, arms=ARMS[:2]), grid(lambda *_: 0.4, arms=["baseline/tfidf"], seeds=[0])]
    )
    table = shared_cells(frame)
    assert table.n_cells == 6
    assert set(table.table["baseline/tfidf"]) == {40.0}


def test_why_there_is_no_table() -> None:
    frame = grid(by_arm, arms=ARMS)
    assert "nothing to compare" in shared_cells(frame, ["teacher/fft"]).reason
    assert "no finished run of teacher/dora" in shared_cells(frame, [*ARMS, "teacher/dora"]).reason
    frame.loc[frame["arm"] == "teacher/lora", "seed"] += 10
    none = shared_cells(frame)
    assert none.n_cells == 0
    assert "without teacher/lora there would be 6" in none.reason
    assert none.means_by("tasks") is none
    assert shared_cells(frame.head(0)).reason
