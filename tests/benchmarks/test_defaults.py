from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import defaults
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan
from kdlora.spec.run import DistilledRun, TrainedRun


@pytest.fixture
def glue(tmp_path: Path) -> Path:
    for task in defaults.TASKS:
        columns = ["sentence"] if task in ("sst2", "cola", "hate") else ["sentence1", "sentence2"]
        (folder := tmp_path / task).mkdir()
        for split in ("train", "validation"):
            (folder / f"{split}.tsv").write_text("\t".join([*columns, "label"]) + "\n")
    return tmp_path


def test_each_candidate_is_trained_on_every_task_before_the_next_begins(glue: Path) -> None:
    found = list(defaults.blocks(glue, [300, None], (), defaults.TASKS))
    assert [(c.name, rows) for rows, c, _ in found[:2]] == [
        ("fft-before", 300),
        ("fft-before", None),
    ]
    assert len(found) == 2 * len(defaults.CANDIDATES)
    for rows, candidate, by_task in found:
        assert tuple(by_task) == defaults.TASKS
        for runs in by_task.values():
            (*teachers, run) = runs
            assert isinstance(run, TrainedRun)
            assert str(run.arm) == candidate.arm
            assert run.data.max_train == rows
            assert run.data.max_selection == defaults.SELECTION_ROWS
            assert run.training.min_steps == candidate.training.get("min_steps", 0)
            if isinstance(run, DistilledRun):
                assert [t.run_id for t in teachers] == list(run.teachers)


def test_what_is_called_the_defaults_is_what_a_study_file_that_names_nothing_means() -> None:
    study = {"name": "x", "tasks": ["movie-reviews"], "pairs": [defaults.PAIR], "baselines": False}
    for one in defaults.DEFAULTS:
        both = {"arms": [one.arm], "variations": {"named": one.variation()}}
        assert len(make_plan(make_study(study | both)).runs) == 1  # the same run, named or not


def test_without_time_nothing_is_trained_and_the_table_is_empty(glue: Path, tmp_path: Path) -> None:
    found = defaults.search(glue, tmp_path / "runs", budgets=[300], minutes=0)
    assert found == []
    assert defaults.summary(found).strip() == ""


def test_the_table_means_over_the_tasks_and_counts_the_flags() -> None:
    def entry(candidate: str, task: str, score: float | None, *flags: str) -> dict:
        return {"rows": 1000, "candidate": candidate, "task": task, "selection": score,
                "flags": list(flags)}  # fmt: skip

    page = defaults.summary([
        entry("before", "sst2", 0.8), entry("before", "cola", None, "constant_predictions"),
        entry("after", "sst2", 0.9, "never_improved"),
    ])  # fmt: skip
    assert page.startswith("### 1,000 labels\n")
    assert "| before | 80.0 | 0.0 | 40.0 | 0 | 0 | 1 |" in page
    assert "| after | 90.0 |  |  | 1 | 0 | 0 |" in page
