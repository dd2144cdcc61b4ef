"""Each silent fault of a file has its sentence, and sound data sets have none."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from kdlora.data.checks.look import is_garbled, look_at
from kdlora.data.checks.tokens import EncoderTokenizer, parse_tokenizer
from kdlora.data.examples import Examples, TaskData, ids_of_texts
from kdlora.data.tasks import load_task
from kdlora.records.data_look import DataFinding, DataLook
from kdlora.spec.run import TaskRef
from kdlora.spec.sections import Data, OwnTask
from tests.harness.moods import sentences, write_csv
from tests.harness.tiny_models import tiny_config, tiny_tokenizer


def loaded(
    train: Path, held_out: Path | None = None, **changes: object
) -> tuple[TaskRef, TaskData]:
    own = OwnTask(
        name="mood", train=str(train), eval=str(held_out) if held_out else None, **changes
    )
    ref = TaskRef(name="mood", version=1, source="files", own=own)
    return ref, load_task(ref, Data(selection_min=100))


def look(train: Path, held_out: Path | None = None, **changes: object) -> DataLook:
    ref, data = loaded(train, held_out, **changes)
    bare = parse_tokenizer(tiny_tokenizer(tiny_config("bert")).backend_tokenizer.to_str())
    return look_at(data, ref, [EncoderTokenizer(("tiny",), bare, 32)])


def moods(n: int, seed: int = 0) -> dict[str, list]:
    """Sentences of twelve words and more, of which none is the same as another."""
    texts, labels = sentences(n, seed)
    return {"text": [f"{t} s{seed}n{i}" for i, t in enumerate(texts)], "label": labels}


def doubts(found: DataLook) -> dict[str, DataFinding]:
    return {finding.name: finding for finding in found.of("error", "warning")}


def test_sound_files_are_not_doubted(tmp_path):
    train = write_csv(tmp_path / "train.csv", **moods(1000))
    held_out = write_csv(tmp_path / "dev.csv", **moods(200, seed=1))
    found = look(train, held_out)
    assert {f.name for f in found.of("error", "warning")} <= {"foreign_tokenizer"}
    assert [(s.split, s.source, s.rows) for s in found.splits] == [
        ("train", "train.csv", 900), ("selection", "train.csv", 100), ("report", "dev.csv", 200),
    ]  # fmt: skip
    assert sum(found.splits[0].classes.values()) == 900
    assert list(found.splits[0].classes) == ["neg", "pos"]


def test_unlabelled_texts_that_repeat_each_other_or_a_report_split(tmp_path):
    held_out = moods(200, seed=1)
    train = write_csv(tmp_path / "train.csv", **moods(1000))
    ref, data = loaded(train, write_csv(tmp_path / "dev.csv", **held_out))
    new = moods(300, seed=2)["text"]
    sound = look_at(data, ref, unlabelled=texts_alone(new))
    assert not {f.name for f in sound.findings} & {"repeated_unlabelled", "leaked_unlabelled"}
    assert sound.splits[-1].rows == 300
    twice = [*new, *(f"{text.upper()}." for text in new[:60])]
    leaked = [text.title() for text in held_out["text"][:5]]
    found = look_at(data, ref, unlabelled=texts_alone([*twice, *leaked]))
    doubted = doubts(found)
    assert doubted["repeated_unlabelled"].sentence.startswith("60 of 365 unlabelled texts (16 %)")
    said = doubted["leaked_unlabelled"].sentence
    assert said.startswith("5 of 200 rows of the report split (2.5 %) stand among the unlabelled")
    assert "row 1 of dev.csv is row 361 of the unlabelled texts" in said
    assert "leaked_texts" not in {f.name for f in found.findings}


def texts_alone(texts: list[str]) -> Examples:
    """Texts without labels, as they are learnt from a teacher."""
    labels = np.full(len(texts), -1, dtype=np.int64)
    numbers = np.arange(1, len(texts) + 1)
    return Examples(ids_of_texts("mood", [texts]), (texts,), labels, numbers)


def test_texts_that_are_cut(tmp_path):
    columns = moods(400)
    columns["text"] = [f"{text} " + "film " * 60 for text in columns["text"]]
    finding = doubts(look(write_csv(tmp_path / "a.csv", **columns)))["cut_texts"]
    assert finding.sentence.startswith("100 % of the texts are longer than 32 tokens (tiny)")
    assert "training.max_length (--max-length) to auto" in finding.advice


def test_a_tokenizer_that_does_not_know_the_language(tmp_path):
    columns = moods(400)
    columns["text"] = [f"\u0995\u09be\u099c {i} \u09ac\u09bf" for i in range(400)]
    finding = doubts(look(write_csv(tmp_path / "a.csv", **columns)))["foreign_tokenizer"]
    assert "the tokenizer of tiny does not know the language of these texts" in finding.sentence
    assert "in 100 % of the texts" in finding.sentence
    assert "multilingual" in finding.advice


def test_several_labels_in_a_cell(tmp_path):
    names = ["price", "service", "food", "price|service", "price|food", "service|food",
             "price|service|food"]  # fmt: skip
    columns = moods(700)
    columns["label"] = [names[i % 7] for i in range(700)]
    finding = doubts(look(write_csv(tmp_path / "a.csv", **columns)))["several_labels"]
    assert finding.sentence == (
        "column 'label' looks like several labels in one: 4 of its 7 classes join 3 tags by '|' "
        "(food, price, service)"
    )


def test_one_text_under_two_labels(tmp_path):
    columns = moods(500)
    texts = [*columns["text"], *(f"{text.upper()}." for text in columns["text"][:100])]
    other = {"pos": "neg", "neg": "pos"}
    labels = [*columns["label"], *(other[label] for label in columns["label"][:100])]
    path = write_csv(tmp_path / "a.csv", text=texts, label=labels)
    finding = doubts(look(path))["conflicting_labels"]
    assert finding.sentence.startswith("100 texts (200 rows, 33 %) stand under several labels: ")
    rows = [int(n) for n in re.findall(r"(?:pos|neg) in row (\d+) of a.csv", finding.sentence)]
    # the first row after the header is row 1, and the copies follow the 500 rows
    assert [abs(one - other) for one, other in zip(rows[::2], rows[1::2], strict=True)] == [500] * 3


def test_scores_that_contradict_each_other(tmp_path):
    columns = moods(300)
    scores = np.linspace(0, 5, 300).round(2).tolist()
    texts = [*columns["text"], *columns["text"][:10]]
    path = write_csv(tmp_path / "a.csv", text=texts, label=[*scores, *[4.9] * 10])
    finding = doubts(look(path, kind="regression"))["conflicting_labels"]
    assert finding.sentence.startswith("10 texts (20 rows, 6.5 %) stand under several labels")
    near = write_csv(tmp_path / "b.csv", text=texts, label=[*scores, *scores[5:15]])
    assert "conflicting_labels" not in doubts(look(near, kind="regression"))


def test_texts_that_stand_in_train_and_in_eval(tmp_path):
    columns, held_out = moods(500), moods(100, seed=1)
    held_out["text"][:5] = [f"  {text.title()} ." for text in columns["text"][:5]]
    held_out["text"][5] = columns["text"][5]
    words = [f"v{i}" for i in range(20)]
    columns["text"][6], held_out["text"][6] = " ".join(words), " ".join([*words[:-1], "other"])
    train = write_csv(tmp_path / "train.csv", **columns)
    finding = doubts(look(train, write_csv(tmp_path / "dev.csv", **held_out)))["leaked_texts"]
    assert finding.sentence.startswith(
        "6 of 100 rows of the report split (6 %) stand in train or selection as well, but for "
        "case, white space or a final stop (1 word for word), and 1 nearly: row 1 of dev.csv is "
        "row 1 of train.csv"
    )


def test_a_text_that_stands_many_times(tmp_path):
    columns = moods(400)
    columns["text"][:80] = ["the very same film"] * 80
    columns["label"][:80] = ["pos"] * 80
    held_out = write_csv(tmp_path / "dev.csv", **moods(100, seed=1))
    finding = doubts(look(write_csv(tmp_path / "a.csv", **columns), held_out))["repeated_texts"]
    assert finding.sentence.startswith("79 of 400 training rows (20 %) repeat another but for")
    assert "(79 word for word)" in finding.sentence


def test_classes_of_three_rows(tmp_path):
    columns = moods(300)
    columns["label"][:3] = ["rare"] * 3
    finding = doubts(look(write_csv(tmp_path / "a.csv", **columns)))["rare_classes"]
    assert finding.sentence == ("1 of 3 classes have fewer than 10 training rows: 'rare' (1)")


def test_a_report_split_without_a_class(tmp_path):
    train = write_csv(tmp_path / "train.csv", **moods(300))
    held_out = moods(200, seed=1)
    held_out = {k: [v for v, mood in zip(column, held_out["label"], strict=True) if mood == "pos"]
                for k, column in held_out.items()}  # fmt: skip
    finding = doubts(look(train, write_csv(tmp_path / "dev.csv", **held_out)))["missing_classes"]
    assert finding.sentence == (
        "the report split has no row of 'neg': no score there says how it is answered"
    )


def test_a_class_in_two_spellings(tmp_path):
    columns = moods(300)
    columns["label"][:100] = [label.title() for label in columns["label"][:100]]
    found = look(write_csv(tmp_path / "a.csv", **columns))
    told = [f for f in found.of("warning") if f.name == "alike_classes"]
    assert [f.sentence for f in told] == [
        f"column 'label': the classes '{a.title()}' and '{a}' look alike and are kept apart"
        for a in ("neg", "pos")
    ]
    assert sum("look alike" in f.sentence for f in found.findings) == 2  # each once


def test_few_scores_are_told_as_a_correlation(tmp_path):
    columns = moods(300) | {"label": [i / 7 for i in range(300)]}
    (told,) = (f for f in look(write_csv(tmp_path / "a.csv", **columns)).findings
               if f.name == "short_report")  # fmt: skip
    assert told.sentence.endswith("chance alone moves a correlation by up to ±0.25")
    assert "accuracy" not in told.sentence


def test_twenty_four_rows(tmp_path):
    found = doubts(look(write_csv(tmp_path / "a.csv", **moods(24))))
    report, selection = found["short_report"], found["short_selection"]
    assert report.sentence.startswith("models are scored on 4 rows (report, of ")
    assert "one answer is 25 points" in report.sentence
    assert "models are chosen on" in selection.sentence


def test_a_column_of_ids_and_one_that_is_often_empty(tmp_path):
    columns = moods(300)
    ids = [f"a{i:06x}" for i in range(300)]
    path = write_csv(tmp_path / "a.csv", text=ids, label=columns["label"])
    assert 'looks like ids and not like text: "a0' in (
        doubts(look(path))["text_looks_like_ids"].sentence
    )
    second = [text if i % 4 else "" for i, text in enumerate(columns["text"])]
    path = write_csv(tmp_path / "b.csv", a=columns["text"], b=second, label=columns["label"])
    finding = doubts(look(path, text=("a", "b")))["empty_texts"]
    assert finding.sentence == "column 'b' is empty in 75 of 300 rows (25 %)"
    words = write_csv(tmp_path / "c.csv", text=[f"name{w}x" for w in map(chr, range(97, 417))],
                      label=[*"xyzx" * 80])  # fmt: skip
    assert "text_looks_like_ids" not in doubts(look(words))


def test_rows_without_any_text_are_counted(tmp_path):
    for empty, severity in ((30, ["warning"]), (2, [])):
        columns = moods(300)
        columns["text"][:empty] = [" "] * empty
        found = look(write_csv(tmp_path / "a.csv", **columns))
        told = [f for f in found.findings if f.name == "empty_texts"]
        assert [f.severity for f in told] == severity
        assert all("30 of 300 rows (10 %) hold no text" in f.sentence for f in told)


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
@pytest.mark.parametrize("sign", ["\u00e9", "\u00fc", "\u00df", "\u2019", "\u2026", "\U0001f600"])
def test_texts_of_a_wrong_encoding(sign, encoding):
    right = f"a caf{sign} here"
    assert not is_garbled(right)
    misread = right.encode("utf-8").decode(encoding, errors="replace")
    assert is_garbled(misread)


@pytest.mark.parametrize(
    "text",
    ["CAF\u00c9\u00a0!", "Spa\u00df\u00ab", "\u201cno\u201d", "IRM\u00c3", "\u00c2\u00e2\u20ac"],
)
def test_signs_that_stand_so_in_a_language_are_not_garbled(text):
    assert not is_garbled(text)


def test_a_file_of_a_wrong_encoding(tmp_path):
    for rows, severity in ((20, "warning"), (1, "info")):
        columns = moods(300)
        columns["text"][:rows] = [
            f"{text} don\u00e2\u20ac\u2122t" for text in columns["text"][:rows]
        ]
        found = look(write_csv(tmp_path / "a.csv", **columns)).findings
        (told,) = (f for f in found if f.name == "garbled_texts")
        assert told.severity == severity
        assert told.sentence.startswith(f"{rows} of 300 texts of column 'text' (")


def test_notes_of_the_reader_are_information(tmp_path):
    found = look(write_csv(tmp_path / "a.csv", **moods(300)))
    notes = [f.sentence for f in found.of("info") if f.name == "note"]
    assert "no eval file: 60 rows of train are held out to report on" in notes
