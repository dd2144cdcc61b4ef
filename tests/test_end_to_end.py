"""A newcomer's day on tiny encoders: distil own data, look, predict, go on from Python and YAML."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import kdlora
from kdlora.planning.distil_study import DistilArguments, distil_study
from tests.harness.commands import in_process
from tests.harness.finished import finished, share_costs
from tests.harness.moods import sentences, write_csv

MEASURED = (
    "trainable_params",
    "total_params",
    "size_mb",
    "saved_mb",
    "train_s",
    "train_examples_per_s",
    "train_tokens_per_s",
    "peak_memory_mb",
    "forward_flops",
    "train_flops",
    "latency_p50_ms",
    "latency_p95_ms",
    "throughput_per_s",
    "speedup_latency",
    "speedup_throughput",
)

QUICK = ("--epochs", "4", "--max-length", "32", "--batch-size", "32", "--lr", "5e-3")
TRAINING = {"epochs": 4, "max_length": 32, "batch_size": 32, "lr": 5e-3}  # the same


def distil(corner, out: Path) -> str:
    """`kdlora distil` on the corner's data; what it prints."""
    done = in_process(
        "distil", "--train", corner.train, "--eval", corner.eval, "--text", "review",
        "--label", "mood", "--teacher", corner.teacher, "--student", corner.student,
        "--out", out, "--threads", 1, *QUICK, cwd=out.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def day(corner, tmp_path_factory):
    """The study's folder and what was printed when it was made."""
    out = share_costs(corner, tmp_path_factory.mktemp("day") / "out")
    return out, distil(corner, out)


def test_it_ends_with_a_table_a_report_and_a_student(day):
    out, shown = day
    # The corner's words give its moods away: no student of four epochs beats a linear model there.
    for part in ("student/kd-lora", "macro_f1", "report.html", "not yet: the TF-IDF baseline"):
        assert part in shown.replace("\n", ""), shown
    for name in ("report.html", "report.md", "plan.json", "student/model.safetensors"):
        assert (out / name).is_file(), name
    page = (out / "report.html").read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "").split("<script")[0]


def test_the_frame_holds_all_arms_and_their_costs(day):
    frame = kdlora.load_frame(day[0])
    assert set(frame["arm"]) == {
        "baseline/majority", "baseline/tfidf", "baseline/embeddings", "teacher/fft",
        "student/fft", "student/lora",
        "student/kd-lora",
    }  # fmt: skip
    assert (frame["status"] == "done").all()
    trained = frame[frame["role"] != "baseline"]
    for name in MEASURED:
        assert (trained[name] > 0).all(), name
    for protocol in trained["protocol"]:
        assert {"merged", "seq_length", "threads", "dtype", "device"} <= set(protocol)
    assert trained["peak_memory_scope"].notna().all()


def test_running_it_again_trains_nothing(day, corner):
    out, _ = day
    before = {p: p.stat().st_mtime_ns for p in out.glob("runs/*/record.json")}
    shown = distil(corner, out)
    assert "done " not in shown
    assert {p: p.stat().st_mtime_ns for p in out.glob("runs/*/record.json")} == before


def test_yaml_and_python_mean_the_same_runs(day, corner, tmp_path):
    out, _ = day
    arguments = DistilArguments(
        train=corner.train, eval=corner.eval, text="review", label="mood",
        teacher=corner.teacher, student=corner.student, sections={"training": TRAINING},
    )  # fmt: skip
    study = distil_study(arguments)
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study.model_dump(mode="json")))
    shown = in_process("plan", path, "--json", "--out", out, cwd=tmp_path).stdout
    planned = json.loads(shown)["runs"]
    assert planned
    assert all(run["done"] for run in planned)
    ids = {run.run_id for run in kdlora.plan(study).runs}
    assert ids == {run["run_id"] for run in planned} == set(kdlora.load_frame(out)["run_id"])


