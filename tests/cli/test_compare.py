from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

import kdlora.records.frame
from kdlora.cli.compare import compare
from kdlora.errors import InputError
from tests.harness.evidence_frames import grid, noisy

ARMS = ["teacher/fft", "teacher/lora", "student/lora", "student/kd-lora"]
TASKS = [f"t{i}" for i in range(7)]

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(compare)


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """Runs the command on a study whose frame is given, and returns what it prints."""

    def run(frame: pd.DataFrame, *arguments: str) -> str:
        monkeypatch.setattr(kdlora.records.frame, "load_frame", lambda root: frame)
        monkeypatch.setenv("COLUMNS", "200")
        done = CliRunner().invoke(
            app, [str(tmp_path), "--draws", "300", *arguments], catch_exceptions=False
        )
        assert done.exit_code == 0
        return done.output

    return run


FRAME = grid(noisy(0.05), arms=ARMS, tasks=TASKS).assign(train_s=3.0, trainable_params=1e5)


def test_a_whole_study_in_tables(study) -> None:
    text = study(FRAME)
    for words in ("distilled students against teacher/fft", "gain of distillation",
                  "methods on the 21 cells",
                  "cost in per cent", "inferior", "Points are hundredths"):  # fmt: skip
        assert words in text


def test_methods_and_costs_fit_into_eighty_columns() -> None:
    import io

    from rich.console import Console

    from kdlora.cli.compare import method_table, ratio_table
    from kdlora.evidence.result import Rules
    from kdlora.evidence.study import gather

    costs = {"size_mb": 90.9, "peak_memory_mb": 1130.0, "latency_p50_ms": 5.1}
    arms = ["teacher/fft", "teacher/adalora", "student/adalora", "student/kd-adalora"]
    frame = grid(noisy(0.05), arms=arms, tasks=TASKS)
    frame = frame.assign(train_s=3.0, trainable_params=1e5, **costs)
    evidence = gather(frame, rng=np.random.default_rng(0), rules=Rules(draws=300))
    console = Console(file=io.StringIO(), width=80, color_system=None)
    for table in (method_table(evidence), ratio_table(evidence)):
        console.print(table)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in text  # nothing is cut
    assert all(f"{arm} " in text for arm in arms)  # nor folded
    aggregate = next(a for a in evidence.aggregates if a.arm == "student/kd-adalora")
    assert f"{aggregate.mean:.1f}" in text
    assert f"[{aggregate.mean_low:.1f}, {aggregate.mean_high:.1f}]" in text


def test_a_whole_study_in_json(study) -> None:
    out = json.loads(study(FRAME, "--json"))
    assert {"comparisons", "aggregates", "ranks", "front", "mixed", "rules"} <= set(out)
    named = json.loads(study(FRAME, "--json", "--a", "student/kd-lora"))
    assert set(named) == {"part", "reference", "rules", "comparisons"} <= set(out)
    (one,) = named["comparisons"]
    same = next(c for c in out["comparisons"] if (c["a"], c["b"]) == (one["a"], one["b"]))
    assert one == same  # and so is the verdict


def test_named_arms_with_wish_and_filters(study) -> None:
    text = study(FRAME, "--a", "teacher/lora", "--b", "student/kd-lora", "--wish", "0.5",
                 "--without", "task=t0", "--margin", "2")  # fmt: skip
    assert "teacher/lora is superior to student/kd-lora on tasks like these" in text
    assert "6 tasks" in text
    assert "0.5" in text
    assert "±2 points" in text


def test_named_arms_in_json(study) -> None:
    (row,) = json.loads(
        study(FRAME, "--a", "student/kd-lora", "--json", "--pair", "family,task", "--wish", "1")
    )["comparisons"]
    assert row["b"] == "teacher/fft"
    assert row["n_runs"] == 7
    assert row["verdict"] == "inferior"
    assert row["seeds_needed"]["wished"] == 1


def test_no_answer_is_text_and_no_traceback(study) -> None:
    text = study(FRAME.assign(score=np.nan), "--a", "teacher/lora")
    assert "cannot be said" in text
    assert "No table of methods" in study(FRAME.assign(status="missing"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--a", "student/kd-loro"], "Did you mean 'student/kd-lora'"),
        (["--reference", "teacher/ff"], "no arm 'teacher/ff'"),
        (["--a", "teacher/fft", "--b", "teacher/fft"], "same arm"),
        (["--alpha", "2", "--a", "teacher/lora"], "alpha is 2.0"),
        (["--correction", "sidak"], "holm, bh or none"),
        (["--without", "tusk=t0"], "Did you mean 'task'"),
        (["--where", "task"], "column=value"),
        (["--where", "task=t9"], "no row has it. Did you mean 't"),
        (["--without", "student/kd-loro"], "Did you mean 'student/kd-lora'"),
        (["--without", "student/*", "--without", "teacher/*"], "no run is left"),
        (["--pair", "task,fold", "--a", "teacher/lora"], "no column 'fold'"),
        (["--score", "report.f1", "--a", "teacher/lora"], "no column 'report.f1'"),
        (["--budget", "params", "--a", "teacher/lora"], "no column 'params'"),
        (["--budget", "trainable_params"], "one comparison"),
    ],
)
def test_what_cannot_be_understood_is_one_message(study, arguments: list[str], words: str) -> None:
    with pytest.raises(InputError) as caught:
        study(FRAME, *arguments)
    assert words in str(caught.value)


def test_the_same_budget_keeps_runs_of_like_cost(study) -> None:
    text = study(
        FRAME, "--a", "teacher/lora", "--b", "student/lora", "--budget", "trainable_params"
    )
    assert "superior" in text
    unlike = FRAME.assign(trainable_params=np.where(FRAME["role"] == "teacher", 1e6, 1e5))
    with pytest.raises(InputError, match="10 times"):
        study(unlike, "--a", "teacher/lora", "--b", "student/lora", "--budget", "trainable_params")


def test_stored_predictions_are_tested_example_by_example(
    study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = grid(noisy(0.05), arms=ARMS[:2], tasks=["t0"])
    frame["run_id"] = [f"run{i}" for i in range(len(frame))]
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    for run_id, arm in zip(frame["run_id"], frame["arm"], strict=True):
        right = rng.random(300) < (0.95 if arm == "teacher/fft" else 0.7)
        logits = np.eye(2)[np.where(right, labels, 1 - labels)]
        folder = tmp_path / "runs" / run_id
        folder.mkdir(parents=True)
        pd.DataFrame(
            {
                "split": "report",
                "example_id": [f"e{i}" for i in range(300)],
                "label": labels,
                "logits": list(logits),
            }
        ).to_parquet(folder / "predictions.parquet")
    (row,) = json.loads(study(frame, "--a", "teacher/fft", "--b", "teacher/lora", "--examples",
                              "--json"))["comparisons"]  # fmt: skip
    assert [e["cell"] for e in row["examples"]] == ["bert/t0/1", "bert/t0/2", "bert/t0/3"]
    assert all(e["p_corrected"] < 1e-6 and e["difference"] > 10 for e in row["examples"])
    text = study(frame, "--a", "teacher/fft", "--b", "teacher/lora", "--examples")
    assert "only a right" in text
