from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

import kdlora.records.frame
from kdlora.cli.compare import compare, ratio_tables
from kdlora.errors import InputError
from tests.harness.evidence_frames import grid, noisy

ARMS = ["teacher/fft", "teacher/lora", "student/lora", "student/kd-lora"]
TASKS = [f"t{i}" for i in range(7)]

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(compare)


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """Runs the command on a study whose frame is given, and returns what it prints."""

    def run(frame: pd.DataFrame, *arguments: str, columns: int = 200) -> str:
        monkeypatch.setattr(kdlora.records.frame, "load_frame", lambda root: frame)
        monkeypatch.setenv("COLUMNS", str(columns))
        drawn = () if "--draws" in arguments else ("--draws", "300")
        done = CliRunner().invoke(app, [str(tmp_path), *drawn, *arguments], catch_exceptions=False)
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


LONG = ["teacher/fft", "teacher/adalora", "student/adalora", "student/kd-adalora",
        "student/kd-adalora[temperature=4 kd_weight=0.25]"]  # fmt: skip


@pytest.mark.parametrize(
    ("tasks", "arguments"),
    [
        (TASKS, []),
        (TASKS[:1], []),
        (TASKS, ["--a", "student/kd-adalora"]),
        (TASKS, ["--a", "student/*", "--a", LONG[-1], "--b", "teacher/fft", "--b", LONG[1]]),
        (TASKS[:2], ["--a", LONG[-1], "--b", "student/kd-adalora", "--wish", "1"]),
    ],
    ids=["study", "one task", "one", "many", "long names"],
)
def test_numbers_are_whole_at_eighty_columns(study, tasks, arguments: list[str]) -> None:
    costs = {"size_mb": 90.9, "peak_memory_mb": 1130.0, "latency_p50_ms": 5.1}
    frame = grid(noisy(0.05, spread=0.08), arms=LONG, tasks=tasks)
    frame = frame.assign(train_s=3.0, trainable_params=1e5, **costs)
    text = study(frame, *arguments, columns=80)
    assert "\N{HORIZONTAL ELLIPSIS}" not in text  # nothing is cut
    told = json.loads(study(frame, *arguments, "--json"))
    for c in told["comparisons"]:
        claim = next(found for found in c["claims"].values() if found["scope"] == c["scope"])
        for number in (f"{claim['difference']:+.2f}", f"[{claim['low']:.1f}, {claim['high']:.1f}]"):
            assert re.search(rf"(^|\s){re.escape(number)}(\s|$)", text, re.MULTILINE), number
    for one in told.get("aggregates", ()):
        assert f" {one['mean']:.1f} " in text
        if one["mean_low"] is not None:
            assert f"[{one['mean_low']:.1f}, {one['mean_high']:.1f}]" in text
    tables = [line for line in text.splitlines() if line.startswith(" ")]
    assert max(map(len, tables)) <= 80


def test_names_of_arms_are_whole_at_eighty_columns(study) -> None:
    """A label may stand below the name that it belongs to."""
    costs = {"size_mb": 90.9, "peak_memory_mb": 1130.0, "latency_p50_ms": 5.1}
    frame = grid(noisy(0.05, spread=0.08), arms=LONG, tasks=TASKS)
    text = study(frame.assign(train_s=3.0, trainable_params=1e5, **costs), columns=80)
    begins = re.findall(r"^ ?((?:teacher|student)/\S*|\[temp\S*)", text, re.MULTILINE)
    assert set(begins) == {*LONG[:-1], "[temperature=4"}


@pytest.mark.parametrize("width", [80, 60, 45, 20])
def test_costs_stand_in_as_many_tables_as_their_names_and_numbers_take(width: int) -> None:
    columns = ["trainable_params", "size_mb", "peak_memory_mb", "train_s", "latency_p50_ms"]
    ratios = [
        SimpleNamespace(a=arm, column=c, ratio=1.2, low=1.115, high=1.234, unlike=None)
        for arm in LONG
        for c in columns
    ]
    tables = ratio_tables(SimpleNamespace(reference="teacher/fft", ratios=ratios), width)
    out = io.StringIO()
    console = Console(file=out, width=max(width, 40), markup=False)
    for table in tables:
        console.print(table)
    text = out.getvalue()
    assert text.count("[112, 123]") == len(LONG) * len(columns)
    assert text.count(" student/kd-adalora ") == 2 * len(tables)
    assert len(tables) == {80: 1, 60: 2, 45: 3, 20: 5}[width]


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


