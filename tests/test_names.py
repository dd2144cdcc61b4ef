"""Names that a newcomer of the field understands, each for one thing."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src"
# Words that once named modules and classes here, and told nobody what they hold.
PRIVATE = {
    "claims", "crew", "elsewhere", "fate", "found", "hands", "inside", "kept", "lessons", "levels",
    "many", "opening", "place", "standing", "standings", "summands",
}  # fmt: skip


def _classes() -> dict[str, list[str]]:
    """Public classes of the library by name: where each is defined."""
    where = defaultdict(list)
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].append(str(path.relative_to(SOURCE)))
    return where


def _words(name: str) -> set[str]:
    """The words of a CamelCase or snake_case name, in small letters."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def test_no_two_public_classes_have_one_name() -> None:
    twice = {name: where for name, where in _classes().items() if len(where) > 1}
    assert not twice


def _functions() -> list[tuple[str, str]]:
    """Public functions and methods of the library: name, and where."""
    return [
        (node.name, str(path.relative_to(SOURCE)))
        for path in sorted(SOURCE.rglob("*.py"))
        for top in ast.parse(path.read_text(encoding="utf-8")).body
        for node in (top, *(top.body if isinstance(top, ast.ClassDef) else ()))
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]


# Functions whose word is the plain one: (name, why).
PLAIN = {
    "compare_many": "several comparisons at once",
    "damaged_in_place": "in its place, not set aside",
    "describe_levels": "runs, blocks and tasks are levels of a nested design",
    "is_inside": "a path in a folder",
    "kept_ranks": "of AdaLoRA's budget",
    "place_labels": "label placement",
    "positive_place": "a column of the outputs",
    "claims": "of the published reports",
    "make_claims": "of the published reports",
}


def test_no_public_function_has_a_private_word_for_its_name() -> None:
    barred = [(name, where) for name, where in _functions() if _words(name) & PRIVATE]
    assert [one for one in barred if one[0] not in PLAIN] == []
    assert set(PLAIN) <= {name for name, _ in barred}  # no permission outlives its function


def test_no_module_or_class_has_a_private_word_for_its_name() -> None:
    named = [(path.stem, str(path.relative_to(SOURCE))) for path in SOURCE.rglob("*.py")]
    named += [(name, where) for name, places in _classes().items() for where in places]
    barred = [(name, where, _words(name) & PRIVATE) for name, where in named]
    # Published reports claim things: there the word is the field's own.
    in_reports = "kdlora_reproductions"
    assert [
        b for b in barred if b[2] - ({"claims"} if b[1].startswith(in_reports) else set())
    ] == []
