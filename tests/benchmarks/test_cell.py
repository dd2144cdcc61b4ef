"""The arithmetic of the cell and how it goes on where it stopped; no run is timed here."""

from __future__ import annotations

import json

import pytest

from benchmarks import cell
from kdlora.spec.check import read_study
from kdlora.spec.plan import make_plan


@pytest.fixture
def started(tmp_path, monkeypatch):
    """A cell whose programs take 10 s each, 8 of them of the processors, kdlora's a tenth."""
    ran = []

    def run(arguments):
        ran.append(arguments)
        share = 0.1 if "kdlora" in arguments else 1.0
        return 10.0 * share, 8.0 * share

    monkeypatch.setattr(cell, "_run", run)
    monkeypatch.setattr(cell, "prepare", lambda folder, rows, held_out: folder.mkdir())
    return tmp_path / "cell", ran


def measure(folder, **changes):
    return cell.measure_cell(folder, **({"rows": 10, "held_out": 5, "repeats": 2} | changes))


def test_both_do_the_same_fifteen_runs(tmp_path):
    cell.prepare(tmp_path, 60, 40)
    plan = make_plan(read_study(tmp_path / "cell.yaml"))
    ours = sorted(run.arm for run in plan.runs)
    theirs = [p[2][3:] for p in cell.programs(tmp_path) if p[0] == cell.PEER]
    assert ours == sorted(f"{e}/{'kd-' if kd else ''}{a}" for e, a, *kd in theirs)
    assert len(ours) == 15


def test_a_teacher_comes_before_the_students_it_teaches(tmp_path):
    names = [p[1] for p in cell.programs(tmp_path)]
    assert names[0] == "teacher fft"
    assert names.index("study") == 8
    assert names[-1] == "study"


def test_pieces_go_on_where_they_stopped(started):
    folder, ran = started
    assert measure(folder, pieces=20) is None
    assert len(ran) == 20
    found = measure(folder)
    assert len(ran) == 34  # twice 15 programs and two ways to do the study
    assert found["wall_s"] == {
        cell.OURS: [1.0, 1.0], cell.OURS_SHARED: [1.0, 1.0], cell.PEER: [150.0] * 2,
        "ratios": {cell.OURS: [150.0] * 2, cell.OURS_SHARED: [150.0] * 2},
    }  # fmt: skip
    assert found["cpu_s"][cell.PEER] == [120.0] * 2


def test_a_folder_of_another_size_is_refused(started):
    folder, _ = started
    measure(folder, pieces=1)
    with pytest.raises(ValueError, match="another size"):
        measure(folder, rows=11)


def test_the_table_says_sizes_times_and_ratios(started, tmp_path):
    found = measure(started[0])
    cell.write(found, tmp_path / "out")
    text = (tmp_path / "out" / "cell.md").read_text()
    assert "| that passed | 1 | 150 | 150.0 x as fast | 12 x |" in text
    assert "| that passed, a worker a thread | 1 | 150 | 150.0 x as fast | 12 x |" in text
    assert "10 training and 5 held-out texts" in text
    assert json.loads((tmp_path / "out" / "cell.json").read_text())["rows"] == 10
