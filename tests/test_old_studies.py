"""A study that kdlora 0.1.0 ran is read, resumed and reported as it was then.

`tests/fixtures/study_0_1` holds it as that version left it: the study file, its encoders and rows,
the records of ten runs, and some tables of the report that it wrote (`expected`).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from kdlora import api
from kdlora.records.frame import load_frame
from kdlora.spec.check import read_study
from kdlora.spec.plan import make_plan

OLD = Path(__file__).parent / "fixtures" / "study_0_1"
COMPARISONS = OLD / "expected" / "comparisons.csv"
TABLES = sorted({path.stem for path in COMPARISONS.parent.glob("*.csv")} - {COMPARISONS.stem})
LAST = "moods-student-kd-lora-s2-43b565e561c1"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the study, elsewhere than where it was run."""
    return Path(shutil.copytree(OLD, tmp_path / "study"))


def _kept(folder: Path) -> dict[str, bytes]:
    """What the runs left, by path; leases come and go."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("lease-")
    }


def test_the_study_file_means_the_same_runs(old: Path) -> None:
    planned = {run.run_id: run for run in make_plan(read_study(old / "study.yaml")).runs}
    done = {path.name for path in (old / "records" / "runs").iterdir()}
    assert done <= planned.keys()
    newer = {run.arm for run_id, run in planned.items() if run_id not in done}
    assert newer == {"baseline/embeddings"}


def test_all_its_runs_are_read_as_done_and_nothing_moves(old: Path) -> None:
    before = _kept(old / "records")
    frame = load_frame(old / "records")
    assert frame["run_id"].nunique() == 10
    assert set(frame["status"]) == {"done"}
    taught = frame[frame["arm"] == "student/kd-lora"].set_index("seed")["teacher_run_id"]
    assert taught.to_dict() == {
        1: "moods-teacher-fft-s1-4f26d92cc602",
        2: "moods-teacher-fft-s2-42ecf777cb78",
    }
    assert _kept(old / "records") == before


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of a report that today's version writes of the old records."""
    records = shutil.copytree(OLD / "records", tmp_path_factory.mktemp("old") / "records")
    api.write_report(records)
    return records / "tables"


@pytest.mark.parametrize("table", TABLES)
def test_its_report_shows_the_numbers_that_it_showed(tables: Path, table: str) -> None:
    was = pd.read_csv(OLD / "expected" / f"{table}.csv")
    now = pd.read_csv(tables / f"{table}.csv")
    assert list(now.columns) == list(was.columns)
    pd.testing.assert_frame_equal(now, was, check_dtype=False, rtol=1e-9)


def test_its_report_compares_what_it_compared(tables: Path) -> None:
    """Version 0.1.0 could say nothing of two seeds; the stored predictions can."""
    sides = ["a", "b"]
    was = pd.read_csv(COMPARISONS).set_index(sides).sort_index()
    now = pd.read_csv(tables / "comparisons.csv").set_index(sides).sort_index()
    assert now["runs"].to_dict() == was["runs"].to_dict()
    assert set(was["here"]) == {"cannot be said"}
    assert now.loc[("student/kd-lora", "teacher/fft"), "trained_models"] == "inferior"


def test_a_run_that_is_missing_is_done_again_and_the_others_are_left_alone(old: Path) -> None:
    runs = old / "records" / "runs"
    shutil.rmtree(runs / LAST)
    before = _kept(runs)
    result = api.run(old / "study.yaml", out=old / "records", threads=1)
    after = _kept(runs)
    assert {path: after[path] for path in before} == before
    done = result.frame.set_index("run_id")
    assert set(done["status"]) == {"done"}
    was = pd.read_csv(OLD / "expected" / "summary.csv").set_index("model")
    # the numbers of one machine's processor differ in the last digits from another's
    assert done.loc[LAST, "score"] == pytest.approx(
        was.loc["student/kd-lora", "score.low"], abs=0.2
    )
