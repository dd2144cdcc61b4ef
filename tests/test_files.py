"""Files that are there as a whole or not at all."""

from __future__ import annotations

import pytest

from kdlora.files import beside, leftovers, whole_file, whole_folder


def test_the_new_content_comes_at_the_end(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert leftovers(path) == [temporary]
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def write_and_fail():
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_place_of_the_old_one_or_leaves_it(tmp_path):
    path = tmp_path / "model"

    def write(*names, fail=False):
        with whole_folder(path) as folder:
            for name in names:
                (folder / name).write_text(name)
            if fail:
                raise RuntimeError

    write("a", "b")
    write("c")
    assert [p.name for p in path.iterdir()] == ["c"]
    with pytest.raises(RuntimeError):
        write("d", fail=True)
    assert [p.name for p in path.iterdir()] == ["c"]
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_are_those_of_this_file(tmp_path):
    killed = beside(tmp_path / "a.json")
    killed.write_text("half")
    beside(tmp_path / "b.json").write_text("half")
    (tmp_path / "a.json").write_text("whole")
    assert leftovers(tmp_path / "a.json") == [killed]
