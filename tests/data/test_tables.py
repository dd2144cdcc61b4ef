import csv
import gzip
import json
import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlora.data.tables import column_problem, name_rows, read_header, read_table
from kdlora.errors import DataError

TEXTS = [
    "plain",
    "a, comma",
    'she said "yes"',
    "two\nlines",
    " spaced ",
    "é\u2028\x85ü",
    "",
    "NA",
    "x\ty",
]
LABELS = ["1", "0", "1", "0", "1", "0", "1", "0", "1"]

# without a time stamp, so that every test process gives the test the same name
TORN_GZIP = gzip.compress(b"text,label\n" + b"a,1\n" * 99, mtime=0)[:-9]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def problems_of(path, wanted=("text", "label")):
    with pytest.raises(DataError) as caught:
        read_table(path, wanted)
    return caught.value.problems


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv", ".jsonl", ".jsonl.gz", ".parquet"])
def test_what_pandas_writes_is_read_back(tmp_path, ending):
    frame = pd.DataFrame({"n": range(9), "text": TEXTS, "label": LABELS})
    path = tmp_path / f"data{ending}"
    if ending.startswith(".csv"):
        frame.to_csv(path, index=False)
    elif ending == ".tsv":
        frame.to_csv(path, index=False, sep="\t")
    elif ending == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True, force_ascii=False)
    table = read_table(path, ["text", "label"])
    assert table.columns == {"text": TEXTS, "label": LABELS}
    assert table.present == ["n", "text", "label"]
    assert len(table) == 9
    assert read_header(path) == ["n", "text", "label"]


texts = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=20
)


@settings(max_examples=60, deadline=None)
@given(texts)
def test_any_text_survives_csv_and_json(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("any")
    with (folder / "a.csv").open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([["text", "label"], *([t, "x"] for t in texts)])
    lines = [json.dumps({"text": t, "label": "x"}, ensure_ascii=False) for t in texts]
    write(folder / "a.jsonl", "\n".join(lines))
    assert read_table(folder / "a.csv", ["text"]).columns["text"] == texts
    assert read_table(folder / "a.jsonl", ["text"]).columns["text"] == texts


def test_tsv_without_quoting_keeps_its_quotes(tmp_path):
    rows = ['"so good" he said', "it's", '"', 'say ""hi""', "odd\u2028 ends\x85 of\x0b lines"]
    path = write(tmp_path / "a.tsv", "text\tlabel\r\n" + "".join(f"{t}\t1\r\n" for t in rows))
    assert read_table(path, ["text"]).columns["text"] == rows
    assert read_table(path, ["label"]).columns["label"] == ["1"] * 5


def test_tsv_quoting_can_be_switched_off(tmp_path):
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"all ""quoted"""\t1\n')
    assert read_table(path, ["text"]).columns["text"] == ['all "quoted"']
    assert read_table(path, ["text"], quoting=False).columns["text"] == ['"all ""quoted"""']


def test_a_byte_order_mark_and_blank_lines_do_not_count(tmp_path):
    for ending, body in ((".csv", "text,label\n\na,1\n\n"), (".tsv", "text\tlabel\n\na\t1\n\n")):
        path = write(tmp_path / f"a{ending}", b"\xef\xbb\xbf" + body.encode())
        assert read_table(path, ["text", "label"]).columns == {"text": ["a"], "label": ["1"]}
        assert read_header(path) == ["text", "label"]


def test_values_of_json_keep_their_types_and_lacking_keys_are_none(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"a": 1.5, "b": true}\n\n{"a": null}\n{"a": NaN, "b": "x"}')
    columns = read_table(path, ["a", "b"]).columns
    assert columns["a"][:2] == [1.5, None]
    assert math.isnan(columns["a"][2])
    assert columns["b"] == [True, None, "x"]


def test_long_documents_are_read_and_the_csv_limit_is_put_back(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\n" + "word " * 100_000 + ",1\n")
    assert len(read_table(path, ["text"]).columns["text"][0]) == 500_000
    assert csv.field_size_limit() == 131_072  # csv's own


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "\n\n", "is empty"),
        ("a.csv", "text,label\n", "header but no rows"),
        ("a.tsv", "text\tlabel\n\n", "header but no rows"),
        ("a.xlsx", "x", "unknown kind of file '.xlsx'. Known: .csv, .tsv, .jsonl"),
        ("a.json", "[]", "unknown kind of file '.json'"),
        ("a.csv", "text,label\na,1\nb\nc,2,3\n", "lines 3, 4: 1, 3 fields found"),
        ("a.tsv", "text\tlabel\na\t1\nb\n", "line 3: 1 fields found, but the header names 2"),
        ("a.csv", 'text,label\n"two\nlines",1\nb,1,2\n', "line 4: 3 fields"),
        ("a.csv", 'text,label\na,1\n"b,1\nc,2\n', "line 3: a field in quotes that begins here"),
        ("a.csv", 'text,label\na,1\n"b" c,2\n', "line 3: a field in quotes that begins here"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b",\n', "line 2: not valid JSON"),
        ("a.jsonl", '{"text": "a", "label": 1}\n[1]\n"x"\n', "lines 2, 3: not a JSON object"),
        ("a.csv", "text,label,text\na,1,b\n", "2 columns are called 'text'"),
        ("a.csv", "Text,label\na,1\n", "no column 'text'. Did you mean 'Text'? Known: Text, label"),
        ("a.csv", "text;label\na;1\n", "separated by ';': .csv wants commas"),
        ("a.csv", b"text,label\nna\xefve,1\n", "byte 0xef at offset 13 (line 2). It looks like"),
        ("a.csv", "text,label\ncaf\x81,1\n".encode("latin-1"), "It looks like latin-1"),
        ("a.csv", "text,label\ncafé,1\n".encode("cp1252"), "`iconv -f cp1252 -t utf-8`"),
        ("a.csv", "text,label\na,1\n".encode("utf-16"), "It looks like utf-16"),
        ("a.csv.gz", b"text,label\na,1\n", "not a whole gzip file"),
        (
            "a.csv.gz",
            TORN_GZIP,
            "not a whole gzip file",
        ),
        ("a.parquet", b"PAR1nothing", "not a readable Parquet file"),
    ],
)
def test_a_bad_file_is_one_clear_problem(tmp_path, name, content, said):
    path = write(tmp_path / name, content)
    problems = problems_of(path)
    assert said in problems[0]
    assert str(path) in problems[0]


