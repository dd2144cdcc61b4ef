"""One front for every kind of model folder, and files of any length."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
import os
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from kdlora.cli import main
from kdlora.errors import DataError, InputError, ModelError
from kdlora.ship import predict
from kdlora.ship.answers import Predictor
from kdlora.ship.predict import load_predictor, predict_file
from tests.harness.exported import logits_of, save_exported
from tests.harness.moods import write_csv
from tests.harness.tiny_models import save_tiny_encoder, tiny_tokenizer


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_exported(tmp_path_factory.mktemp("models") / "moods")


@pytest.fixture(scope="module")
def predictor(exported: Path) -> Predictor:
    return load_predictor(exported)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_a_file_keeps_its_rows_and_gains_columns(predictor: Predictor, tmp_path: Path) -> None:
    texts = ["good film", "bad", 'says "good", twice\ngood', ""]
    source = write_csv(tmp_path / "in.csv", id=[7, 8, 9, 10], text=texts)
    seen: list[int] = []
    target = tmp_path / "out.csv"
    assert predict_file(predictor, source, target, on_rows=seen.append).rows == 4 == seen[-1]
    rows = read(target)
    assert [row["text"] for row in rows] == texts
    assert [row["id"] for row in rows] == ["7", "8", "9", "10"]
    for row, text in zip(rows, texts, strict=True):
        logits = logits_of(text)
        shares = np.exp(logits) / np.exp(logits).sum()
        assert float(row["p_positive"]) == pytest.approx(shares[1], abs=1e-6)
        assert row["prediction"] == ("positive" if shares[1] > 0.5 else "negative")


def test_a_file_says_which_texts_were_cut(predictor: Predictor, tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", text=["good", "good " * 50, "bad " * 15])
    done = predict_file(predictor, source, tmp_path / "out.csv")
    assert (done.rows, done.truncated, done.path) == (3, 2, tmp_path / "out.csv")
    rows = read(done.path)
    assert [row["tokens"] for row in rows] == ["3", "52", "17"]
    assert [row["truncated"] for row in rows] == ["false", "true", "true"]


@pytest.mark.parametrize("rows", [1, 255, 256, 257, 1000])
def test_every_row_once_whatever_the_chunks(
    predictor: Predictor, tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "ROWS", 300)
    words = np.random.default_rng(rows).choice(["good", "bad", "dull", "film"], rows)
    source = tmp_path / "in.jsonl.gz"
    with gzip.open(source, "wt", encoding="utf-8") as handle:
        handle.writelines(json.dumps({"text": str(word)}) + "\n" for word in words)
    target = tmp_path / "out.csv"
    assert predict_file(predictor, source, target).rows == rows
    for row, word in zip(read(target), words, strict=True):
        assert row["text"] == word
        assert row["prediction"] == ("positive" if logits_of(word).argmax() else "negative")


def test_memory_does_not_grow_with_the_file(predictor: Predictor, tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        source = write_csv(tmp_path / "in.csv", text=["good film " * 5] * rows)
        tracemalloc.start()
        predict_file(predictor, source, tmp_path / "out.csv")
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(3 * predict.ROWS) < 1.5 * peak(predict.ROWS)


def test_long_texts_make_smaller_chunks(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "CHARACTERS", 100_000)
    source = write_csv(tmp_path / "in.csv", text=["good " * 200] * 1024)
    seen: list[int] = []
    predict_file(predictor, source, tmp_path / "out.csv", on_rows=seen.append)
    assert seen == [256, 512, 768, 1024]


@pytest.mark.parametrize("name", ["z.jsonl", "z.TSV", "z.parquet", "z.csv.gz", "z.json"])
def test_a_target_called_as_another_kind_of_table_is_refused_before_any_work(
    predictor: Predictor, tmp_path: Path, name: str
) -> None:
    source, seen = tmp_path / "in.csv", []
    source.write_text("text\ngood film\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"written as CSV.*ends in \.csv") as refused:
        predict_file(predictor, source, tmp_path / name, on_rows=seen.append)
    assert name in str(refused.value)
    assert [*tmp_path.iterdir()] == [source]
    assert seen == []
    assert predict_file(predictor, source, tmp_path / "z").rows == 1


def test_a_failure_leaves_nothing_behind(predictor: Predictor, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("text\n" + "good\n" * 9000 + "a,b\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 9002"):
        predict_file(predictor, source, tmp_path / "out.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["in.csv"]
    with pytest.raises(InputError, match=r"no column 'txt'.*Did you mean 'text'"):
        predict_file(predictor, source, tmp_path / "out.csv", columns=("txt",))


@pytest.mark.parametrize("name", ["prediction", "probability", "p_negative"])
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_column_called_as_a_prediction_is_refused_before_any_work(
    predictor: Predictor, tmp_path: Path, name: str, ending: str
) -> None:
    source = tmp_path / f"in.{ending}"
    if ending == "csv":
        write_csv(source, text=["good"], **{name: ["annotator A"]})
    else:
        source.write_text('{"text": "good"}\n' + json.dumps({"text": "bad", name: "annotator A"}))
    seen: list[int] = []
    with pytest.raises(InputError, match=f"columns of its own that are called {name}"):
        predict_file(predictor, source, tmp_path / "out.csv", on_rows=seen.append)
    assert not seen
    assert not (tmp_path / "out.csv").exists()


def test_columns_of_one_name_are_copied_unless_they_are_the_text(
    predictor: Predictor, tmp_path: Path
) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("id,text,id,\n1,good,2,\n", encoding="utf-8")
    predict_file(predictor, source, target)
    header, row = csv.reader(target.read_text(encoding="utf-8").splitlines())
    assert header[:5] == ["id", "text", "id", "", "prediction"]
    assert row[:5] == ["1", "good", "2", "", "positive"]
    source.write_text("text,id,text\ngood film,1,bad film\n", encoding="utf-8")
    with pytest.raises(InputError, match="2 columns are called 'text'"):
        predict_file(predictor, source, target)


def test_whatever_a_cell_holds_is_written_as_it_is_or_refused(
    predictor: Predictor, tmp_path: Path
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.csv"
    first = {"text": "good", "tags": ["a", "é"], "of": {"x": None}}
    source.write_text(json.dumps(first) + '\n{"text": null, "n": 1.5}\n', encoding="utf-8")
    predict_file(predictor, source, target)
    first_row, second = read(target)
    assert (first_row["tags"], first_row["of"], first_row["n"]) == ('["a", "é"]', '{"x": null}', "")
    assert (second["text"], second["tags"], second["n"]) == ("", "", "1.5")
    source.write_text('{"text": ["good"]}\n', encoding="utf-8")
    with pytest.raises(DataError, match="column 'text' holds no text in row 1"):
        predict_file(predictor, source, tmp_path / "other.csv")


def test_a_torch_folder_agrees_with_transformers(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    names = {0: "no", 1: "maybe", 2: "yes"}
    folder = tmp_path / "model"
    save_tiny_encoder(
        folder, head=True, num_labels=3, id2label=names, label2id={v: k for k, v in names.items()}
    )
    predictor = load_predictor(folder, precision="fp32")
    texts = ["good film", "the dog went home last night", "a"]
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = tiny_tokenizer(model.config)
    with torch.no_grad():
        logits = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in texts]
    expected = torch.softmax(torch.stack(logits), dim=1).numpy()
    found = [list(a["probabilities"].values()) for a in predictor([texts])]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert predictor.variant == "torch"
    with pytest.raises(InputError, match="was not exported, so it has no variant 'onnx'"):
        load_predictor(folder, variant="onnx")


def test_a_label_that_is_a_formula_is_a_text_in_the_file(
    predictor: Predictor, tmp_path: Path
) -> None:
    """A model's labels are a stranger's; the file's own cells stay as they are."""
    card = predictor.card.model_copy(update={"label_names": ["=1+1", "@SUM(A1)"]})
    formulas = dataclasses.replace(predictor, card=card)
    source = write_csv(tmp_path / "in.csv", text=["=2+2", "bad film"])
    predict_file(formulas, source, tmp_path / "out.csv")
    rows = read(tmp_path / "out.csv")
    assert {row["prediction"] for row in rows} <= {"'=1+1", "'@SUM(A1)"}
    assert rows[0]["text"] == "=2+2"


