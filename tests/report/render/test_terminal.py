"""What the terminal shows, within 80 columns."""

from __future__ import annotations

import io

import pandas as pd
import pytest
from rich.console import Console

from kdlora.errors import InputError
from kdlora.report.render.terminal import flags_panel, last_word, results_table, status_table
from tests.harness.studies import blank, make_frame, put


def shown(what, width=80):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(what)
    return console.file.getvalue()


def line_of(text, name):
    return next(line.split() for line in text.splitlines() if name in line)


def test_results_of_one_task(one_task):
    text = shown(results_table(one_task))
    mean = 100 * one_task.loc[one_task["arm"] == "student/kd-lora", "score"].mean()
    teacher = 100 * one_task.loc[one_task["arm"] == "teacher/fft", "score"].mean()
    assert line_of(text, "student KD-LoRA")[2:] == [
        f"{mean:.1f}", "2", f"{100 * mean / teacher:.1f}", "69.6", "2.77", "1.87", "27.8"
    ]  # fmt: skip
    assert "movie-reviews: accuracy" in text
    assert "times 100" in " ".join(text.split())


def test_everything_fits_into_eighty_columns(one_task, troubled):
    for frame in (one_task, troubled):
        for table in (results_table(frame), status_table(frame)):
            text = shown(table)
            assert "…" not in text
            assert "student KD-LoRA" in text


def test_flagged_means_are_marked(troubled):
    text = shown(results_table(troubled))
    assert line_of(text, "cola      student LoRA")[3].endswith("†")
    assert "† A run behind this number carries a health flag." in text
    assert "†" not in shown(results_table(make_frame()))


def test_flags_and_failures_with_their_runs(one_task, troubled):
    assert flags_panel(one_task) is None
    text = " ".join(shown(flags_panel(troubled), 200).split())
    assert "constant_predictions cola-student-lora-s43-0a1b2c3d4e5f: all 1,043 report rows" in text
    assert "failed sst2-student-kd-lora-s43-0a1b2c3d4e5f: OutOfMemoryError: tried to" in text


def test_a_run_that_several_cells_share_is_flagged_once():
    frame = put(make_frame(), {"arm": "teacher/fft", "seed": 42}, flags=("never_improved",))
    both = pd.concat([frame, frame.assign(pair="minilm-l6--tiny")])  # one teacher of two students
    assert shown(flags_panel(both)).count("never_improved") == 1


def test_the_line_of_an_error_that_says_what_happened():
    assert last_word("Traceback (most recent call last):\n  File x\nValueError: no rows\n") == (
        "ValueError: no rows"
    )
    assert last_word("2 problems:\n  - a\n  - b") == "2 problems:"
    assert last_word(None) == "no error was kept"


def test_status_counts_runs(one_task, troubled):
    text = shown(status_table(troubled))
    assert line_of(text, "student KD-LoRA")[2:] == ["2/2", "2/2", "2/2", "1/2", "1✗", "2/2",
                                                    "9/10", "1✗"]  # fmt: skip
    assert line_of(text, " All  ")[1:3] == ["12/12", "12/12†"]
    assert line_of(shown(status_table(one_task)), "All") == ["All", "12/12"]


def test_a_study_that_has_not_begun():
    frame = make_frame()
    for arm in set(frame["arm"]):
        frame = blank(frame, {"arm": arm}, "missing")
    assert line_of(shown(status_table(frame)), "All") == ["All", "0/12"]
    assert "student KD-LoRA" in shown(results_table(frame))
    with pytest.raises(InputError):
        results_table(frame.iloc[:0])


def test_own_names_are_no_markup():
    frame = make_frame()
    frame = put(frame, {"arm": "student/lora"}, flags=("odd",), flag_details=("[red]x[/red]",))
    assert "[red]x[/red]" in shown(flags_panel(frame))
