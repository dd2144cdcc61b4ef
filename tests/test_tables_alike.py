"""Whoever reads a table sees the same: training, predicting, importing and estimating."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdlora.data.own_task import load_own
from kdlora.errors import InputError
from kdlora.importing.read import ROW
from kdlora.importing.read import read_table as read_foreign
from kdlora.planning.workload import text_rows
from kdlora.ship.answers import Outputs, Predictor
from kdlora.ship.card import ModelCard
from kdlora.ship.predict import predict_file
from kdlora.spec.sections import OwnTask
from kdlora.tables.reader import column_problems, open_table, read_table

CARD = ModelCard(
    run_id="r",
    task="own",
    arm="student/fft",
    seed=1,
    kind="classification",
    text_columns=["text"],
    label_names=["a", "b"],
    max_length=8,
    metric="accuracy",
    selection_score=None,
    report_score=None,
    chosen_because="",
)
COLUMNS = ["text", "label", 'extra, "odd"']
PLAIN = [[f"some words {i}", "ab"[i % 2], "x"] for i in range(24)]
NOTHING = ("NA", "nan", "NaN", "None", "null", "N/A")  # to pandas; texts to everybody else

Rows = list[list[str]]


def training(path: Path) -> tuple[list[str], list[str]]:
    loaded = load_own(OwnTask(name="own", train=str(path)))
    return loaded.train.texts[0], [loaded.task.label_names[i] for i in loaded.train.labels]


def predicting(path: Path) -> tuple[list[str], list[list[str]]]:
    """The texts that the model is given, and the file's own cells in what is written."""
    given: list[str] = []

    def outputs(texts: Any) -> Outputs:
        given.extend(texts[0])
        n = len(texts[0])
        return Outputs(np.zeros((n, 2)), np.ones(n, dtype=np.int64), np.zeros(n, dtype=bool))

    target = path.with_name("out.csv")
    predict_file(Predictor(CARD, "stub", outputs), path, target)
    with target.open(encoding="utf-8", newline="") as handle:
        header, *rows = csv.reader(handle)
    added = ["prediction", "probability", "p_a", "p_b", "tokens", "truncated"]
    assert header[len(header) - 6 :] == added
    places = [header.index(name) for name in COLUMNS if name in header]
    return given, [[row[i] for i in places] for row in rows]


USES = {
    "training": training,
    "predicting": predicting,
    "importing": read_foreign,
    "whole": lambda path: read_table(path, COLUMNS[:2]),
    "chunks": lambda path: list(open_table(path).chunks(3)),
}

cells = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.text(st.sampled_from('"",\t\n\r ;\'\\é\u2028\x85\ufeff\0x'), max_size=8),
    st.sampled_from(["", " ", *NOTHING, '"', '""', "1.0", "true", "=1", '"all"', "a\r\nb"]),
)
rows = st.lists(st.tuples(cells, st.sampled_from("ab"), cells).map(list), max_size=8)


@st.composite
def written(draw: st.DrawFn) -> tuple[str, bytes, Rows]:
    """A file's ending, its content and the rows that it holds."""
    table = [*draw(st.permutations([*draw(rows), *PLAIN]))]
    ending = draw(st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]))
    if ending == ".parquet":
        values = [[cell or draw(st.sampled_from(["", None])) for cell in row] for row in table]
        columns = dict(zip(COLUMNS, zip(*values, strict=True), strict=True))
        buffer = io.BytesIO()
        pq.write_table(pa.table({k: list(v) for k, v in columns.items()}), buffer, row_group_size=7)
        return ending, buffer.getvalue(), table
    end = draw(st.sampled_from(["\n", "\r\n"]))
    if ending == ".jsonl":
        lines, blank = json_lines(draw, table), ["", "  "]
    else:
        delimiter = "," if ending == ".csv" else "\t"
        # whether a quote or a tab then is one of the text, nobody could say
        if ending == ".tsv":
            table = [[c.replace("\t", " ") if "\n" in c else c for c in row] for row in table]
        lines = delimited(draw, [COLUMNS, *table], delimiter)
        blank = ["", delimiter * 2, f" {delimiter} {delimiter}", delimiter * 5]
    for _ in range(draw(st.integers(0, 3))):
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(blank)))
    content = end.join(lines) + draw(st.sampled_from(["", end, end + end]))
    data = content.encode("utf-8-sig" if draw(st.booleans()) else "utf-8")
    if draw(st.booleans()):
        return ending + ".gz", gzip.compress(data, mtime=0), table
    return ending, data, table


def delimited(draw: st.DrawFn, table: Rows, delimiter: str) -> list[str]:
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    lines = []
    for row in table:
        buffer = io.StringIO(newline="")
        csv.writer(buffer, delimiter=delimiter, quoting=quoting).writerow(row)
        lines.append(buffer.getvalue().removesuffix("\r\n"))
    return lines


