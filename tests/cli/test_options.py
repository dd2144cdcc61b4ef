"""How commands read their options."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from kdlora.cli import completion
from kdlora.cli import study as study_commands
from kdlora.cli.app import COMMANDS, app
from kdlora.cli.options import SingleValued
from kdlora.spec.adapter import Adapter
from kdlora.spec.distillation import Distillation
from kdlora.spec.sections import MIN_STEPS, Training
from kdlora.spec.study import Study


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("distil", "--train", "a.csv", "--label", "a", "--label", "b"), "--label"),
        (("distil", "--teacher-is-trained", "--train-teacher"), "--teacher-is-trained"),
        (("plan", "demo", "--out", "a", "--out=b"), "--out"),
    ],
)
def test_an_option_that_takes_one_value_is_given_once(arguments, name):
    done = run(*arguments)
    assert done.exit_code == 2
    assert name in done.output
    assert "is given 2 times: give it once" in done.output


def test_options_that_take_many_values_are_given_many_times(tmp_path):
    files = [str(tmp_path / name) for name in ("one.csv", "two.csv")]
    done = run(
        "distil", "--train", str(tmp_path / "t.csv"), "--teacher", "minilm-l6",
        "--student", "minilm-l3", "--unlabelled", files[0], "--unlabelled", files[1],
    )  # fmt: skip
    problems = getattr(done.exception, "problems", [])
    assert [name for name in files for problem in problems if name in problem] == files


def help_of(command: str) -> dict[str, str]:
    """The default that the help shows of every option of a command."""
    options = get_command(app).commands[command].params
    return {
        option.name: option.show_default for option in options if option.param_type_name == "option"
    }


def test_defaults_that_are_shown_are_those_of_the_study_file():
    shown = help_of("distil")
    training, adapter, kd = Training(), Adapter(), Distillation()
    assert shown["epochs"] == f"{training.epochs}, more up to {MIN_STEPS} steps"
    assert shown["batch_size"] == str(training.batch_size)
    assert shown["max_length"] == str(training.max_length)
    assert shown["rank"] == str(adapter.rank)
    assert shown["temperature"] == f"{kd.temperature:g}"
    assert shown["kd_weight"] == f"{kd.kd_weight:g}"
    assert shown["seeds"] == str(Study.model_fields["seeds"].default[0])
    rates = training.lr
    assert rates.head == rates.peft
    assert (
        shown["lr"]
        == f"{rates.fft:g} of full fine-tuning, {rates.peft:g} of adapters and new heads"
    )
    assert shown["max_train"] == shown["max_eval"] == "all rows"


def test_seeds_are_given_in_one_word_or_many(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(study_commands, "_run", lambda study, *rest, **options: asked.append(study))
    file = tmp_path / "t.csv"
    file.write_text("text,label\na,b\n")
    common = ("distil", "--train", str(file), "--teacher", "minilm-l6", "--student", "minilm-l3")
    for given in (("--seeds", "1,2, 3"), ("--seed", "1", "--seed", "2", "--seeds", "3")):
        done = run(*common, *given, "--max-eval", "50", "--windows", "max")
        assert done.exit_code == 0, done.output
    assert [one.seeds for one in asked] == [[1, 2, 3]] * 2
    assert asked[0].data.max_eval == 50
    assert asked[0].training.windows.pooling == "max"
    wrong = run(*common, "--seeds", "1-3")
    assert "'1-3' is no whole number" in str(wrong.exception)


def complete(line: str) -> list[str]:
    """What a shell is offered behind a line, and that nothing heavy was imported for it."""
    words = line.split(" ")
    environment = {**os.environ, "_KDLORA_COMPLETE": "complete_bash", "COMP_WORDS": line,
                   "COMP_CWORD": str(len(words) - 1)}  # fmt: skip
    program = (
        "import sys, atexit; from kdlora.cli import main; sys.argv[0] = 'kdlora'; "
        "atexit.register(lambda: print('torch' in sys.modules or 'pandas' in sys.modules)); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    *offered, heavy = done.stdout.splitlines()
    assert heavy == "False"
    return offered


@pytest.mark.slow
def test_a_shell_completes_commands_and_models_without_torch():
    assert complete("kdlora dis") == ["distil"]
    assert complete("kdlora distil --student minilm") == ["minilm-l6", "minilm-l3"]


def test_what_can_be_completed(tmp_path):
    (tmp_path / "study.yaml").write_text("")
    (tmp_path / "rows.csv").write_text("")
    (tmp_path / "results").mkdir()
    (tmp_path / ".hidden").mkdir()
    here = f"{tmp_path}/"
    assert completion.studies(here) == [f"{here}results/", f"{here}study.yaml"]
    assert completion.tables_and_studies(f"{here}r") == [f"{here}results/", f"{here}rows.csv"]
    assert completion.encoders(f"{here}.h") == [f"{here}.hidden/"]
    assert completion.encoders(f"{here}nowhere/") == []
    assert "demo" in completion.studies("de")
    assert completion.runs("arm=student/kd-l") == ["arm=student/kd-lora"]
    assert "task=" in completion.runs("ta")
    assert completion.runs("task=ss") == ["task=sst2"]
    assert completion.runs("pair=x") == []
    assert completion.arm_names("teacher/g") == ["teacher/given"]
    assert completion.adaptations("do") == ["dora"]


def test_every_command_reads_its_options_so():
    commands = get_command(app).commands
    assert commands.keys() == COMMANDS.keys()
    assert {type(command) for command in commands.values()} == {SingleValued}
