import csv
import gzip
import json
import math
import tracemalloc
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlora.errors import DataError
from kdlora.tables.formats import name_rows, table_stem
from kdlora.tables.reader import column_problem, column_problems, is_missing, open_table, read_table

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
    assert open_table(path).columns == ["n", "text", "label"]


texts = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=20
)


@settings(max_examples=30, deadline=None)
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
        assert open_table(path).columns == ["text", "label"]


def test_values_of_json_keep_their_types_and_lacking_keys_are_none(tmp_path):
    path = write(
        tmp_path / "a.jsonl", '{"a": 1.5, "b": true}\n\n{"a": null, "c": 1}\n{"a": NaN, "b": "x"}'
    )
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
        (
            "a.csv",
            "text,label\ncafé,1\n".encode() + "naïve,2\n".encode("cp1252"),
            "offset 21 (line 3), and what stands before is. These look like parts of two",
        ),
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
    assert problems_of(tmp_path / "d.parquet") == [
        f"{tmp_path / 'd.parquet'} is a folder, and a file is expected"
    ]


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
    rest = b"a,1\n" * 300_000 + b"\xff,1\n"
    line = json.dumps({"text": "x" * 1_200_000, "label": 1})
    for path in (
        write(tmp_path / "a.csv", f"text,label\n{wide},1\n"),
        write(tmp_path / "b.csv", b"text,label\n" + rest),
        write(tmp_path / "c.jsonl", line.encode() + b"\n" + rest),
    ):
        assert column_problems(path, ["text", "label"]) == []


def test_a_key_that_only_late_json_lines_have_is_a_column(tmp_path):
    lines = [json.dumps({"text": "a"})] * 500 + [json.dumps({"label": 1, "text": "b"})]
    path = write(tmp_path / "a.jsonl", "\n".join(lines))
    assert column_problems(path, ["text", "label"]) == []
    assert open_table(path).columns == ["text", "label"]
    assert read_table(path, ["label"]).columns["label"] == [None] * 500 + [1]
    (said,) = column_problems(path, ["text", "lable"])
    assert "no column 'lable'. Did you mean 'label'? Known: label, text" in said


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "text,label\n\n", "header but no rows"),
        ("a.tsv", "text\tlabel", "header but no rows"),
        ("a.jsonl", "text,label\n", "line 1: not valid JSON"),
        ("a.csv", '"text,label\na,1\n', "line 1: a field in quotes"),
        ("a.csv", b"text,label\na\xff,1\n", "is not UTF-8"),
        ("a.csv", "text,label\na,1,2\n", "line 2: 3 fields found"),
        ("a.jsonl", '{"text": "a", "label": 1, "text": "b"}', "line 1: names 'text' twice"),
    ],
)
def test_a_bad_start_is_one_clear_problem(tmp_path, name, content, said):
    (problem,) = column_problems(write(tmp_path / name, content), ["text", "label"])
    assert said in problem


def test_a_header_names_its_columns_shortened(tmp_path):
    said = column_problem(tmp_path / "a.csv", "text", ["a tweet that goes on and on and on and on"])
    assert "a tweet that goes on and on and on an..." in str(said)
    assert column_problem(tmp_path / "a.csv", "text", ["label", "text"]) is None


def test_rows_are_named_at_most_five():
    assert name_rows([3]) == "row 3"
    assert name_rows([3, 5], "line") == "lines 3, 5"
    assert name_rows(list(range(1, 1008))) == "rows 1, 2, 3, 4, 5 and 1,002 more"


def test_rows_of_which_no_cell_holds_anything_are_none_and_keep_their_number(tmp_path):
    """As spreadsheets and data frames write them: above, among and below the others."""
    frame = pd.DataFrame({"n": [None, 1.5, None, 2.5, None], "text": ["", "a", None, None, ""]})
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    content = "\n,,,\n , \nn,text\n,\n1.5,a\n\n2.5,\n,,,\n"
    write(tmp_path / "a.csv", content)
    write(tmp_path / "a.tsv", content.replace(",", "\t"))
    for ending in (".csv", ".tsv", ".jsonl", ".parquet"):
        table = read_table(tmp_path / f"a{ending}", ["text"])
        assert table.numbers == [2, 4]
        assert [text or "" for text in table.columns["text"]] == ["a", ""]
        assert table.where("text", bool) == [2]


