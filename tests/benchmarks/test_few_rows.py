from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from benchmarks import few_rows
from benchmarks.few_rows import Cell


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What would be trained, call by call; every arm scores 0.8 in two seconds."""
    calls: list[tuple[str, ...]] = []
    table = pd.DataFrame({"text": [f"t{i}" for i in range(600)], "label": ["a", "b"] * 300})
    monkeypatch.setattr(few_rows, "read_tasks", lambda data_dir: {"tweets": (table, table)})
    record = SimpleNamespace(
        quality=SimpleNamespace(score=0.8), efficiency=SimpleNamespace(size_mb=60.0)
    )

    def of_kdlora(folder: Path, arms):
        calls.append(tuple(arms))
        assert len(pd.read_csv(folder / "train.csv")) == 16
        return [(arm, record, 2.0, 3.0) for arm in arms]

    def of_setfit(python: str, folder: Path, rows: int, draw: int):
        calls.append((python,))
        return {"accuracy": 0.7, "train_s": 9.0, "size_mb": 61.0, "text_ms": 4.0}

    monkeypatch.setattr(few_rows, "of_kdlora", of_kdlora)
    monkeypatch.setattr(few_rows, "of_setfit", of_setfit)
    return calls


def test_as_many_rows_of_each_class_are_drawn() -> None:
    table = pd.DataFrame({"text": range(100), "label": ["a"] * 90 + ["b"] * 10})
    drawn = few_rows.drawn_rows(table, 16, np.random.default_rng(0))
    assert drawn["label"].value_counts().to_dict() == {"a": 8, "b": 8}
    assert drawn["text"].is_unique


def test_what_is_kept_is_not_measured_again(asked, tmp_path: Path) -> None:
    few_rows.measure(tmp_path, tmp_path, rows=[16])
    assert asked == [tuple(few_rows.ARMS)]
    few_rows.measure(tmp_path, tmp_path, rows=[16], setfit_python="theirs")
    assert asked[1:] == [("theirs",)]
    few_rows.measure(tmp_path, tmp_path, rows=[16], draws=2, setfit_python="theirs", minutes=0)
    assert len(asked) == 2
    cells = json.loads((tmp_path / "few_rows.json").read_text())["cells"]
    assert {cell["contender"] for cell in cells} == set(few_rows.CONTENDERS)
    assert "| tweets | 16 | 80.0, 2.0 s |" in (tmp_path / "few_rows.md").read_text()


def test_the_page_has_means_ranges_and_what_each_gives() -> None:
    cells = [
        Cell("tweets", 16, draw, name, accuracy, 2.0 + draw, 60.0, ms)
        for name, ms in (("frozen student", 3.0), (few_rows.SETFIT, 4.0))
        for draw, accuracy in enumerate((0.7, 0.8))
    ]
    page = few_rows.page([*cells, Cell("tweets", 64, 0, few_rows.SETFIT, 0.9, 5.0, 60.0, 4.0)])
    assert "the mean and the range of 2 draws" in page
    assert "| tweets | 16 | 75.0 (70.0 to 80.0), 2.5 s | 75.0 (70.0 to 80.0), 2.5 s |" in page
    assert "| tweets | 64 |  | 90.0, 5.0 s |" in page
    assert "| SetFit | 60 | 4.0 |" in page
