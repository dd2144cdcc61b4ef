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


def test_no_module_or_class_has_a_private_word_for_its_name() -> None:
    named = [(path.stem, str(path.relative_to(SOURCE))) for path in SOURCE.rglob("*.py")]
    named += [(name, where) for name, places in _classes().items() for where in places]
    barred = [(name, where, _words(name) & PRIVATE) for name, where in named]
    # Published reports claim things: there the word is the field's own.
    in_reports = "kdlora_reproductions"
    assert [
        b for b in barred if b[2] - ({"claims"} if b[1].startswith(in_reports) else set())
    ] == []
