"""Long texts whose last words decide: read in windows from the study file to the exported model."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

import kdlora
from kdlora.distillation.hidden_states import ABOUT
from kdlora.planning.data_looks import look_at_plan
from kdlora.planning.inputs import check_inputs
from kdlora.records.predictions import read_predictions
from kdlora.records.store import Store
from tests.harness.finished import share_costs
from tests.harness.moods import PLAIN, sentences, write_csv

WINDOWS = {"stride": 6}


def long_texts(n: int, seed: int) -> dict[str, list[str]]:
    """Sentences behind 15 to 40 words that say nothing."""
    rng = np.random.default_rng(seed)
    texts, moods = sentences(n, seed)
    before = [" ".join(rng.choice(PLAIN, rng.integers(15, 40))) for _ in texts]
    return {"review": [f"{b} {t}" for b, t in zip(before, texts, strict=True)], "mood": moods}


@pytest.fixture(scope="module")
def done(corner, once):
    def train(folder):
        folder.mkdir()
        for name, n, seed in (("train", 480, 5), ("dev", 100, 6)):
            write_csv(folder / f"{name}.csv", **long_texts(n, seed))
        task = {"name": "long", "train": str(folder / "train.csv"), "text": "review"}
        task |= {"eval": str(folder / "dev.csv"), "label": "mood"}
        training = {"epochs": 5, "batch_size": 24, "dropout": 0.0, "lr": 4e-3, "max_length": 24}
        training |= {"precision": "fp32", "windows": WINDOWS}
        study = corner.study(
            tasks=[task],
            training=training,
            arms=["teacher/fft", "student/kd-fft"],
            variations={
                "cut": {"arm": "student/kd-fft", "training": {"windows": None}},
                "inside": {
                    "arm": "student/kd-fft",
                    "distillation": {"signals": {"kl": 1.0, "hidden": {"layers": "last"}}},
                },
            },
            baselines=False,
        )
        kdlora.run(study, out=share_costs(corner, folder / "study"), threads=1)

    return once("windows", train) / "study"


def frame_of(done):
    return kdlora.load_frame(done).set_index("arm")


def test_windows_read_what_cutting_never_sees(done):
    frame = frame_of(done)
    assert set(frame["status"]) == {"done"}
    assert frame.at["student/kd-fft", "score"] > 0.9
    assert frame.at["student/kd-fft[cut]", "score"] < 0.7
    assert frame.at["student/kd-fft[inside]", "score"] > 0.9
    assert frame.at["student/kd-fft", "windows"] == "mean of up to 16, stride 6"
    assert frame.at["student/kd-fft", "windows_per_text"] > 2
    assert "unequal_windows" in frame.at["student/kd-fft[cut]", "flags"]
    assert not (done / "runs" / frame.at["student/kd-fft[inside]", "run_id"] / ABOUT).exists()


def test_the_report_says_what_a_long_text_costs(done):
    said = (done / "report.md").read_text("utf-8")
    assert "Long texts are read in windows" in said


def test_a_look_finds_cut_texts_for_the_arm_that_cuts_alone(done):
    plan = kdlora.plan(done / "study.yaml")
    (look,) = look_at_plan(plan, check_inputs(plan))
    cut = {count.windows is None: count.cut_texts for count in look.tokens}
    assert cut[True] > 0.5
    assert cut[False] == 0.0


def test_saved_exported_and_recorded_answers_are_the_same(done, tmp_path):
    run_id = frame_of(done).at["student/kd-fft", "run_id"]
    outputs, _ = read_predictions(Store(done).folder(run_id)).by_split()
    with (done.parent / "dev.csv").open(encoding="utf-8", newline="") as handle:
        texts = [row["review"] for row in csv.DictReader(handle)]
    from kdlora.ship.predict import load_predictor

    folder = Store(done).folder(run_id)
    saved = load_predictor(folder, precision="fp32").outputs([texts])
    np.testing.assert_allclose(
        np.sort(saved, axis=0), np.sort(outputs["report"], axis=0), atol=1e-4
    )
    pytest.importorskip("onnxscript")
    from kdlora.ship.export import export_model

    artefact = export_model(folder, tmp_path / "ex", quantize=("none",), timing=False)
    assert artefact.windows is not None
    assert artefact.windows.pooling == "mean"
    exported = load_predictor(tmp_path / "ex", variant="onnx")
    np.testing.assert_allclose(exported.outputs([texts]), saved, atol=1e-3)
    assert json.loads((tmp_path / "ex" / "export.json").read_text())["windows"]["stride"] == 6
    program = tmp_path / "ex" / "example.py"
    sample = texts[:3]
    source = program.read_text("utf-8")
    start = source.index("encode_batch(") + len("encode_batch(")
    end = source.index("])\n", start) + 1
    program.write_text(source[:start] + repr(sample) + source[end:], "utf-8")
    ran = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, check=True, timeout=120
    )
    found = [line.split() for line in ran.stdout.splitlines()]
    answers = exported([sample])
    assert [label for label, _ in found] == [answer["label"] for answer in answers]
    shares = [answer["probability"] for answer in answers]
    np.testing.assert_allclose([float(share) for _, share in found], shares, atol=1e-4)
