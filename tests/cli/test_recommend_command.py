"""The commands `recommend` and `calibrate` on the demo's records, and what they refuse."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from kdlora.choice.constraints import PROFILES
from kdlora.cli import main
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan
from tests.harness.stored_studies import ERROR, store_study

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs" / "recommend.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def demo(tiny_study: Path) -> Path:
    """A finished study of a tiny teacher and its students."""
    return tiny_study


def run(*arguments: str) -> int:
    try:
        main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_json_has_the_choice_and_its_sources(demo: Path, capsys) -> None:
    assert run("recommend", str(demo), "--profile", "server", "--draws", "300", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["recommendations"]
    assert found["profile"] == "server"
    assert found["n_examples"] == 64
    assert found["choice"]["drop"] <= 1.0
    assert 0 < found["probability"] <= 1
    assert found["choice"]["candidate"]["size_mb"]["basis"] in ("estimated", "measured")
    assert found["considered"][0]["candidate"] == found["choice"]["candidate"]


def test_a_limit_that_nothing_keeps(demo: Path, capsys) -> None:
    assert run("recommend", str(demo), "--min-score", "1.01", "--draws", "300") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Nothing fits" in text
    assert re.search(r"min_score [01]\.?\d* instead of 1\.01 would let in", text)


def test_problems_come_together_with_exit_code_2(demo: Path, capsys) -> None:
    assert run("recommend", str(demo), "--prefer", "spead", "--max-size-mb", "0") == 2
    error = capsys.readouterr().err
    assert "2 problems" in error
    assert "Traceback" not in error
    wrong = ["--profile", "mobil", "--max-size-mb", "-5", "--prefer", "foo", "--runtime", "bar",
             "--draws", "0"]  # fmt: skip
    assert run("recommend", str(demo), *wrong) == 2
    error = capsys.readouterr().err
    assert "5 problems" in error
    assert "Did you mean 'mobile'" in error
    assert run("recommend", str(demo), "--profile", "mobil") == 2
    assert "Did you mean 'mobile'" in capsys.readouterr().err
    assert run("recommend", str(demo), "--task", "mods") == 2
    assert "moods" in capsys.readouterr().err
    assert run("recommend", str(demo), "--export", "nowhere") == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_task_of_flagged_models_is_told_and_the_others_are_chosen(tmp_path: Path, capsys) -> None:
    """Whichever task it is; where it is all of them, there is nothing to show."""
    tasks = ["rte", "mrpc", "cola"]
    for unsound in ({"rte"}, {"mrpc", "cola"}, set(tasks)):
        root = tmp_path / "-".join(sorted(unsound))
        store_study(
            root,
            lambda run: (0.8, 0.7),
            flagged=lambda run, unsound=unsound: [ERROR] * (run.task.name in unsound),
            tasks=tasks,
        )
        sound = [task for task in tasks if task not in unsound]
        options = ["--profile", "student", "--draws", "100"]
        code = 1 if sound else 2
        assert run("recommend", str(root), *options, "--json") == code
        told = capsys.readouterr()
        if sound:
            made = json.loads(told.out)
            assert [one["task"] for one in made["recommendations"]] == sound
            assert all(one["choice"] is not None for one in made["recommendations"])
            assert set(made["lacking"]) == unsound
        else:
            assert told.out == ""
        for task in tasks:
            assert told.err.count(f"nothing to choose from on '{task}'") == (task in unsound)
        assert run("recommend", str(root), *options) == code
        told = capsys.readouterr()
        assert [f"student on {task}:" in told.out for task in tasks] == [
            task in sound for task in tasks
        ]
        assert told.err.count("carries an error flag") == len(unsound)
        assert "Traceback" not in told.err


def test_calibrate_prints_both_splits(demo: Path, tmp_path: Path, capsys) -> None:
    run_id = json.loads((demo / "student" / "kdlora.json").read_text())["run_id"]
    target = tmp_path / "runs" / run_id
    target.mkdir(parents=True)
    for name in ("record.json", "predictions.parquet"):
        shutil.copy(demo / "runs" / run_id / name, target / name)
    assert run("calibrate", str(target), "--temperature", "--threshold", "f1", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["after"]["selection"]["nll"] <= made["before"]["selection"]["nll"]
    assert made["after"]["selection"]["score"] >= made["before"]["selection"]["score"]
    assert made["positive"] == "pos"
    assert run("calibrate", str(target)) == 2
    assert "nothing to do" in capsys.readouterr().err


def test_the_documents_commands_exist_and_their_profiles_are_all() -> None:
    commands = [
        shlex.split(line.split("#")[0])
        for line in re.findall(r"^kdlora .*$", DOCS, flags=re.MULTILINE)
    ]
    assert {command[1] for command in commands} == {"recommend"}
    rows = re.findall(r"^\| `([a-z-]+)` \| .* \| (\w+) \| ", DOCS, flags=re.MULTILINE)
    assert {name: prefer for name, prefer in rows if name in PROFILES} == {
        name: p.constraints.prefer for name, p in PROFILES.items()
    }


def test_the_documents_study_is_a_matrix() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", DOCS, flags=re.DOTALL)
    study = make_study(yaml.safe_load(text))
    assert len(study.pairs) == 4
    assert len({(p.teacher, str(p.student)) for p in study.pairs}) == 4
    assert make_plan(study).runs
