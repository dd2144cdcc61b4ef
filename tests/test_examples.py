"""Every example and every preset is read; the one with its own data is run, on tiny encoders."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from kdlora.spec.check import read_study
from kdlora.spec.plan import make_plan
from tests.harness.finished import finished
from tests.harness.notebooks import run_notebook

ROOT = Path(__file__).resolve().parent.parent
PRESETS = ROOT / "src" / "kdlora" / "spec" / "presets"
# These presets wait for a file of their user; tests/cli/test_init.py gives them one.
WAITING = {PRESETS / f"{name}.yaml" for name in ("own-data", "llm-labels", "rare-classes")}
FILES = sorted({*ROOT.glob("examples/*.yaml"), *PRESETS.glob("*.yaml")} - WAITING)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_study_file_plans(path, tmp_path):
    """With a teacher and what it teaches, but for a study that asks how a text is read."""
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"\{data_dir\}/([\w/.-]+)", text)
    if named:  # a task of GLUE is then read from there as well
        glue = {t for t in yaml.safe_load(text)["tasks"] if isinstance(t, str)} - {"movie-reviews"}
        named += [f"{task}/{split}.tsv" for task in glue for split in ("train", "validation")]
    for name in named:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"sentence\tlabel\n{name}\t0\n", encoding="utf-8")
    changes = {"data_dir": str(tmp_path)} if named else {}
    plan = make_plan(read_study(path, **changes))
    teaches = path.stem != "long-texts"
    assert {"student", "baseline"} | ({"teacher"} if teaches else set()) == {
        run.role for run in plan.runs
    }
    assert any(run.distillation == "kd" for run in plan.runs) == teaches


def example(name):
    """A program of the examples as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_the_texts_of_which_few_are_of_the_rare_class():
    """As many rare ones as the share says, in both files alike, and no more rows than asked for."""
    rows = [(f"text {i}", ("negative", "positive")[i % 2]) for i in range(4000)]
    thinned = example("rare_class").thinned
    for most, n in ((None, (1250, 833)), (600, (600, 400))):
        parts = thinned(rows, share=0.04, held_out=0.4, seed=0, most=most)
        assert len({*parts[0], *parts[1]}) == len(parts[0]) + len(parts[1])
        for part, size in zip(parts, n, strict=True):
            assert len(part) == pytest.approx(size, abs=1)
            assert sum(c == "positive" for _, c in part) == pytest.approx(0.04 * size, abs=1)
        assert parts == thinned(rows, share=0.04, held_out=0.4, seed=0, most=most)


def test_long_texts_end_with_a_review_of_their_class():
    reviews = [(f"review {i}", ("negative", "positive")[i % 2]) for i in range(50)]
    questions = ["What is the best way to learn?", "Why?"]
    script = example("long_texts")
    made = script.long_texts(reviews, questions, np.random.default_rng(0))
    ends = [(text[text.index("review") :], label) for text, label in made]
    assert sorted(ends) == sorted(reviews)
    for text, _ in made:
        words = text[: text.index("review")].split()
        assert script.WORDS[0] <= len(words) < script.WORDS[1] + 7  # of the last question
        assert {"What", "Why?"} <= set(words)


def test_the_answers_that_stand_in_for_a_language_models():
    """As often right and refused as they say, the same for the same seed."""
    script = example("llm_labels")
    labels = ["positive", "negative"] * 5000
    given = script.answers(labels, accuracy=0.9, refusals=0.02, seed=0)
    refused = [answer == script.REFUSAL for answer in given]
    right = [a.lower() == label for a, label in zip(given, labels, strict=True)]
    assert sum(refused) == pytest.approx(200, abs=50)
    assert sum(right) / (len(labels) - sum(refused)) == pytest.approx(0.9, abs=0.01)
    assert given == script.answers(labels, accuracy=0.9, refusals=0.02, seed=0)
    assert given != script.answers(labels, accuracy=0.9, refusals=0.02, seed=1)


def test_the_example_with_its_own_data_runs(corner, tmp_path):
    pairs = [{"name": "tiny", "teacher": corner.teacher, "student": corner.student}]
    study = read_study(
        ROOT / "examples" / "own-data.yaml",
        pairs=pairs,
        training={"epochs": 2, "batch_size": 32, "max_length": 32, "lr": 3e-3},
    )
    frame = finished(corner, study, tmp_path / "out", workers=2)
    assert frame.set_index("arm").loc["student/kd-lora", "temperature"] == 4.0
    assert "report.f1" in frame


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(corner, tmp_path, capsys):
    shutil.copytree(ROOT / "examples" / "data", tmp_path / "data")
    instead = {
        '"minilm-l6", "minilm-l3"': f"{corner.teacher!r}, {corner.student!r}",
        "epochs=5,": "epochs=4, lr=1e-2, batch_size=32, threads=1,",
    }
    shown = run_notebook(ROOT / "examples" / "tutorial.ipynb", tmp_path, instead)
    said = capsys.readouterr().out
    assert "info: models are scored on 80 rows" in said
    assert "student/kd-lora against student/lora: " in said
    assert "report rows are answered wrong" in said
    assert "max-quality: " in said
    values = {type(value).__name__: value for value in shown if value is not None}
    assert "<table>" in values["StudyResult"]._repr_html_()
    assert values["VConcatChart"].to_dict()["vconcat"]
    assert {"label", "probability"} <= values["list"][0].keys()
    assert "prediction" in values["DataFrame"]  # the last frame that is shown
