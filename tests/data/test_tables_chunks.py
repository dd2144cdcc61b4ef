from __future__ import annotations

import gzip
import json

import pandas as pd
import pytest

from kdlora.data.tables import read_chunks
from kdlora.errors import DataError

FRAME = pd.DataFrame({"text": [f'row {i}, with "quotes"' for i in range(25)], "n": range(25)})


def write(folder, name):
    path = folder / name
    if name.endswith(".parquet"):
        FRAME.to_parquet(path)
    elif "jsonl" in name:
        FRAME.to_json(path, orient="records", lines=True)
    elif "tsv" in name:
        rows = [f"{t}\t{n}" for t, n in FRAME.itertuples(index=False)]
        path.write_text("\n".join(["text\tn", *rows]) + "\n")
    else:
        FRAME.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.jsonl", "a.parquet"])
@pytest.mark.parametrize("size", [1, 10, 100])
def test_all_rows_come_once_in_order(tmp_path, name, size):
    chunks = list(read_chunks(write(tmp_path, name), size))
    rows = [row for chunk in chunks for row in chunk]
    assert [row["text"] for row in rows] == list(FRAME["text"])
    assert [int(row["n"]) for row in rows] == list(FRAME["n"])
    assert all(len(chunk) <= size for chunk in chunks)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", b"text,n\nfine,1\nbad,1,2\n", "line 3: 3 fields where the header names 2"),
        ("a.jsonl", b'{"text": "x"}\n{"text"\n', "line 2: not JSON"),
        ("a.jsonl", b'{"text": "x"}\n[1]\n', "line 2: expected an object"),
        ("a.csv", b"text\nfine\n" + b"x" * (2 << 20) + b"\xff\n", "cannot read"),
        ("a.csv", b"", "empty"),
        ("a.xls", b"x", "unknown kind of file"),
    ],
)
def test_a_broken_line_is_named(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=expected):
        list(read_chunks(path, 10))


def test_a_torn_gzip_is_named(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    whole = gzip.compress(b"\n".join(json.dumps({"t": i}).encode() for i in range(9999)))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"gzip|cannot read"):
        list(read_chunks(path, 10))