def json_lines(draw: st.DrawFn, table: Rows) -> list[str]:
    """Rows that lack the keys of some empty cells, and say null or "" for others."""
    lines = []
    for row in table:
        values = {}
        for name, cell in zip(COLUMNS, row, strict=True):
            how = "cell" if cell else draw(st.sampled_from(["cell", "null", "lacking"]))
            if how != "lacking":
                values[name] = None if how == "null" else cell
        lines.append(json.dumps(values, ensure_ascii=draw(st.booleans())))
    return lines


@settings(
    max_examples=75,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(written())
def test_every_use_sees_the_same_table(tmp_path: Path, file: tuple[str, bytes, Rows]) -> None:
    ending, content, table = file
    path = tmp_path / hashlib.sha256(content).hexdigest() / f"table{ending}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    texts = [row[0] for row in table]

    seen, labels = training(path)
    assert seen == [text for text in texts if text.strip()]
    assert labels == [row[1] for row in table if row[0].strip()]

    seen, own = predicting(path)
    assert seen == texts
    assert own == table

    foreign = read_foreign(path)
    assert set(foreign.columns) == {*COLUMNS, ROW}
    for name, column in zip(COLUMNS, zip(*table, strict=True), strict=True):
        for cell, expected in zip(foreign[name], column, strict=True):
            assert cell == expected or (pd.isna(cell) and expected in ("", *NOTHING))

    count, tokens = text_rows(str(path), ("text",), None)
    assert count == len(table)
    assert tokens == pytest.approx(np.mean([len(text) for text in texts]) / 4.2 + 2.5)
    assert column_problems(path, COLUMNS) == []
    assert sorted(open_table(path).columns) == sorted(COLUMNS)


GOOD = [json.dumps({"text": f"good film {i}", "label": i % 2}) for i in range(30)]
DAMAGED_LINES = {
    "no JSON": '{"text": "a",',
    "a list": "[1]",
    "false": "false",
    "deep": '{"text": "a", "label": ' + "[" * 3000 + "]" * 3000 + "}",
    "not quite as deep": '{"text": "a", "label": ' + "[" * 200 + "]" * 200 + "}",
    "half a character": '{"text": "half \\ud83d", "label": 1}',
    "half a character in a name": '{"te\\udc00xt": "a", "label": 1}',
    "a raw NUL": '{"text": "a\0", "label": 1}',
    "a key twice": '{"text": "a", "label": 1, "text": "b"}',
    "a number without end": '{"text": "a", "label": ' + "1" * 5000 + "}",
}  # fmt: skip
CSV_LINES = ["text,label", *(f"good film {i},{i % 2}" for i in range(30))]


def parquet(damage: str) -> bytes:
    texts = [f"a good film with number {i} and more words" for i in range(4000)]
    table = pa.table({"text": texts, "label": [i % 2 for i in range(4000)]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, use_dictionary=False, compression="snappy")
    content = bytearray(buffer.getvalue())
    if damage == "page":
        middle = len(content) // 4
        content[middle : middle + 400] = b"\xff" * 400
    elif damage == "torn":
        del content[len(content) // 2 :]
    return bytes(content)


DAMAGED = {
    **{
        f"{what}.jsonl": "\n".join([*GOOD[:9], line, *GOOD[9:], "{"]).encode()
        for what, line in DAMAGED_LINES.items()
    },
    "ragged.csv": "\n".join([*CSV_LINES[:9], "a,b,c", *CSV_LINES[9:], "a"]).encode(),
    "quotes.csv": "\n".join([*CSV_LINES[:9], "a,b,c", '"a" b,1', *CSV_LINES[9:]]).encode(),
    "ragged.tsv": "\n".join([*CSV_LINES[:9], "a,b,c", "a"]).replace(",", "\t").encode(),
    "latin.csv": "\n".join([*CSV_LINES, "café,1"]).encode("latin-1"),
    "utf16.csv": "\n".join(CSV_LINES).encode("utf-16"),
    "torn.jsonl.gz": gzip.compress("\n".join(GOOD).encode(), mtime=0)[:-9],
    "empty.csv": b"\n,,\n",
    "header.tsv": b"text\tlabel\n\t\n",
    "empty.jsonl": b"\n \n",
    "page.parquet": parquet("page"),
    "torn.parquet": parquet("torn"),
    "none.parquet": b"",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_every_use_says_the_same_of_the_same_damage(tmp_path: Path, name: str) -> None:
    path = tmp_path / name.replace(" ", "-")
    path.write_bytes(DAMAGED[name])
    problems = {}
    for use, read in USES.items():
        with pytest.raises(InputError) as caught:
            read(path)
        problems[use] = caught.value.problems
    assert all(found == problems["whole"] for found in problems.values()), problems
    assert str(path) in problems["whole"][0]
    assert not (tmp_path / "out.csv").exists()
    assert text_rows(str(path), ("text",), None)[0] > 0  # an estimate never stops a plan
