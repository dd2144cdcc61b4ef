import subprocess
import sys
import time

import pandas as pd
import pytest

from kdlora.api import check
from kdlora.data.own_task import check_own_task, check_teaching_files
from kdlora.errors import InputError
from kdlora.spec.plan import make_plan
from kdlora.spec.sections import OwnTask
from kdlora.spec.study import make_study
from tests.harness.moods import write_csv


def own(train, held_out=None, **changes):
    return OwnTask(name="m", train=str(train), eval=held_out and str(held_out), **changes)


def test_good_files_have_no_problems(tmp_path):
    train = write_csv(tmp_path / "a.csv", key=["1"], text=["x"], label=["y"])
    (tmp_path / "b.jsonl").write_text('{"key": 2, "text": "x", "label": "y"}\n')
    (tmp_path / "c.tsv").write_text("key\ttext\tlabel\n3\tx\ty\n")
    pd.DataFrame({"key": [4], "text": ["x"], "label": ["y"]}).to_parquet(tmp_path / "d.parquet")
    for held_out in ("b.jsonl", "c.tsv", "d.parquet", None):
        assert check_own_task(own(train, held_out and tmp_path / held_out, id="key")) == []


def test_problems_of_both_files_come_at_once(tmp_path):
    train = write_csv(tmp_path / "a.csv", txt=["x"], label=["y"])
    held_out = write_csv(tmp_path / "b.csv", text=["x"], lab=["y"])
    assert check_own_task(own(train, held_out, id="key")) == [
        f"{train} has no column 'text'. Did you mean 'txt'? Known: label, txt.",
        f"{train} has no column 'key'. Known: label, txt.",
        f"{held_out} has no column 'label'. Did you mean 'lab'? Known: lab, text.",
        f"{held_out} has no column 'key'. Known: lab, text.",
    ]


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "empty.csv").touch()
    (tmp_path / "latin.csv").write_bytes(b"text,label\ncaf\xe9,1\n")
    (tmp_path / "a.xls").write_bytes(b"x")
    (said,) = check_own_task(own(tmp_path / "empty.csv"))
    assert said.endswith("empty.csv is empty")
    missing, latin = check_own_task(own(tmp_path / "no.csv", tmp_path / "latin.csv"))
    assert missing == f"there is no file {tmp_path / 'no.csv'}"
    assert "is not UTF-8: byte 0xe9 at offset 14 (line 2)" in latin
    assert "unknown kind of file '.xls'" in check_own_task(own(tmp_path / "a.xls"))[0]


def test_a_column_has_one_use(tmp_path):
    train = write_csv(tmp_path / "a.csv", text=["x"])
    (said,) = check_own_task(own(train, label="text"))
    assert said == "text, label and id must be different columns; named twice: text"


def test_only_the_start_of_a_large_file_is_read(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"text,label\n" + b"some words,1\n" * 2_000_000)
    start = time.perf_counter()
    assert check_own_task(own(tmp_path / "a.csv")) == []
    assert time.perf_counter() - start < 0.2  # reading all 26 MB strictly takes a second


def test_the_files_that_teach_are_looked_at_too(tmp_path):
    texts = write_csv(tmp_path / "more.csv", sentense=["x"])
    answers = write_csv(tmp_path / "answers.csv", sentence=["x"], negative=[1], positiv=[0])
    pair = {"name": "p", "student": "small"}
    pair["teacher_outputs"] = {"file": str(answers), "kind": "logits"}
    study = make_study(
        {"name": "s", "tasks": ["sst2"], "pairs": [pair], "unlabelled": {"sst2": str(texts)}}
    )
    plan = make_plan(study)
    teacher = next(run for run in plan.runs if run.role == "teacher")
    student = next(run for run in plan.runs if run.kd is not None)
    assert f"{answers} has no column 'positive'. Did you mean 'positiv'?" in str(
        check_teaching_files(teacher)
    )
    assert "has no column 'sentence'. Did you mean 'sentense'?" in str(
        check_teaching_files(student)
    )
    with pytest.raises(InputError, match="2 problems"):
        check(study)


def test_no_heavy_import(tmp_path):
    train = write_csv(tmp_path / "a.csv", text=["x"], label=["y"])
    code = (
        "import sys\n"
        "from kdlora.data.own_task import check_own_task\n"
        "from kdlora.spec.study import OwnTask\n"
        f"assert check_own_task(OwnTask(name='m', train={str(train)!r})) == []\n"
        "heavy = {'numpy', 'pandas', 'pyarrow', 'torch', 'datasets', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
