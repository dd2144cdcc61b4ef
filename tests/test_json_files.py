"""The one reader of JSON that strangers wrote: a value, or OSError and ValueError."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdlora.json_files import (
    DEEPEST,
    UnusableJson,
    parse_json,
    read_json,
    read_json_lines,
    read_json_object,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES, st.booleans())
def test_what_json_writes_is_read(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    try:
        text.encode()
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        with pytest.raises(ValueError, match="surrogate"):
            parse_json(text)
    else:
        assert parse_json(text) == parse_json(text.encode()) == value


@given(st.binary() | st.text(alphabet='{}[]":,\\ud80 123.truefalsn').map(str.encode))
def test_anything_else_is_a_value_error(content: bytes) -> None:
    with suppress(ValueError):
        parse_json(content)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 3000 + "]" * 3000, "within each other"),
        ('{"a":' * 200 + "1" + "}" * 200, "within each other"),
        ('{"a": 1, "a": 2}', "names 'a' twice"),
        ('[{"b": {"a": 1, "\\u0061": 2}}]', "names 'a' twice"),
        ('"\\ud800"', "lone surrogate"),
        ('{"\\udfff": 1}', "lone surrogate"),
    ],
)
def test_json_that_cannot_be_used(text: str, told: str) -> None:
    with pytest.raises(UnusableJson, match=told):
        parse_json(text)


def test_as_deep_as_is_allowed() -> None:
    text = "[" * DEEPEST + "]" * DEEPEST
    assert parse_json(text) is not None
    assert parse_json(b"\xef\xbb\xbf{}") == {}
    assert parse_json('"\\ud83d\\ude00 : [{"') == "😀 : [{"


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(FileNotFoundError):
        read_json(path)
    path.write_text("[1]", encoding="utf-8")
    assert read_json(path) == [1]
    with pytest.raises(OSError, match="larger"):
        read_json(path, largest=2)
    with pytest.raises(ValueError, match="no JSON object"):
        read_json_object(path)
    path.write_text('{"a": 1}\n{"b": NaN}\n', encoding="utf-8")
    assert [list(row) for row in read_json_lines(path)] == [["a"], ["b"]]
    path.write_text('{"a": 1}\nfalse\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2 is no JSON object"):
        read_json_lines(path)
    os.mkfifo(tmp_path / "pipe")
    for read in (read_json, read_json_object, read_json_lines):
        for odd in (tmp_path, tmp_path / "pipe"):
            with pytest.raises((ValueError, OSError)):
                read(odd)
