"""The architecture page shows the tree that is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "kdlora"
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
TREE = TEXT.split("```")[1]


def test_every_package_and_module_at_the_top_has_its_line() -> None:
    packages = {f"{path.parent.name}/" for path in SOURCE.glob("*/__init__.py")}
    nested = {f"{path.parent.name}/" for path in SOURCE.glob("*/*/__init__.py")} - {"presets/"}
    modules = {path.name for path in SOURCE.glob("[a-z]*.py")}
    shown = set(re.findall(r"^  +([a-z_]+(?:/|\.py)) ", TREE, re.M))
    assert shown == packages | nested | modules


def test_every_file_that_it_names_exists() -> None:
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*\.py)`", TEXT))
    assert named
    assert {path for path in named if not (SOURCE / path).is_file()} == set()


def test_every_folder_that_it_names_exists() -> None:
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*/)`", TEXT))
    assert named
    assert {path for path in named if not (SOURCE / path).is_dir()} == set()
