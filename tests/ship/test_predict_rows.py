"""Predictions for what a notebook holds: one text, lists, pairs, frames; models stay loaded."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import kdlora
from kdlora.errors import InputError
from kdlora.ship import predict_rows as module
from kdlora.ship.answers import Predictor
from kdlora.ship.predict import load_predictor
from kdlora.ship.predict_rows import loaded_predictor, predict_rows
from tests.harness.exported import save_exported


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_exported(tmp_path_factory.mktemp("rows") / "moods")


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    return load_predictor(folder)


def test_one_string_is_one_text(folder: Path) -> None:
    (answer,) = kdlora.predict(folder, "good film")
    assert answer["label"] == "positive"
    assert kdlora.predict(folder, ["good film"]) == [answer]
    assert kdlora.predict(folder, ("good film", "bad"))[1]["label"] == "negative"
    assert kdlora.predict(folder, []) == []
    assert kdlora.predict(folder, pd.Series(["good film"], index=[5])) == [answer]


def test_a_frame_gains_columns_and_keeps_its_own(predictor: Predictor) -> None:
    frame = pd.DataFrame({"id": [4, 5, 6], "text": ["good", "bad", None]}, index=[9, 9, 7])
    found = predict_rows(predictor, frame)
    shares = ["probability", "p_negative", "p_positive"]
    assert list(found.columns) == ["id", "text", "prediction", *shares, "tokens", "truncated"]
    assert list(found["prediction"][:2]) == ["positive", "negative"]
    assert list(found.index) == [9, 9, 7]
    assert list(frame.columns) == ["id", "text"]
    renamed = predict_rows(predictor, frame[["text"]].rename(columns={"text": "review"}))
    assert list(renamed["prediction"]) == list(found["prediction"])
    assert len(predict_rows(predictor, frame[:0])) == 0


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([None], "text 0 is NoneType None, expected a text"),
        (["a", 3.5], "text 1 is float 3.5, expected a text"),
        ([("a", "b")], "text 0 holds 2 texts, but the model reads a text"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), "no single column text.* it has a, b"),
        (pd.DataFrame({"text": ["x"], "prediction": ["y"]}), "columns of its own"),
    ],
)
def test_what_is_no_text_is_told(predictor: Predictor, texts: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        predict_rows(predictor, texts)  # type: ignore[call-overload]


@pytest.mark.parametrize("rows", [{"text": "a"}, {"a", "b"}, b"ab", 5, None])
def test_what_is_no_list_of_texts_is_told(predictor: Predictor, rows: object) -> None:
    with pytest.raises(InputError, match="is no list of texts: give a text, a list"):
        predict_rows(predictor, rows)  # type: ignore[call-overload]


def test_pairs(tmp_path: Path) -> None:
    pairs = load_predictor(save_exported(tmp_path / "pairs", pairs=True))
    both = predict_rows(pairs, [("good", "film"), ["bad", "dull"]])
    assert len(both) == 2
    with pytest.raises(InputError, match="text 0 holds 1 texts, but the model reads a pair"):
        predict_rows(pairs, "good")


def test_a_model_is_loaded_once_and_again_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_exported(tmp_path / "moods")
    loads: list[Path] = []

    def load(path: Path) -> Predictor:
        loads.append(path)
        return load_predictor(path)

    monkeypatch.setattr(module, "load_predictor", load)
    first = loaded_predictor(folder)
    assert loaded_predictor(str(folder)) is first
    assert loaded_predictor(first) is first
    assert len(loads) == 1
    save_exported(tmp_path / "others")
    (folder / "note.txt").write_text("changed")
    loaded_predictor(folder)
    assert len(loads) == 2