def test_what_is_no_model(tmp_path: Path, exported: Path) -> None:
    for path, told in (
        (tmp_path / "nothing", "no model folder"),
        (exported / "onnx" / "model.onnx", "the folder that holds it"),
        (tmp_path, "no saved model|cannot be read|no model"),
    ):
        with pytest.raises(ModelError, match=told):
            load_predictor(path)
    (tmp_path / "plan.json").write_text("{}", encoding="utf-8")
    (tmp_path / "student").mkdir()
    with pytest.raises(ModelError, match="a study that saved no student"):
        load_predictor(tmp_path)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_a_terminal_that_lacks_a_character_gets_its_number(
    exported: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    output = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(output, encoding=encoding))
    with pytest.raises(SystemExit) as end:
        main(["predict", str(exported), "--threads", "1", "--text", "good film 中"])
    sys.stdout.flush()
    assert not end.value.code
    shown = "中" if encoding == "utf-8" else "\\u4e2d"
    assert output.getvalue().decode(encoding).endswith(f"good film {shown}\n")


def test_a_text_that_is_none_is_refused(exported: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        main(["predict", str(exported), "--text", "good \udcff"])
    assert end.value.code == 2
    assert r"'good \udcff' holds bytes that are not text" in capsys.readouterr().err


def test_the_command(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kdlora.machine.busy_share", lambda: 0.0)
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "PASSIVE" if name == "OMP_WAIT_POLICY" else "1")
    run = ["predict", str(exported), "--threads", "1"]
    with pytest.raises(SystemExit):
        main([*run, "--text", "good", "--variant", "onnx", "--json"])
    assert json.loads(capsys.readouterr().out)[0]["label"] == "positive"
    source = write_csv(tmp_path / "in.csv", text=["good", "bad"])
    with pytest.raises(SystemExit):
        main([*run, str(source)])
    assert "2 rows with predictions: in-predictions.csv" in capsys.readouterr().out
    for wrong, told in (
        (["--text", "good", "--variant", "onx"], "Did you mean 'onnx'"),
        (["--text", "good", "--second", "bad"], "this model reads 1 text"),
        ([str(source), "--text-column", "a", "--text-column", "b"], "reads 1"),
    ):
        with pytest.raises(SystemExit) as end:
            main([*run, *wrong])
        assert end.value.code == 2
        assert told in capsys.readouterr().err


def piped(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


def test_standard_input_is_answered_line_by_line(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    lines = [f"{word} film" for word in ("good", "bad")] * 300
    piped(monkeypatch, ("\n".join(lines) + "\n").encode())
    with pytest.raises(SystemExit):
        main(["predict", str(exported), "-", "--threads", "1"])
    told = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[2] for line in told] == lines
    assert [line.split("\t")[0] for line in told[:2]] == ["positive", "negative"]
    piped(monkeypatch, b"good\r\n" + b"bad " * 50)
    with pytest.raises(SystemExit):
        main(["predict", str(exported), "-", "--json", "--threads", "1"])
    shown = capsys.readouterr()
    answers = [json.loads(line) for line in shown.out.splitlines()]
    assert [answer["truncated"] for answer in answers] == [False, True]
    assert "1 of 2 inputs are longer than what the model reads (up to 16 tokens" in shown.err


@pytest.mark.parametrize(
    ("content", "more", "said"),
    [
        (b"good\n\xff\xfe\n", [], "line 2 of standard input is no UTF-8 text"),
        (b"good\n", ["--out", "x.csv"], "--out mean nothing with standard input"),
    ],
)
def test_what_cannot_be_read_from_standard_input_is_told(
    exported: Path,
    content: bytes,
    more: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    piped(monkeypatch, content)
    with pytest.raises(SystemExit) as end:
        main(["predict", str(exported), "-", *more])
    assert end.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "bert", "distilbert", "modernbert"])
def test_long_texts_are_cut_to_the_positions_that_a_foreign_classifier_has(
    family: str, tmp_path: Path
) -> None:
    save_tiny_encoder(tmp_path / family, family, head=True, max_position_embeddings=20)
    predictor = load_predictor(tmp_path / family)
    assert predictor.card.max_length == {"roberta": 19, "xlm-roberta": 19}.get(family, 20)
    (answer, short) = predictor([["good film " * 100, "good"]])
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert (answer["tokens"], answer["truncated"]) == (202, True)
    assert (short["tokens"], short["truncated"]) == (3, False)


def test_a_foreign_regression_of_two_numbers_is_refused(tmp_path: Path) -> None:
    save_tiny_encoder(tmp_path / "m", head=True, num_labels=2, problem_type="regression")
    with pytest.raises(ModelError, match=r"problem_type regression.*it answers with 2 numbers"):
        load_predictor(tmp_path / "m")


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_foreign_classifier_of_several_labels_answers_each_by_itself(
    outputs: int, tmp_path: Path
) -> None:
    save_tiny_encoder(
        tmp_path / "m", head=True, num_labels=outputs, problem_type="multi_label_classification"
    )
    (answer,) = load_predictor(tmp_path / "m")([["good film"]])
    shares = answer["probabilities"]
    assert len(shares) == outputs
    assert set(answer["labels"]) == {name for name, share in shares.items() if share >= 0.5}


@pytest.mark.parametrize(("outputs", "key"), [(1, "value"), (2, "label"), (3, "label")])
@pytest.mark.parametrize("stated", [True, False])
def test_a_foreign_classifier_is_read_by_its_outputs(
    outputs: int, key: str, stated: bool, tmp_path: Path
) -> None:
    kind = "regression" if outputs == 1 else "single_label_classification"
    changes = {"problem_type": kind} if stated else {}
    save_tiny_encoder(tmp_path / "m", head=True, num_labels=outputs, **changes)
    (answer,) = load_predictor(tmp_path / "m")([["a film"]])
    assert key in answer


def test_predictions_replace_nothing_but_earlier_predictions_of_the_same_columns(
    predictor: Predictor, tmp_path: Path
) -> None:
    source = write_csv(tmp_path / "in.csv", text=["good", "bad"])
    before = source.read_bytes()
    (tmp_path / "link.csv").symlink_to("in.csv")
    (tmp_path / "hard.csv").hardlink_to(source)
    (tmp_path / "to-nothing.csv").symlink_to("nothing")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "model").mkdir()
    for name in ("export.json", "tokenizer.json"):
        (tmp_path / "model" / name).write_text("{}")
    taken = {
        "model/export.json": "is a file of a model",
        "model/tokenizer.json": "is a file of a model",
        "in.csv": "the file that is predicted",
        "link.csv": "the file that is predicted",
        "hard.csv": "the file that is predicted",
        "to-nothing.csv": "is no file",
        "folder": "is a folder",
        "pipe": "is no file",
        "none/out.csv": "there is no folder",
    }
    for name, told in taken.items():
        for overwrite in (False, True):
            with pytest.raises(InputError, match=told):
                predict_file(predictor, source, tmp_path / name, overwrite=overwrite)
    with pytest.raises(InputError, match="is no file"):
        predict_file(predictor, source, Path("/dev/null"), overwrite=True)
    notes = tmp_path / "notes.csv"
    for content in (b"", b"my notes\n", b"\xff\xfe\x00", b"text,prediction\n", b'"'):
        notes.write_bytes(content)
        with pytest.raises(InputError, match="--overwrite"):
            predict_file(predictor, source, notes)
        assert notes.read_bytes() == content
    predict_file(predictor, source, notes, overwrite=True)
    first = notes.read_bytes()
    write_csv(source, text=["dull"])
    predict_file(predictor, source, notes)  # its own, of the same columns
    assert first != notes.read_bytes()
    assert read(notes)[0]["text"] == "dull"
    write_csv(source, text=["dull"], other=["x"])
    with pytest.raises(InputError, match="other columns"):
        predict_file(predictor, source, notes)
    assert before != source.read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {
        "in.csv", "link.csv", "hard.csv", "to-nothing.csv", "folder", "pipe", "notes.csv", "model",
    }  # fmt: skip


def test_a_link_to_an_earlier_output_stays_a_link(predictor: Predictor, tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", text=["good"])
    predict_file(predictor, source, tmp_path / "real.csv")
    (tmp_path / "link.csv").symlink_to("real.csv")
    write_csv(source, text=["bad"])
    predict_file(predictor, source, tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    assert read(tmp_path / "real.csv")[0]["text"] == "bad"


def test_options_that_mean_nothing_are_told(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = str(write_csv(tmp_path / "in.csv", text=["good"]))
    for given, told in (
        ([source, "--json"], "--json mean"),
        (["--text", "good", "--out", "x.csv", "--text-column", "a"], "--text-column and --out"),
        ([f"{source}{'n' * 300}"], "File name too long"),
        ([source, "--out", str(tmp_path / ("n" * 300))], "File name too long"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["predict", str(exported), *given])
        assert end.value.code == 2
        assert told in capsys.readouterr().err
