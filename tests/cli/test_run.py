"""The options of `kdlora run`, the board that shows a study at work, and how it ends."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from kdlora import api
from kdlora.cli.app import app
from kdlora.cli.progress import Board, words
from kdlora.errors import InputError, Interrupted
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan

STUDY = {"name": "s", "tasks": ["rte"], "pairs": [{"teacher": "big", "student": "small"}]}


@pytest.fixture
def study(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return path


@pytest.fixture
def asked(monkeypatch) -> dict:
    """What `kdlora run` asks of the API, which does nothing here; `status` is its answer."""
    found: dict = {"status": {}}

    def run(study, **options):
        found.update(options)
        status = found["status"]
        ended = {
            end: {i: f"no luck with {i}" for i, state in status.items() if state == end}
            for end in ("failed", "skipped")
        }
        report = SimpleNamespace(check=lambda: None, failures=())
        return api.StudyResult(Path("out"), status, pd.DataFrame(), report, **ended)

    monkeypatch.setattr(api, "run", run)
    monkeypatch.setattr("kdlora.cli.study.show", lambda result, console: None)
    return found


def command(*arguments: object):
    return CliRunner().invoke(app, ["run", *map(str, arguments)])


def test_every_option_reaches_the_engine(study, asked):
    done = command(
        study, "--workers", 3, "--threads", 2, "--only", "rte", "--only", "arm=student/*",
        "--max-hours", 1.5, "--retry-failed", "--retry-flagged", "--out", "there",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    expected = {"workers": 3, "threads": 2, "only": ["rte", "arm=student/*"], "max_hours": 1.5}
    expected |= {"retry_failed": True, "retry_flagged": True, "out": Path("there")}
    assert {name: asked[name] for name in expected} == expected


def test_without_options_everything_is_done_once_and_nothing_again(study, asked):
    assert command(study).exit_code == 0
    assert asked["workers"] is None  # one here; the engine decides
    assert list(asked["only"]) == []
    assert asked["max_hours"] is None
    assert not asked["retry_failed"]
    assert not asked["retry_flagged"]


@pytest.mark.parametrize("wrong", [["--workers", 0], ["--max-hours", 0], ["--threads", "two"]])
def test_impossible_numbers_are_refused(study, asked, wrong):
    done = command(study, *wrong)
    assert done.exit_code == 2
    assert "workers" not in asked


def test_a_wrong_only_is_told_before_anything_is_read_or_written(study, tmp_path):
    done = command(study, "--only", "arm=studnt/*", "--only", "sed=1")
    assert isinstance(done.exception, InputError)
    assert "unknown field 'sed'. Did you mean 'seed'?" in str(done.exception)
    done = command(study, "--only", "arm=studnt/*")
    assert "no run of the plan fits" in str(done.exception)
    assert "student/kd-lora" in str(done.exception)
    assert not (tmp_path / "results").exists()


def test_failures_come_last_with_the_command_that_tries_them_again(study, asked):
    asked["status"] = {"a": "failed", "b": "skipped", "c": "done", "d": "later"}
    done = command(study)
    shown = done.output.replace("\n", " ")
    assert "1 runs, and 1 that need them were skipped" in shown
    assert "kdlora run out/study.yaml --out out --retry-failed" in shown
    assert "1 runs; the same command goes on with them" in shown
    assert isinstance(done.exception, InputError)
    assert str(done.exception) == "a failed: no luck with a"


def test_the_options_tell_their_defaults():
    shown = " ".join(CliRunner().invoke(app, ["run", "--help"], terminal_width=200).output.split())
    for part in ("--only", "--max-hours", "--retry-failed", "--retry-flagged", "--workers"):
        assert part in shown
    for part in ("Default: all runs", "Default: no limit", "default: no", "Default: no."):
        assert part in shown


@pytest.fixture
def board():
    plan = make_plan(make_study(STUDY))
    console = Console(file=io.StringIO(), width=200)
    with Board(plan, console, done=[plan.runs[0].run_id]) as board:
        yield board, plan.runs, console.file


def test_the_board_counts_what_was_done_before_and_shows_the_time_left(board):
    board, runs, _ = board
    board.on_event(runs[1], {"start": True, "worker": 0, "remaining_s": 7200.0})
    [overall] = [task for task in board.bars.tasks if task.id == board.overall]
    assert (overall.completed, overall.total) == (1, len(runs))
    assert "2 h 0 min" in overall.fields["info"]
    [job] = [task for task in board.bars.tasks if task.id != board.overall]
    assert "1" in job.description
    board.on_event(runs[1], {"step": 3, "total": 9})
    assert (job.completed, job.total) == (3, 9)
    quality = SimpleNamespace(score=0.5, primary="accuracy")
    board.on_event(runs[1], {"done": SimpleNamespace(quality=quality, doubts=[])})
    assert overall.completed == 2
    assert [task.id for task in board.bars.tasks] == [board.overall]


def test_the_board_says_what_became_of_each_run(board):
    board, runs, out = board
    board.on_event(runs[1], {"start": True, "worker": 0})
    board.on_event(runs[1], {"retry": "its process was killed by SIGKILL"})
    assert len(board.bars.tasks) == 1  # its bar is gone until it starts again
    board.on_event(runs[1], {"start": True, "worker": 0})
    board.on_event(runs[1], {"failed": "Traceback\nOSError: no luck"})
    board.on_event(runs[2], {"leased": "process 7 on far"})
    quality = SimpleNamespace(score=0.5, primary="accuracy")
    board.on_event(runs[2], {"done": SimpleNamespace(quality=quality, doubts=[])})
    board.on_event(runs[3], {"later": "no time is left for it"})
    text = out.getvalue()
    for part in (
        "killed by SIGKILL", "OSError: no luck", "process 7 on far works on it",
        "accuracy 0.5000 by another process", "no time is left for it",
    ):  # fmt: skip
        assert part in text
    assert "Traceback" not in text
    [overall] = board.bars.tasks
    assert overall.completed == 4


def finished(score: float = 0.5) -> SimpleNamespace:
    return SimpleNamespace(quality=SimpleNamespace(score=score, primary="accuracy"), doubts=[])


def test_lines_in_a_log_say_how_far_all_is_and_how_long_it_will_take(board):
    board, runs, out = board
    board.on_event(runs[1], {"start": True, "worker": 0, "remaining_s": 9000.0})
    board.on_event(runs[1], {"done": finished(), "remaining_s": 7200.0})
    board.on_event(runs[2], {"failed": "no luck"})
    lines = out.getvalue().splitlines()
    n = len(runs)
    assert lines[0].endswith(f"accuracy 0.5000 in 0 s  (2/{n}, about 2 h 0 min left)")
    assert lines[1].endswith(f"no luck  (3/{n}, about 2 h 0 min left)")


def test_on_a_terminal_the_bar_says_so_and_the_lines_do_not():
    plan, console = make_plan(make_study(STUDY)), Console(file=io.StringIO(), force_terminal=True)
    with Board(plan, console) as board:
        board.on_event(plan.runs[0], {"done": finished(), "remaining_s": 7200.0})
        [overall] = board.bars.tasks
        assert overall.fields["info"] == "about 2 h 0 min left"
    [line] = [text for text in console.file.getvalue().splitlines() if "accuracy" in text]
    assert "left)" not in line


def test_a_run_that_is_done_again_is_not_counted_until_it_is(board):
    board, runs, _ = board
    [overall] = board.bars.tasks
    assert overall.completed == 1
    board.on_event(runs[0], {"retry": "its record is gone"})
    assert overall.completed == 0
    board.on_event(runs[0], {"done": finished()})
    assert overall.completed == 1
    board.on_event(runs[0], {"start": True, "worker": 0})  # it was flagged
    assert overall.completed == 0


def test_with_only_the_board_counts_what_is_chosen_and_its_teachers(study, asked, monkeypatch):
    made = []

    class Noted(Board):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr("kdlora.cli.progress.Board", Noted)
    plan = make_plan(make_study(STUDY))
    kd = next(run for run in plan.runs if run.arm == "student/kd-lora")
    other = next(run for run in plan.runs if run.role == "baseline")
    for run_id in (other.run_id, kd.teacher_run_id):
        folder = Path("results/s/runs") / run_id
        folder.mkdir(parents=True)
        (folder / "record.json").write_text("{}")
    assert command(study, "--only", "student/kd-lora").exit_code == 0
    [board] = made
    assert board.total == 1 + len(kd.teachers)
    assert board.ended == {kd.teacher_run_id}


@pytest.mark.parametrize("ends", ["well", "by Ctrl-C"])
def test_every_file_that_was_set_aside_is_named(study, asked, monkeypatch, ends):
    names = [f"results/s/runs/a/{n}" for n in ("failed.damaged-0.json", "record.damaged-1.json")]
    Path("results/s/runs/a").mkdir(parents=True)
    for name in names:
        Path(name).write_text("x")
    if ends != "well":

        def interrupt(study, **options):
            raise Interrupted("interrupted")

        monkeypatch.setattr(api, "run", interrupt)
    shown = command(study).output
    assert [line for line in shown.splitlines() if line.startswith("set aside")] == [
        f"set aside: {name} (damaged; it counts for nothing, and is kept)" for name in names
    ]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(40.4, "40 s"), (720, "12 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")],
)
def test_durations_are_said_in_words(seconds, expected):
    assert words(seconds) == expected
