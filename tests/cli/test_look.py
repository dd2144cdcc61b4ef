"""`kdlora look` at a file and at a study: tables, JSON, exit codes, and no torch."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import kdlora
from kdlora.cli.app import app
from kdlora.errors import DataError, InputError
from tests.harness.moods import sentences, write_csv


@pytest.fixture
def doubtful(tmp_path):
    texts, labels = sentences(300, 0)
    texts = [f"{text} n{i}" for i, text in enumerate(texts)]
    return write_csv(
        tmp_path / "reviews.csv",
        review=[*texts, *texts[:30]],
        mood=[*labels, *({"pos": "neg"}.get(x, "pos") for x in labels[:30])],
    )


def call(*arguments: object):
    return CliRunner().invoke(app, ["look", *map(str, arguments)], catch_exceptions=False)


COLUMNS = ("--text", "review", "--label", "mood")


def test_a_file_is_shown_with_its_splits_and_doubts(doubtful, corner):
    done = call(doubtful, *COLUMNS, "--encoder", corner.student, "--max-length", 8)
    assert done.exit_code == 0
    said = " ".join(done.output.split())
    assert "reviews: classification" in said
    assert "warning: 30 texts (60 rows, 18 %) stand under several labels" in said
    assert f"{corner.student}: " in said
    assert "cut after 8" in said
    assert "row 1 of reviews.csv" in said or "row 2 of reviews.csv" in said


def test_an_encoder_that_cannot_read_so_much_is_told(doubtful, corner):
    with pytest.raises(InputError, match="has positions for 66 tokens"):
        call(doubtful, *COLUMNS, "--encoder", corner.student, "--max-length", 67)
    shown = call(doubtful, *COLUMNS, "--encoder", corner.student).stdout
    assert "cut after 66:" in shown  # less than the default


def test_json_holds_all_that_was_found(doubtful, corner):
    values = json.loads(call(doubtful, *COLUMNS, "--encoder", corner.student, "--json").stdout)
    (task,) = values["tasks"]
    assert {split["split"] for split in task["splits"]} == {"train", "selection", "report"}
    assert task["tokens"][0]["max_length"] == 66  # less than the default: it reads no more
    assert "conflicting_labels" in {finding["name"] for finding in task["findings"]}


def test_strict_makes_warnings_errors(doubtful, tmp_path):
    with pytest.raises(DataError, match="several labels") as caught:
        call(doubtful, *COLUMNS, "--strict")
    assert caught.value.exit_code == 2
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{n}" for n in rng.integers(0, 9999, 12)) for _ in range(1000)]
    sound = write_csv(tmp_path / "sound.csv", text=texts, label=["a", "b"] * 500)
    assert call(sound, "--strict").exit_code == 0


def test_a_study_is_looked_at_by_file_folder_and_from_python(corner, tmp_path):
    study = corner.study()
    (tmp_path / "study.yaml").write_text(
        yaml.safe_dump(study.located().model_dump(mode="json"), sort_keys=False)
    )
    for source in (tmp_path / "study.yaml", tmp_path):
        assert "moods: classification" in call(source).output
    (look,) = kdlora.look(study)
    assert [count.encoders for count in look.tokens] == [(corner.teacher,), (corner.student,)]
    assert look.tokens[0].max_length == 32
    assert [count.rows for count in look.splits] == [576, 64, 120]


def test_what_cannot_be_read_is_told_at_once(tmp_path, doubtful):
    with pytest.raises(InputError) as caught:
        call(doubtful, "--encoder", "./nowhere", "--text", "revew", "--label", "mood")
    assert "nowhere" in str(caught.value)
    assert "Did you mean 'review'" in str(caught.value)
    with pytest.raises(InputError, match="no train file at"):
        call(tmp_path / "none.csv")
    with pytest.raises(InputError, match="--text"):
        call("demo", "--text", "review")


def test_unlabelled_texts_are_counted_too(corner, tmp_path):
    more = write_csv(tmp_path / "more.csv", review=[f"a new film {i}" for i in range(50)])
    task = {"name": "moods", "train": corner.train, "text": "review", "label": "mood",
            "unlabelled": str(more)}  # fmt: skip
    (look,) = kdlora.look(corner.study(tasks=[task]))
    assert (look.splits[-1].split, look.splits[-1].rows) == ("unlabelled", 50)
    assert look.tokens[0].texts == sum(count.rows for count in look.splits)


def test_a_hundred_thousand_rows_take_no_torch_and_less_than_a_gigabyte(tmp_path, corner):
    rng = np.random.default_rng(0)
    words = rng.integers(0, 20_000, (100_000, 20))
    path = tmp_path / "many.csv"
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "label"])
        writer.writerows([" ".join(map(str, row)), int(row[0]) % 2] for row in words.tolist())
    code = (
        "import sys\n"
        "from kdlora.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'pandas', 'sklearn', 'peft'} & set(sys.modules)\n"
        "peak = [line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line]\n"
        "print(sorted(heavy), *peak, file=sys.stderr)"  # of this program, not of who started it
    )
    arguments = ["look", str(path), "--encoder", corner.student]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    heavy, kilobytes = done.stderr.splitlines()[-1].rsplit(" ", 1)
    assert heavy == "[]"
    assert int(kilobytes) < 1_000_000
