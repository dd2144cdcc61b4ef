"""Texts that labels contradict each other about, as they are shown."""

from __future__ import annotations

from kdlora.data.checks.labels import quote


def test_a_quoted_text_stands_on_one_line():
    assert quote("a\nb") == '"a b"'
    assert len(quote("word " * 50)) == 62
