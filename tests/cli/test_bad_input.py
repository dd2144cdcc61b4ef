"""Every mistake a newcomer makes: one clear message, exit code 2, nothing written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from kdlora.cli.app import COMMANDS
from kdlora.cli.study import StudyFolder
from tests.harness.commands import in_process
from tests.harness.moods import sentences, write_csv


def texts_and(labels: list, n: int = 60) -> dict[str, list]:
    return {"review": sentences(n, 0)[0], "mood": (labels * n)[:n]}


def distil(folder: Path, corner, changed: dict[str, object] | None = None, **files):
    """Run `kdlora distil` on files made of columns; `train` and `eval` default to good ones.

    `changed` are options by name, beside the usual ones or in their place.
    """
    for name in ("train", "eval"):
        if not (folder / f"{name}.csv").exists():
            write_csv(folder / f"{name}.csv", **files.get(name, texts_and(["pos", "neg"])))
    before = {p.name for p in folder.iterdir()}
    options = {
        "train": "train.csv", "eval": "eval.csv", "text": "review", "label": "mood",
        "teacher": corner.teacher, "student": corner.student, "out": "out", **(changed or {}),
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    done = in_process("distil", *words, cwd=folder)
    assert "Traceback" not in done.stderr, done.stderr
    assert {p.name for p in folder.iterdir()} == before, "something was written"
    assert done.returncode == 2, done.stdout + done.stderr
    return done.stderr


NUMBERS = [str(n) for n in range(60)]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"train": {"text": ["a"], "mood": ["x"]}}, ["'review'", "text", "mood"]),
        ({"train": texts_and(["pos"])}, ["one class", "pos"]),
        ({"eval": texts_and(["pos", "neutral"])}, ["neutral"]),
        ({"train": texts_and(["pos", "neg", "pos", ""])}, ["row", "label"]),
        ({"train": {"review": NUMBERS, "mood": ["pos", "neg"] * 30}}, ["review", "numbers"]),
        ({"train": {"review": [], "mood": []}}, ["train.csv"]),
    ],
    ids=["wrong column", "one class", "new label", "empty label", "numbers as text", "no rows"],
)  # fmt: skip
def test_unusable_data(corner, tmp_path, files, expected):
    message = distil(tmp_path, corner, **files)
    for part in expected:
        assert part in message


def test_several_problems_come_in_one_message(corner, tmp_path):
    message = distil(tmp_path, corner, {"rank": 0, "adaptation": "lorra", "epochs": -1})
    assert "Did you mean 'lora'" in message
    assert "adapter.rank" in message
    assert "training.epochs" in message


def test_a_missing_file_and_an_unknown_model(corner, tmp_path):
    message = distil(tmp_path, corner, {"train": "nope.csv", "student": "./no-such-model"})
    assert "no train file at" in message
    assert "no model folder at" in message


def test_an_empty_file(corner, tmp_path):
    (tmp_path / "train.csv").touch()
    assert "is empty" in distil(tmp_path, corner)


def test_another_encoding(corner, tmp_path):
    (tmp_path / "train.csv").write_bytes("review,mood\ncaf\xe9 film,pos\n".encode("latin-1") * 40)
    message = distil(tmp_path, corner)
    assert "UTF-8" in message


def test_duplicate_ids(corner, tmp_path):
    train = {"key": ["k1"] * 2 + [f"k{i}" for i in range(2, 60)], **texts_and(["pos", "neg"])}
    evaluation = {"key": [f"e{i}" for i in range(60)], **texts_and(["pos", "neg"])}
    message = distil(tmp_path, corner, {"id": "key"}, train=train, eval=evaluation)
    assert "k1" in message


def test_the_same_id_in_both_files(corner, tmp_path):
    train = {"key": [f"k{i}" for i in range(60)], **texts_and(["pos", "neg"])}
    evaluation = {"key": [f"k{i + 59}" for i in range(60)], **texts_and(["neg", "pos"])}
    message = distil(tmp_path, corner, {"id": "key"}, train=train, eval=evaluation)
    assert "k59" in message


def test_an_output_folder_that_cannot_be(corner, tmp_path):
    (tmp_path / "taken").write_text("a file")
    message = distil(tmp_path, corner, {"out": "taken/below"})
    assert "taken" in message


def study_file(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_a_misspelt_key(tmp_path, verb):
    path = study_file(
        tmp_path,
        yaml.safe_dump(
            {
                "name": "s",
                "tasks": ["rte"],
                "pairs": [{"teacher": "minilm-l6", "student": "minilm-l3"}],
                "trainin": {"epochs": 1},
            }
        ),
    )
    done = in_process(verb, path, cwd=tmp_path)
    assert done.returncode == 2
    assert "Did you mean 'training'" in done.stderr
    assert "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["study.yaml"]


@pytest.mark.parametrize(
    "arguments",
    [["run", "nope.yaml"], ["status", "nowhere"], ["report", "nowhere"], ["predict", "nowhere",
     "--text", "x"], ["predict", "nowhere"], ["frobnicate"], ["run", "demo", "--workers", "0"]],
)  # fmt: skip
def test_wrong_calls(tmp_path, arguments):
    done = in_process(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
    assert not list(tmp_path.iterdir())


def test_a_shell_sees_one_message_and_code_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "kdlora", "run", "nope.yaml"],
        cwd=tmp_path, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_study_that_is_none_is_told_before_tables_and_statistics_are_loaded(tmp_path):
    """By every command that reads a study's folder, in one process."""
    of_a_study = [
        name
        for name, command in COMMANDS.items()
        if StudyFolder in get_type_hints(command, include_extras=True).values()
    ]
    assert {"status", "report", "compare", "recommend", "mistakes", "track"} <= {*of_a_study}
    code = (
        "import sys; from kdlora.cli import main\n"
        "for verb in sys.argv[1:]:\n"
        "    try: main([verb, 'nowhere'])\n"
        "    except SystemExit as end: print(end.code, end=' ')\n"
        "print({'numpy', 'pandas', 'pyarrow', 'scipy', 'altair'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *of_a_study],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["2"] * len(of_a_study) + ["set()"], done.stderr
