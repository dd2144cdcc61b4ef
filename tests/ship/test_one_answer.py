"""Whoever asks a model, and in whatever company a text is asked, has the same answer.

The model's outputs can be computed by hand; its calibration is drawn at random.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from kdlora.records.artefact import read_artefact
from kdlora.serve.app import make_app
from kdlora.ship.card import Abstention, Calibration, read_card, write_card
from kdlora.ship.model_card import example
from kdlora.ship.predict import load_predictor, predict_file
from kdlora.tables.reader import read_table
from tests.harness.exported import LABELS, save_exported, save_quantised, seal
from tests.harness.moods import write_csv

WORDS = ("good", "bad", "dull", "film", "unknown")
shares = st.floats(0.05, 0.95)
texts = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join),
                 min_size=1, max_size=4)  # fmt: skip


@st.composite
def cards(draw: st.DrawFn) -> dict[str, Any]:
    """A kind of task, and any calibration of it."""
    several = draw(st.booleans())
    by: dict[str, Any] = {"n": 100, "temperature": draw(st.none() | st.floats(0.1, 5))}
    how = draw(st.sampled_from(("none", "one", "each")))
    if how == "each" or (how == "one" and several):
        by["thresholds"] = {name: draw(shares) for name in LABELS}
    elif how == "one":
        by |= {"threshold": draw(shares), "positive": draw(st.sampled_from(LABELS))}
    if not several and draw(st.booleans()):
        by["abstention"] = Abstention(aim=0.9, level=0.95, cut=draw(shares), lower_bound=0.9)
    kind = "multilabel" if several else "classification"
    return {"kind": kind, "calibration": draw(st.sampled_from((None, Calibration(**by))))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export whose INT8 form scales activations by all that it is given at once."""
    made = save_exported(tmp_path_factory.mktemp("one") / "shipped")
    save_quantised(made / "onnx" / "model_int8.onnx")
    return made


def by_program(folder: Path, asked: list[str]) -> list[Any]:
    """What the export's example prints of these texts: pairs of an answer and its probability."""
    artefact, card = read_artefact(folder), read_card(folder)
    program = example(artefact, card)
    assert program is not None
    before = "encode_batch(["
    start = program.index(before) + len(before) - 1
    program = program[:start] + repr(asked) + program[program.index("])", start) + 1 :]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, "example.py", "exec"), {"__file__": str(folder / "example.py")})
    return printed.getvalue().splitlines()


def near(a: float, b: float) -> bool:
    return math.isclose(a, b, abs_tol=2e-6)


@settings(max_examples=40)
@given(card=cards(), asked=texts)
def test_python_command_server_and_example_say_the_same(
    folder: Path, card: dict[str, Any], asked: list[str]
) -> None:
    known = read_card(folder)
    assert known is not None
    write_card(folder, known.model_copy(update=card))
    seal(folder)
    for variant in ("onnx", "onnx-int8"):
        predictor = load_predictor(folder, variant=variant)
        mine = predictor([asked])
        for text, answer in zip(asked, mine, strict=True):
            (alone,) = predictor([[text]])
            key = "labels" if "labels" in answer else "label"
            assert alone[key] == answer[key]
        with TestClient(make_app(predictor), base_url="http://localhost") as client:
            served = client.post("/predict", json={"texts": asked}).json()["predictions"]
        assert served == mine
        source = write_csv(folder.parent / "texts.csv", text=asked)
        target = folder.parent / "said.csv"
        predict_file(predictor, source, target, overwrite=True)
        written = read_table(target, ["prediction", *(f"p_{name}" for name in LABELS)]).columns
        for i, answer in enumerate(mine):
            for name in LABELS:
                assert near(float(written[f"p_{name}"][i]), answer["probabilities"][name])
            said = written["prediction"][i]
            if "labels" in answer:
                assert json.loads(said) == answer["labels"]
            else:
                assert (said or None) == answer["label"]
    for line, answer in zip(by_program(folder, asked), mine, strict=True):  # it asks INT8
        if "labels" in answer:
            pairs = eval(line)
            assert [name for name, _ in pairs] == answer["labels"]
            assert all(near(share, answer["probabilities"][name]) for name, share in pairs)
        else:
            label, share = line.split()
            assert label == str(answer["label"])
            assert near(float(share), answer["probability"])