def test_missing_files_and_folders_are_told_apart(tmp_path):
    assert problems_of(tmp_path / "no.csv") == [f"there is no file {tmp_path / 'no.csv'}"]
    (tmp_path / "d.parquet").mkdir()
    assert problems_of(tmp_path / "d.parquet") == [f"{tmp_path / 'd.parquet'} is a folder"]


def test_every_wrong_column_and_every_broken_line_is_told_at_once(tmp_path):
    path = write(tmp_path / "a.csv", "txt,lable\na,1\n")
    assert problems_of(path) == [
        f"{path} has no column 'text'. Did you mean 'txt'? Known: lable, txt.",
        f"{path} has no column 'label'. Did you mean 'lable'? Known: lable, txt.",
    ]
    path = write(tmp_path / "a.jsonl", "{}\n" + "{\n" * 8 + "[]\n")
    found = problems_of(path)
    assert len(found) == 5 + 1 + 1
    assert "3 more lines are not valid JSON" in found[5]
    assert "line 10: not a JSON object" in found[6]


def test_parquet_without_rows_or_columns(tmp_path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"text": [], "label": []}).to_parquet(path)
    assert problems_of(path) == [f"{path} holds no rows"]
    pd.DataFrame({"text": ["a"], "lab": [1]}).to_parquet(path)
    assert "no column 'label'. Did you mean 'lab'?" in problems_of(path)[0]


def test_a_header_is_read_from_the_start_alone(tmp_path):
    wide = "é" * 700_000  # the megabyte ends within a character, and within a row
    assert read_header(write(tmp_path / "a.csv", f"text,label\n{wide},1\n")) == ["text", "label"]
    path = write(tmp_path / "b.csv", b"text,label\n" + b"a,1\n" * 300_000 + b"\xff,1\n")
    assert read_header(path) == ["text", "label"]
    line = json.dumps({"text": "x" * 1_200_000, "label": 1})
    assert read_header(write(tmp_path / "c.jsonl", line)) == ["text", "label"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "text,label\n\n", "header but no rows"),
        ("a.tsv", "text\tlabel", "header but no rows"),
        ("a.jsonl", "text,label\n", "line 1: not valid JSON"),
        ("a.csv", '"text,label\na,1\n', "line 1: a field in quotes"),
        ("a.csv", b"text,label\na\xff,1\n", "is not UTF-8"),
    ],
)
def test_a_bad_start_is_one_clear_problem(tmp_path, name, content, said):
    with pytest.raises(DataError, match=said):
        read_header(write(tmp_path / name, content))


def test_a_header_names_its_columns_shortened(tmp_path):
    said = column_problem(tmp_path / "a.csv", "text", ["a tweet that goes on and on and on and on"])
    assert "a tweet that goes on and on and on an..." in str(said)
    assert column_problem(tmp_path / "a.csv", "text", ["label", "text"]) is None


def test_rows_are_named_at_most_five():
    assert name_rows([3]) == "row 3"
    assert name_rows([3, 5], "line") == "lines 3, 5"
    assert name_rows(list(range(1, 1008))) == "rows 1, 2, 3, 4, 5 and 1,002 more"
