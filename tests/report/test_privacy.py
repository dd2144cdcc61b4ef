"""A report that is shared names no machine and no folder of the one that made it."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdlora.report.build import write_report
from kdlora.report.content.parts import ReportInputs
from kdlora.report.privacy import shared, short_names, without_private
from tests.harness.studies import make_frame

HOME = "/home/carla/secret"
HOSTS = ("carlas-laptop", "node-17")


@pytest.fixture
def frame() -> pd.DataFrame:
    made = make_frame(seeds=(1, 2))
    count = len(made)
    return made.assign(
        teacher=f"{HOME}/models/big",
        student=f"{HOME}/models/small",
        encoder=[f"{HOME}/models/{'big' if r == 'teacher' else 'small'}" for r in made["role"]],
        environment=[{"host": HOSTS[i % 2], "cores": 2, "versions": {}} for i in range(count)],
        error=f"ModelError: {HOME}/models/big/config.json cannot be read",
        flag_details=[(f"rows of {HOME}/data/train.csv are few",)] * count,
    )


def test_no_file_of_a_report_holds_them(frame: pd.DataFrame, tmp_path) -> None:
    spec = {"name": "s", "pairs": [{"teacher": f"{HOME}/models/big"}], "data_dir": f"{HOME}/glue"}
    inputs = ReportInputs("A study", spec=spec, notes=(f"Read from {HOME}/data/train.csv.",))
    write_report(frame, tmp_path, inputs)
    written = [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix not in (".png", ".pdf")]
    assert len(written) > 5
    for path in written:
        text = path.read_text(encoding="utf-8")
        for private in ("carla", "secret", *HOSTS):
            assert private not in text, path.name
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "big to small" in page
    assert "Read from train.csv." in page
    environment = (tmp_path / "tables" / "environment.csv").read_text(encoding="utf-8")
    assert "machine 1" in environment
    assert "machine 2" in environment


def test_one_machine_needs_no_name(frame: pd.DataFrame) -> None:
    one = frame.assign(environment=[{"host": "node-17", "cores": 2}] * len(frame))
    shown, _ = without_private(one, ReportInputs("A"))
    assert list(shown["environment"]) == [{"cores": 2}] * len(frame)
    assert next(iter(one["environment"]))["host"] == "node-17"  # the frame given is as it was


def test_what_names_nothing_private_stays(frame: pd.DataFrame) -> None:
    public = frame.assign(
        teacher="org/big", student="minilm-l3", encoder="org/big[0,2]", error=None,
        flag_details=[("1/2 of the rows, see https://example.org/a/b",)] * len(frame),
        environment=[{"cores": 2}] * len(frame),
    )  # fmt: skip
    inputs = ReportInputs("A", spec={"tasks": ["cola", {"train": "data/train.csv"}]}, notes=("n",))
    shown, same = without_private(public, inputs)
    pd.testing.assert_frame_equal(shown, public)
    assert dataclasses.asdict(same) == dataclasses.asdict(inputs)


@pytest.mark.parametrize(
    ("given_paths", "names"),
    [
        (["/a/b/model"], ["model"]),
        (["/a/big/model", "/a/small/model"], ["big/model", "small/model"]),
        (["/x/a/m", "/y/a/m", "/z/n"], ["x/a/m", "y/a/m", "n"]),
        (["~/models/m"], ["m"]),
        (["C:\\Users\\carla\\m"], ["m"]),
        (["/a/m[0,2]"], ["m[0,2]"]),
        (["/a/m", "/a/m"], ["m"]),
    ],
)
def test_names_are_as_short_as_they_can_be(given_paths: list[str], names: list[str]) -> None:
    assert list(short_names(given_paths).values()) == names


@given(st.lists(st.from_regex(r"(/[ab]{1,2}){1,4}", fullmatch=True), max_size=6))
def test_no_two_folders_get_one_name(paths: list[str]) -> None:
    found = short_names(paths)
    assert len(set(found.values())) == len(set(paths))


def test_paths_in_sentences() -> None:
    known = {"/a/b/m": "m"}
    for text, expected in {
        "/a/b/m: no config in /a/b/m.": "m: no config in m.",
        "/a/b/m/config.json, /a/b/model": "config.json, model",
        "cannot read '/var/lib/x/y.json' (3)": "cannot read 'y.json' (3)",
        "C:\\Users\\carla\\x.csv is empty": "x.csv is empty",
        "at https://example.org/a/b, 3/4 or and/or": "at https://example.org/a/b, 3/4 or and/or",
        "org/model and ./here/there": "org/model and ./here/there",
    }.items():
        assert shared(text, known) == expected
