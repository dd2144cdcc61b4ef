"""Where a study's seconds go: every second stands in one part."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

import kdlora
from benchmarks import study_seconds


def test_every_second_between_the_first_and_the_last_event_stands_in_one_part(
    tmp_path, monkeypatch
):
    """The clock is played: each reading is a second after the one before."""
    times = iter(range(100))
    monkeypatch.setattr(study_seconds, "time", SimpleNamespace(time=lambda: float(next(times))))

    def play(study, *, out, on_event):
        for training in (True, False):
            on_event(None, {"start": 1})
            for stage in ("reading data", *(["training"] if training else []), "recording"):
                on_event(None, {"stage": stage})
                on_event(None, {"step": 1})
            done = SimpleNamespace(efficiency=SimpleNamespace(train_s=0.75))
            on_event(None, {"done": done})

    monkeypatch.setattr(kdlora, "run", play)
    study_seconds.run("demo", str(tmp_path))
    found = json.loads((tmp_path / "seconds.json").read_text())
    assert found["runs"] == 2
    assert found["seconds"] == {
        "checking the study, its data and its models": 1,
        "starting a worker": 2,
        "reading data": 2,
        "training": 0.75,  # of one run: the other has no steps
        "evaluating between epochs": 0.25,
        "recording": 2,
        "between two runs": 1,
        "merging the student, and the report": 1,
    }
    assert sum(found["seconds"].values()) == found["ended"] - found["begun"]


def test_the_page_says_which_share_is_training_and_what_took_the_rest():
    machine = {"threads": 2, "instructions": [], "torch": "2", "transformers": "5"}
    seconds = {"training": 60.0, "starting the command": 15.0, "a new stage": 25.0}
    page = study_seconds.as_markdown(
        {
            "study": "demo", "runs": 5, "measured_at": "2026-01-01", "machine": machine,
            "seconds": seconds, "wall_s": 100.0, "target": 0.8,
        }
    )  # fmt: skip
    assert "of which 60 % are training steps (aim 80 %)" in page
    rows = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| ")]
    assert rows == ["| part", "| starting the command", "| training", "| a new stage"]


def test_a_folder_with_runs_is_refused(tmp_path):
    with pytest.raises(FileExistsError):
        study_seconds.measure("demo", tmp_path)