@pytest.mark.parametrize("seeds", [[1], [1, 2]])
def test_a_study_without_verdicts_says_what_they_need_and_shows_differences(study, seeds) -> None:
    frame = grid(noisy(0.05), arms=ARMS, tasks=["t0"], seeds=seeds)
    text = study(frame)
    told = json.loads(study(frame, "--json"))["comparisons"]
    reasons = {c["claims"][c["scope"]]["cannot"] for c in told}
    assert reasons
    for reason in reasons:
        assert text.count(f"it cannot be said: {reason}.") == 1
    mean = 100 * frame.groupby("arm")["score"].mean()
    for c in told:
        assert f" {mean[c['a']] - mean[c['b']]:+.2f} " in text


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
        (["--margin-unit", "point"], "margin_unit is 'point'. Did you mean 'points'"),
        (["--margin-unit", "rmse", "--a", "teacher/lora"], "margin_unit is 'rmse'"),
        (["--draws", "0"], "--draws is 0; expected at least 100"),
        (["--seed", "-1"], "--seed is -1"),
        (["--wish", "-1"], "--wish is -1"),
        (["--wish", "nan"], "--wish is nan"),
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


def test_all_that_is_wrong_with_a_comparison_is_told_at_once(study) -> None:
    wrong = ["--margin-unit", "bar", "--draws", "0", "--wish", "-1", "--alpha", "0.6",
             "--without", "tusk=t0"]  # fmt: skip
    with pytest.raises(InputError) as caught:
        study(FRAME, *wrong)
    assert len(caught.value.problems) == 5


def test_a_margin_may_be_in_the_unit_of_an_error(study) -> None:
    frame = grid(noisy(0.05), arms=ARMS, tasks=TASKS, metric="rmse").assign(direction=-1)
    assert "within ±0.5 rmse" in study(frame, "--margin", "0.5", "--margin-unit", "rmse")


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
    for named in (["--a", "teacher/fft", "--b", "teacher/lora"], []):
        assert "right alone" in study(frame, *named, "--examples")
        assert "right alone" not in study(frame, *named)


@pytest.mark.parametrize("named", [["--a", "teacher/lora"], []])
def test_what_is_asked_besides_is_answered_with_and_without_named_arms(
    study, named: list[str]
) -> None:
    text = study(FRAME, *named, "--wish", "0.5", "--examples")
    told = text.count("seeds per block would show a difference of 0.5")
    assert told + text.count("cannot") >= (1 if named else 3)
    assert text.count("no cell of which both runs stored predictions") >= (1 if named else 3)
    untold = study(FRAME.assign(score=np.nan), "--a", "teacher/lora", "--wish", "0.5")
    assert "nothing tells their spread" in untold


def test_of_a_score_of_zero_nothing_is_kept_and_that_is_said(study) -> None:
    def score(arm: str, pair: str, task: str, seed: int) -> float:
        return 0.0 if arm == "student/kd-lora" else 0.8

    frame = grid(score, arms=ARMS, tasks=TASKS)
    few = frame[(frame["arm"] != "student/kd-lora") | (frame["task"] == "t0")]
    for told in (frame, few):
        aggregates = json.loads(study(told, "--json"))
        (one,) = (
            one
            for one in [*aggregates["aggregates"], *aggregates["apart"]]
            if one["arm"] == "student/kd-lora"
        )
        assert one["retention"] == 0.0
        row = next(line for line in study(told).split("methods ")[-1].splitlines()
                   if "student/kd-lora" in line)  # fmt: skip
        assert row.split()[:1] == ["student/kd-lora"]
        assert row.split().count("0.0") >= 2  # the mean and what is kept


def test_the_table_says_of_how_many_tasks_a_share_is(study) -> None:
    frame = grid(lambda arm, *_: 0.5 if arm == "baseline/majority" else 0.8,
                 arms=[*ARMS, "baseline/majority"], tasks=TASKS)  # fmt: skip
    assert "of 7 tasks" not in study(frame)
    frame.loc[frame["task"].isin(["t0", "t1"]), "score"] = 0.5
    assert "kept: of the score of teacher/fft over 5 of 7 tasks" in study(frame)


def test_an_error_is_shown_as_it_was_measured(study) -> None:
    def error(arm: str, pair: str, task: str, seed: int) -> float:
        return ARMS.index(arm) / 10 + 0.502 + seed / 1000

    text = study(grid(error, arms=ARMS, tasks=TASKS).assign(metric="rmse", direction=-1))
    assert "0.504 " in text  # the teacher's mean over three seeds, and not -0.5
    assert "-0.300" in text  # of the student that is worse by 0.3: positive would be better
    assert "Points" not in text
    assert "equivalence within" not in text
