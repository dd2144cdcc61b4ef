"""A command that is killed leaves what was there before or what it makes, and the next one clears.

Reports, which are many files, have tests of their own (`report/test_place.py`); so have exports.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kdlora.models import vocabulary
from kdlora.records.imported import TABLE, is_imported, load_imported, read_provenance
from kdlora.records.vocabulary_cut import read_cut
from tests.harness.commands import in_process
from tests.harness.kills import killed_at_any_time, killed_at_every_change
from tests.harness.tiny_models import WORDS, save_tiny_encoder

WAYS = [killed_at_every_change, killed_at_any_time]
Way = Callable[..., object]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def do(*words: object, cwd: Path) -> None:
    done = in_process(*words, cwd=cwd)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("earlier", [True, False])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_killed_import_is_the_old_or_the_new(tmp_path: Path, way: Way, earlier: bool) -> None:
    """The table and what is known of it never belong to two imports."""
    for name, score in (("old", 0.5), ("new", 0.75)):
        rows = "".join(f"rte,{arm},1,{score}\n" for arm in ("teacher/fft", "student/kd-lora"))
        (tmp_path / f"{name}.csv").write_text("task,arm,seed,accuracy\n" + rows)
    folder = tmp_path / "results" / "x"
    scores = {"new.csv": 0.75}
    if earlier:
        scores["old.csv"] = 0.5
        do("import", "old.csv", "--as", "x", cwd=tmp_path)

    def again() -> None:
        # Who was killed is called again with the same words.
        replace = ("--replace",) if earlier else ()
        if not earlier and is_imported(folder):
            return
        do("import", "new.csv", "--as", "x", *replace, cwd=tmp_path)

    def check(killed: int) -> None:
        if not earlier and not is_imported(folder):
            return
        known = read_provenance(folder)
        assert set(load_imported(folder)["score"]) == {scores[known.source]}

    way(again, check)
    assert read_provenance(folder).source == "new.csv"
    assert "replaces" not in json.loads((folder / "imported.json").read_text())
    assert {path.name for path in folder.iterdir()} == {TABLE, "imported.json"}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_killed_trim_is_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    # A process that was forked must not use the threads of torch; nothing is written there.
    monkeypatch.setattr(vocabulary, "_compare_states", lambda *rest: None)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    save_tiny_encoder(tmp_path / "whole", layers=1)
    texts = [" ".join(WORDS[i : i + 5]) for i in range(60)]
    for name, few in (("old", texts[:20]), ("new", texts)):
        (tmp_path / f"{name}.txt").write_text("\n".join(few))
    given = ("trim", "whole", "--keep", "1", "--json", "--to")
    for name in ("old", "new"):
        do(*given, name, "--corpus", f"{name}.txt", cwd=tmp_path)
    target = tmp_path / "small"
    do(*given, "small", "--corpus", "old.txt", cwd=tmp_path)
    allowed = (contents(tmp_path / "old"), contents(tmp_path / "new"))
    assert allowed[0] != allowed[1]

    way(
        lambda: do(*given, "small", "--corpus", "new.txt", "--replace", cwd=tmp_path),
        lambda killed: pytest.fail("half") if contents(target) not in allowed else None,
    )
    assert contents(target) == allowed[1]
    assert read_cut(target).counted_texts == 54
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