def test_the_student_predicts_texts_and_files(day, tmp_path):
    out, _ = day
    texts = ("the film was good and great and happy", "a terrible awful boring story")
    asked = [word for text in texts for word in ("--text", text)]
    answers = json.loads(
        in_process("predict", out / "student", *asked, "--json", cwd=tmp_path).stdout
    )
    assert [a["label"] for a in answers] == ["pos", "neg"]
    assert sum(answers[0]["probabilities"].values()) == pytest.approx(1)

    texts, moods = sentences(300, 9)
    write_csv(tmp_path / "new.csv", key=list(range(300)), review=texts)
    in_process("predict", out / "student", "new.csv", "--out", "answers.csv", cwd=tmp_path)
    with (tmp_path / "answers.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["key"] for row in rows] == [str(i) for i in range(300)]
    right = np.mean([row["prediction"] == mood for row, mood in zip(rows, moods, strict=True)])
    assert right > 0.8
    assert {"probability", "p_pos", "p_neg"} <= set(rows[0])


def test_any_run_predicts_and_python_agrees_with_the_command(day):
    out, _ = day
    frame = kdlora.load_frame(out)
    run_id = frame[frame["arm"] == "student/kd-lora"]["run_id"].iloc[0]
    texts = sentences(20, 5)[0]
    answers = kdlora.predict(out / "runs" / run_id, texts)
    assert len(answers) == 20
    assert {a["label"] for a in answers} == {"pos", "neg"}


def test_the_student_loads_with_transformers_alone(day):
    out, _ = day
    model = AutoModelForSequenceClassification.from_pretrained(out / "student")
    tokenizer = AutoTokenizer.from_pretrained(out / "student")
    card = json.loads((out / "student" / "kdlora.json").read_text())
    assert tokenizer.model_max_length == card["max_length"]
    assert model.config.id2label == {0: "neg", 1: "pos"}
    logits = model(**tokenizer("a good great happy film", return_tensors="pt")).logits
    assert model.config.id2label[int(logits.argmax())] == "pos"


def test_status_shows_the_same_numbers(day):
    out, _ = day
    rows = json.loads(in_process("status", out, "--json", cwd=out).stdout)
    frame = kdlora.load_frame(out)
    assert [row["score"] for row in rows] == pytest.approx(list(frame["score"]))
    table = in_process("status", out, cwd=out).stdout
    assert f"{100 * frame[frame['arm'] == 'teacher/fft']['score'].iloc[0]:.1f}" in table


def test_a_wrong_text_column_is_named(day, tmp_path):
    write_csv(tmp_path / "new.csv", texto=["x"])
    done = in_process("predict", day[0] / "student", "new.csv", cwd=tmp_path)
    assert done.returncode == 2
    assert "has no column 'review'" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["new.csv"]


def test_a_teacher_that_arrives_fine_tuned_is_not_trained(day, corner, tmp_path):
    """The student of the first study becomes the teacher of the next: other classes' order kept."""
    arguments = DistilArguments(
        train=corner.train, eval=corner.eval, text="review", label="mood",
        teacher=str(day[0] / "student"), student=corner.student,
        sections={"training": {**TRAINING, "epochs": 1}},
    )  # fmt: skip
    frame = finished(corner, distil_study(arguments), tmp_path / "again").set_index("arm")
    assert frame.loc["teacher/given", "trainable_params"] == 0
    first = kdlora.load_frame(day[0])
    saved = json.loads((day[0] / "student" / "kdlora.json").read_text())
    before = first[first["run_id"] == saved["run_id"]]["score"].iloc[0]
    assert frame.loc["teacher/given", "score"] == pytest.approx(before, abs=0.01)
    assert frame.loc["student/kd-lora", "teacher_score"] == frame.loc["teacher/given", "score"]


def test_pairs_of_texts_and_regression(corner, tmp_path):
    rng = np.random.default_rng(0)
    texts, moods = sentences(400, 1)
    scores = [round((m == "pos") * 3 + float(rng.random()), 3) for m in moods]
    with (tmp_path / "pairs.jsonl").open("w") as handle:
        for text, score in zip(texts, scores, strict=True):
            handle.write(json.dumps({"one": text, "two": text, "score": score}) + "\n")
    arguments = DistilArguments(
        train=str(tmp_path / "pairs.jsonl"), text=("one", "two"), label="score",
        teacher=corner.teacher, student=corner.student,
        sections={
            "training": {"epochs": 4, "max_length": 48, "batch_size": 32, "lr": 5e-3},
            "data": {"selection_min": 30},
        },
    )  # fmt: skip
    frame = finished(corner, distil_study(arguments), tmp_path / "out").set_index("arm")
    assert frame.loc["teacher/fft", "metric"] == "pearson"
    assert frame.loc["teacher/fft", "score"] > 0.5
    assert frame.loc["student/kd-lora", "teacher_pearson"] > 0.3
    student = tmp_path / "out" / "runs" / frame.loc["student/kd-lora", "run_id"]
    answer = kdlora.predict(student, [("a good great film", "a good great film")])
    assert set(answer[0]) == {"value", "tokens", "truncated"}
