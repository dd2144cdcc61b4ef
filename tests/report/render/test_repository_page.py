"""The short pages of docs/results and the command that writes them again."""

from __future__ import annotations

import importlib.util
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

from kdlora.errors import InputError
from kdlora.report.render.repository_page import write_page

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def report(made):
    return made("one_task")


def test_a_page_has_the_findings_and_what_was_asked_for(report, tmp_path):
    paths = write_page(report, tmp_path, "mine", tables=["summary"], figures=["learning"])
    assert [path.name for path in paths] == ["mine.md", "mine-learning.svg"]
    text = paths[0].read_text(encoding="utf-8")
    for finding in report.sections[0].findings:
        assert f"**{finding.topic}" in text
    assert text.count("\n### ") == 2
    assert "(mine-learning.svg)" in text
    assert ElementTree.parse(paths[1]).getroot().tag.endswith("svg")


def test_unknown_names_are_refused_all_at_once(report, tmp_path):
    with pytest.raises(InputError, match=r"'sumary'.*summary(.|\n)*no figure 'x'"):
        write_page(report, tmp_path, "mine", tables=["sumary"], figures=["x"])
    assert not list(tmp_path.iterdir())


def test_committed_pages_are_those_of_the_list_and_small():
    folder = ROOT / "docs" / "results"
    pages = yaml.safe_load((folder / "pages.yaml").read_text(encoding="utf-8"))
    named = {page["page"] for page in pages}
    written = {path.stem for path in folder.glob("*.md")} - {"README"}
    assert written <= named
    for path in folder.iterdir():
        assert path.stat().st_size < 300_000, path.name
    for path in folder.glob("*.md"):
        for target in re.findall(r"!\[.*?\]\((.*?)\)", path.read_text(encoding="utf-8")):
            assert (folder / target).is_file(), target


def test_the_command_writes_the_committed_page_again(shared, tmp_path):
    path = ROOT / "scripts" / "make_results.py"
    loaded = importlib.util.spec_from_file_location("make_results", path)
    module = importlib.util.module_from_spec(loaded)
    loaded.loader.exec_module(module)
    module.SHARED = shared
    module.main(["--only", "published-742", "--out", str(tmp_path)])
    committed = ROOT / "docs" / "results" / "published-742.md"
    assert (tmp_path / committed.name).read_text() == committed.read_text()
