"""Exported models at work: right answers in the right order, without torch, as the card says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax

from kdlora import extras
from kdlora.errors import InputError, ModelError
from kdlora.ship import onnx_runtime as runtime
from kdlora.ship.answers import Predictor, answers
from kdlora.ship.card import Calibration
from kdlora.ship.predict import load_predictor
from tests.harness.exported import LABELS, card_of, logits_of, save_exported, save_quantised, seal

TEXTS = ["good film", "", "bad dull film", "unheard of good " * 3, "dull"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_exported(tmp_path_factory.mktemp("exported") / "moods", scale={"onnx": 2.0})


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    return load_predictor(folder)


def test_outputs_are_those_of_paper_and_pencil(predictor: Predictor) -> None:
    expected = np.array([logits_of(text) for text in TEXTS])
    np.testing.assert_allclose(predictor.outputs([TEXTS]), expected, atol=1e-6)
    found = predictor([TEXTS])
    np.testing.assert_allclose(
        [[a["probabilities"][name] for name in LABELS] for a in found],
        softmax(expected, axis=1), atol=1e-6,
    )  # fmt: skip
    assert [a["label"] for a in found] == [LABELS[i] for i in expected.argmax(axis=1)]
    assert all(a["probability"] == max(a["probabilities"].values()) for a in found)
    assert predictor([[]]) == []


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["good", "bad", "film", "x"]), max_size=14), max_size=60))
def test_order_and_company_do_not_matter(predictor: Predictor, rows: list[list[str]]) -> None:
    texts = [" ".join(row) for row in rows]
    expected = np.array([logits_of(text) for text in texts]) if texts else np.zeros((0, 1))
    np.testing.assert_allclose(predictor.outputs([texts]), expected, atol=1e-5)


def test_long_texts_are_cut(predictor: Predictor) -> None:
    kept = " ".join(["good"] * 14)  # 16 tokens with [CLS] and [SEP]
    np.testing.assert_allclose(
        predictor.outputs([[kept + " bad" * 50]])[0], logits_of(kept), atol=1e-6
    )


def test_answers_say_how_long_a_text_is_and_whether_it_was_cut(predictor: Predictor) -> None:
    texts = ["good", " ".join(["good"] * 14), " ".join(["good"] * 15), "good " * 100, ""]
    found = predictor([texts])
    assert [a["tokens"] for a in found] == [3, 16, 17, 102, 2]
    assert [a["truncated"] for a in found] == [False, False, True, True, False]


@pytest.mark.parametrize("how", ["mean", "max"])
def test_long_texts_are_read_in_windows_and_their_logits_pooled(tmp_path: Path, how: str) -> None:
    windows = {"pooling": how, "stride": 4, "max_windows": 3}
    predictor = load_predictor(save_exported(tmp_path / "windows", card={"windows": windows}))
    words = [*["film"] * 20, *["good"] * 4]  # windows of 14 words, 10 further each time
    rows = np.array([logits_of(" ".join(words[:14])), logits_of(" ".join(words[10:24]))])
    expected = rows.mean(axis=0) if how == "mean" else rows.max(axis=0)
    texts = [" ".join(words), "good", "bad " * 100]
    np.testing.assert_allclose(predictor.outputs([texts])[0], expected, atol=1e-6)
    found = predictor([texts])
    assert [a["windows"] for a in found] == [2, 1, 3]
    assert [a["tokens"] for a in found] == [26, 3, 102]
    assert [a["truncated"] for a in found] == [False, False, True]


def test_of_a_pair_both_texts_are_counted(tmp_path: Path) -> None:
    pairs = load_predictor(save_exported(tmp_path / "long-pairs", pairs=True))
    (short, long) = pairs([["good", "good " * 10], ["film", "film " * 10]])
    assert (short["tokens"], short["truncated"]) == (5, False)
    assert (long["tokens"], long["truncated"]) == (23, True)


def test_pairs(tmp_path: Path) -> None:
    predictor = load_predictor(save_exported(tmp_path / "pairs", pairs=True))
    assert predictor.columns == 2
    found = predictor.outputs([["good", "dull"], ["film", "bad bad"]])
    expected = [logits_of("good", "film"), logits_of("dull", "bad bad")]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_regression(tmp_path: Path) -> None:
    card = {"kind": "regression", "label_names": []}
    with pytest.raises(ModelError, match="2 outputs, its card names 1"):
        load_predictor(save_exported(tmp_path / "wide", card=card))
    found = answers(np.array([[1.5], [-2.0]]), card_of(kind="regression", label_names=[]))
    assert found == [{"value": 1.5}, {"value": -2.0}]


def test_temperature_and_threshold(predictor: Predictor) -> None:
    logits = np.array([[0.0, 1.0], [0.0, 2.0], [3.0, 0.0]])

    def ask(temperature: float | None, threshold: float | None, positive: str | None):
        calibration = Calibration(
            temperature=temperature, threshold=threshold, positive=positive, n=1
        )
        return answers(logits, card_of(label_names=LABELS, calibration=calibration))

    shares = [a["probabilities"]["positive"] for a in ask(2.0, None, None)]
    np.testing.assert_allclose(shares, expit([0.5, 1.0, -1.5]))
    plain, strict = ask(1.0, None, None), ask(1.0, 0.85, "positive")
    assert [a["label"] for a in plain] == ["positive", "positive", "negative"]
    assert [a["label"] for a in strict] == ["negative", "positive", "negative"]
    assert strict[0]["probability"] == strict[0]["probabilities"]["negative"]
    assert [a["label"] for a in ask(None, 0.05, "negative")] == ["negative"] * 3
    exact = float(expit(1.0))  # reaching the threshold is enough
    assert ask(1.0, exact, "positive")[0]["label"] == "positive"


def test_a_threshold_for_no_label(tmp_path: Path) -> None:
    card = {"calibration": {"threshold": 0.5, "positive": "positve", "n": 10}}
    with pytest.raises(ModelError, match="Did you mean 'positive'"):
        load_predictor(save_exported(tmp_path / "moods", card=card))


def test_the_cards_calibration_is_applied(tmp_path: Path) -> None:
    card = {"calibration": {"temperature": 4.0, "threshold": 0.9, "positive": "positive", "n": 10}}
    found = load_predictor(save_exported(tmp_path / "moods", card=card))([["good film"]])[0]
    negative, positive = logits_of("good film")
    assert found["probabilities"]["positive"] == pytest.approx(expit((positive - negative) / 4))
    assert found["label"] == "negative"


def test_variants(folder: Path) -> None:
    assert load_predictor(folder).variant == "onnx-int8"
    plain = load_predictor(folder, variant="onnx")
    assert plain.variant == "onnx"
    np.testing.assert_allclose(plain.outputs([["good"]])[0], 2 * logits_of("good"), atol=1e-6)
    with pytest.raises(InputError, match=r"no variant 'onxx'.*Did you mean 'onnx'"):
        load_predictor(folder, variant="onxx")


def test_a_variant_that_failed_the_gate_is_used_only_when_named(tmp_path: Path) -> None:
    folder = save_exported(tmp_path / "moods", gates={"onnx-int8": "failed"})
    assert load_predictor(folder).variant == "onnx"
    assert load_predictor(folder, variant="onnx-int8").variant == "onnx-int8"


def test_batches_are_bounded(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    pad = runtime.pad

    def watched(encoded, index):
        batch = pad(encoded, index)
        sizes.append(batch["input_ids"].size)
        return batch

    monkeypatch.setattr(runtime, "pad", watched)
    assert len(predictor.outputs([["good film"] * 5000])) == 5000
    assert len(sizes) > 1
    assert max(sizes) <= runtime.TOKENS


def test_an_answer_does_not_depend_on_company(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dynamic quantisation takes the range of the whole batch, [PAD]'s huge row included."""
    folder = save_exported(tmp_path / "moods")
    save_quantised(folder / "onnx" / "model_int8.onnx")
    seal(folder)
    texts = ["good", "bad dull film", "good " * 9, "", "film film"]

    def both() -> tuple[np.ndarray, np.ndarray]:
        predictor = load_predictor(folder, variant="onnx-int8")
        alone = np.concatenate([predictor.outputs([[text]]) for text in texts])
        return alone, predictor.outputs([texts])

    alone, together = both()
    np.testing.assert_array_equal(alone, together)
    monkeypatch.setattr(runtime, "scales_by_batch", lambda model: False)
    alone, together = both()
    assert np.abs(alone - together).max() > 0.01  # what is avoided


def test_broken_files(tmp_path: Path) -> None:
    folder = save_exported(tmp_path / "moods")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    seal(folder)
    with pytest.raises(ModelError, match="no tokenizer"):
        load_predictor(folder)
    (folder / "onnx" / "model_int8.onnx").write_bytes(b"\x08\x08")
    seal(folder)
    with pytest.raises(ModelError, match="onnxruntime cannot load it"):
        load_predictor(folder)
    (folder / "export.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ModelError):
        load_predictor(folder)


def test_a_process_without_torch(folder: Path) -> None:
    """With torch, transformers, peft, pandas and onnx made impossible to import."""
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'peft', 'pandas', 'onnx', 'sklearn'):\n"
        "    sys.modules[name] = None\n"
        "from kdlora.cli import main\n"
        "main(['predict', sys.argv[1], '--text', 'good film', '--text', 'dull'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False
    )
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["positive", "negative"], (
        done.stderr
    )


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"onnxruntime, which is not installed.*kdlora\[serve\]"):
        load_predictor(folder)
