"""`kdlora mistakes` on a stored study: what it prints, as text and for a script."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from kdlora.records.predictions import SplitOutputs, write_predictions
from kdlora.records.rows import make_rows, write_rows
from tests.harness.commands import in_process
from tests.harness.stored_studies import ERROR, same_on_both, store_study

N = 200


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two classes, 200 report rows; rows of channel mail are wrong in one half, others in 5 %."""
    root = tmp_path_factory.mktemp("stored")
    store = store_study(
        root, same_on_both(lambda run: 0.8), arms=["teacher/fft", "student/fft"], seeds=[1]
    )
    ids = np.array([f"id{i}" for i in range(N)], object)
    labels, mail = np.arange(N) % 2, np.arange(N) >= 150
    wrong = np.where(mail, np.arange(N) % 4 < 2, np.arange(N) % 20 == 0)
    answers = np.where(wrong, 1 - labels, labels)
    for path in sorted((root / "runs").iterdir()):
        said = labels if "teacher" in path.name else answers
        logits = np.eye(2)[said] * 2.0
        part = SplitOutputs(ids, labels, logits)
        write_predictions(path, {"report": part, "selection": part})
    facts = pd.DataFrame(
        {"split": "report", "example_id": ids, "number": np.arange(1.0, N + 1), "tokens": 9.0}
    ).assign(script="Latin")
    texts = {"sentence1": [f"secret {i}" for i in range(N)], "sentence2": ["[odd] text"] * N}
    rows = make_rows(facts, texts, {"channel": np.where(mail, "mail", "web").tolist()})
    write_rows(rows, store.root, "rte")
    return store.root


def test_the_first_mistakes_stand_with_their_texts_and_the_worse_slice_is_named(study):
    told = in_process("mistakes", study, "--most", 3, cwd=study)
    assert told.returncode == 0, told.stderr
    assert "secret 0 ⏐ [odd] text" in told.stdout
    assert told.stdout.count("secret") <= 6
    assert "right less often where channel is mail (52.0 % against 94.7 %, n = 50)" in told.stdout


def test_a_script_gets_everything_and_without_texts_none_of_them(study):
    told = json.loads(in_process("mistakes", study, "--json", cwd=study).stdout)
    (one,) = told["tasks"]
    assert (one["n"], one["wrong"], len(one["mistakes"])) == (N, 32, 32)
    assert one["mistakes"][0]["row"]["text"].startswith("secret")
    worse = [(s["column"], s["value"]) for s in one["slices"] if s["verdict"] == "worse"]
    assert worse == [("channel", "mail")]
    bare = in_process("mistakes", study, "--json", "--no-texts", cwd=study).stdout
    assert "secret" not in bare
    assert "id0" in bare


def test_a_task_whose_students_are_all_flagged_is_not_called_one_without_predictions(tmp_path):
    scores = same_on_both(lambda run: 0.5)
    root = store_study(tmp_path / "flagged", scores, flagged=lambda run: [ERROR]).root
    why = f"every run of a student that is done carries an error flag ({ERROR.name})"
    told = in_process("mistakes", root, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert why in told.stdout
    assert "stored" not in told.stdout
    found = json.loads(in_process("mistakes", root, "--json", cwd=tmp_path).stdout)
    assert found["tasks"] == []
    assert why in found["lacking"]["rte"]
    done = in_process("report", root, "--no-texts", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert why in (root / "report.md").read_text(encoding="utf-8").replace("\\_", "_")
    sound = store_study(tmp_path / "bare", scores).root
    assert "has stored no predictions" in in_process("mistakes", sound, cwd=tmp_path).stdout


def test_no_file_of_a_report_without_texts_holds_one(study, tmp_path):
    done = in_process("report", study, "--no-texts", "--out", tmp_path, cwd=study)
    assert done.returncode == 0, done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert (tmp_path / "mistakes.html") in files
    assert not [path for path in files if b"secret" in path.read_bytes()]
    assert "channel" in (tmp_path / "tables" / "slices.csv").read_text(encoding="utf-8")