def test_the_empty_cells_of_a_single_column_are_rows(tmp_path):
    frame = pd.DataFrame({"text": ["a", "", "b"]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "a.parquet")
    for ending in (".csv", ".tsv", ".jsonl", ".parquet"):
        assert read_table(tmp_path / f"a{ending}", ["text"]).columns["text"] == ["a", "", "b"]


def test_fields_in_quotes_of_a_tsv_may_hold_tabs_and_lines(tmp_path):
    path = write(tmp_path / "a.tsv", 'id\ttext\n1\t"good\tfilm"\n2\t"she said\n""bad"""\n')
    assert read_table(path, ["text"]).columns["text"] == ["good\tfilm", 'she said\n"bad"']
    assert open_table(path).quotes == "as in CSV"


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.jsonl", "a.parquet"])
@pytest.mark.parametrize("size", [1, 10, 100])
def test_chunks_hold_all_rows_once_in_order(tmp_path, name, size):
    frame = pd.DataFrame({"text": [f'row {i}, "quoted"' for i in range(25)], "n": range(25)})
    path = tmp_path / name
    if name.endswith(".parquet"):
        frame.to_parquet(path)
    elif "jsonl" in name:
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if "tsv" in name else ",")
    chunks = list(open_table(path).chunks(size))
    assert all(len(chunk) <= size for chunk in chunks)
    rows = [(number, text, int(n)) for chunk in chunks for number, (text, n) in chunk]
    assert rows == [(i + 1, f'row {i}, "quoted"', i) for i in range(25)]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_chunk_is_all_that_is_in_memory(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    frame = pd.DataFrame({"text": ["some words that make a row " * 8] * 40_000, "label": "x"})
    if ending == ".parquet":
        frame.to_parquet(path, row_group_size=2_000)
    elif ending == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if ending == ".tsv" else ",")
    tracemalloc.start()
    rows = sum(len(chunk) for chunk in open_table(path).chunks(256))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 40_000
    assert peak < 2e6  # the texts are 8.6 MB


def test_tables_read_by_turns_do_not_disturb_each_other(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\n" + ("word " * 40_000 + ",1\n") * 3)
    first, second = open_table(path).rows(), open_table(path).rows()
    next(first), next(second)
    assert csv.field_size_limit() == 131_072
    assert len(list(first)) == 2
    assert len(list(second)) == 2
    assert csv.field_size_limit() == 131_072


def test_a_sample_is_the_beginning_and_says_how_much_of_the_file_it_is(tmp_path):
    lines = [f'{i},"some words, and ""more"" of them {i}"' for i in range(30_000)]
    path = write(tmp_path / "a.csv", "n,text\n" + "\n".join(lines) + "\n")
    rows, share = open_table(path).sample(["text"])
    assert rows[1] == (2, ['some words, and "more" of them 1'])
    assert len(rows) < 10_000
    assert len(rows) / share == pytest.approx(30_000, rel=0.05)
    small = open_table(write(tmp_path / "b.csv", "n,text\n" + "\n".join(lines[:9])))
    rows, share = small.sample(["text"])
    assert (len(rows), share) == (9, 1)
    pd.DataFrame({"text": ["a"] * 5000}).to_parquet(tmp_path / "a.parquet")
    rows, share = open_table(tmp_path / "a.parquet").sample(["text"])
    assert len(rows) / share == 5000


def test_all_damage_is_told_in_one_error_however_the_rows_are_taken(tmp_path):
    path = write(tmp_path / "a.csv", "text,n\n" + "fine,1\n" * 5 + 'a\nfine,1\nb,1,2\n"x" y,1\n')
    ragged, quotes = problems_of(path, ["text"])
    assert "lines 7, 9: 1, 3 fields found" in ragged
    assert "line 10: a field in quotes" in quotes
    chunks = open_table(path).chunks(2)
    assert [len(next(chunks)), len(next(chunks))] == [2, 2]
    with pytest.raises(DataError) as caught:
        next(chunks)
    assert caught.value.problems == [ragged, quotes]


@pytest.mark.parametrize("value", [None, float("nan"), "", "  ", "nan", "NaN"])
def test_missing(value):
    assert is_missing(value)


@pytest.mark.parametrize("value", [0, False, 0.0, "0", "none", "NA", "null"])
def test_not_missing(value):
    assert not is_missing(value)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("rev.csv", "rev"), ("rev.2023.csv", "rev.2023"), ("rev.2024.TSV.gz", "rev.2024"),
        ("a/b.c/rev.jsonl", "rev"), ("rev.parquet", "rev"), ("rev.v1.json", "rev.v1"),
        ("imdb-v1.5", "imdb-v1.5"), ("rev", "rev"),
    ],
)  # fmt: skip
def test_a_files_name_loses_the_ending_of_a_table_alone(name: str, stem: str) -> None:
    assert table_stem(Path(name)) == stem
