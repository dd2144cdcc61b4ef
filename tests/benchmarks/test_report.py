"""The made-up tables of many runs, and the page of what they take."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks import report


@pytest.mark.parametrize("runs", [742, 3000])
def test_a_table_has_about_as_many_runs_as_asked_each_in_a_cell_of_its_own(tmp_path, runs) -> None:
    path = tmp_path / "made.csv"
    n = report.write_table(path, runs, np.random.default_rng(0))
    table = pd.read_csv(path)
    assert len(table) == n
    assert abs(n - runs) < 0.2 * runs
    assert not table.duplicated(["pair", "task", "arm", "seed"]).any()
    assert table["score"].between(0, 1).all()


def test_the_page_has_a_row_a_table_and_command() -> None:
    row = {"table": "runs.csv", "runs": 742, "command": "report", "cpu_s": 1.24, "wall_s": 2.0,
           "peak_mb": 400.4}  # fmt: skip
    assert "| runs.csv | 742 | report | 1.2 | 2.0 | 400 |" in report.page([row])
