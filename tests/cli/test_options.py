"""How commands read their options."""

from __future__ import annotations

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from kdlora.cli.app import COMMANDS, app
from kdlora.cli.options import SingleValued


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


def test_every_command_reads_its_options_so():
    commands = get_command(app).commands
    assert commands.keys() == COMMANDS.keys()
    assert {type(command) for command in commands.values()} == {SingleValued}
