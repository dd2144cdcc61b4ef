"""docs/importing.md and docs/reproducing.md: every example is read, and is what the text says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import typer

import kdlora
from kdlora.cli.app import app
from kdlora.importing.mapping import ColumnMapping, Mapping, read_mapping
from kdlora.importing.results import Imported

DOCS = Path(__file__).resolve().parent.parent / "docs"
IMPORTING = (DOCS / "importing.md").read_text(encoding="utf-8")
REPRODUCING = (DOCS / "reproducing.md").read_text(encoding="utf-8")


def examples(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def read(folder: Path, name: str, content: str, **how: object) -> Imported:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return kdlora.read_results(path, **how)  # type: ignore[arg-type]


def test_the_table_of_a_paper(tmp_path):
    (content,) = examples(IMPORTING, "markdown")
    imported = read(tmp_path, "t.md", content)
    frame = imported.frame
    assert (len(frame), int(frame["status"].eq("done").sum())) == (6, 5)
    assert set(frame["pair"]) == {"bert"}
    assert set(frame.loc[frame["task"] == "mrpc", "metric"]) == {"f1"}
    assert frame["score.as_written"].str.contains("0.5").any()
    told = "\n".join(imported.problems)
    assert "rte accuracy" in told
    assert "pair: assumed" in told


def test_the_spreadsheet_the_tracker_and_the_lab(tmp_path):
    sheet, tracker, lab = examples(IMPORTING, "csv")
    frame = read(tmp_path, "sheet.csv", sheet).frame
    assert frame["train_s"].tolist() == [90.0, 135.0, 74070.0]
    assert frame["score"].tolist()[:2] == [0.715, 0.661]
    assert [bool(flags) for flags in frame["flags"]] == [False, False, True]
    frame = read(tmp_path, "tracker.csv", tracker).frame
    assert frame["status"].tolist() == ["done", "failed"]
    assert frame["train_s"].tolist()[0] == 100.5
    (mapping,) = examples(IMPORTING, "yaml")
    (tmp_path / "lab.yaml").write_text(mapping, encoding="utf-8")
    frame = read(tmp_path, "lab.csv", lab, mapping=tmp_path / "lab.yaml").frame
    assert frame["arm"].tolist() == [
        "teacher/fft", "student/kd-lora", "student/kd-lora[rank 16]", "teacher/fft",
    ]  # fmt: skip
    assert frame["status"].tolist() == ["done", "done", "done", "failed"]
    assert np.allclose(frame["score"][:3], [0.715, 0.661, 0.669])
    assert frame["train_s"].tolist()[:3] == [90.0, 135.0, 150.0]
    assert frame["trainable_params"].tolist()[0] == 109_480_000


def test_every_key_of_a_mapping_is_named():
    named = set(re.findall(r"`([a-z_]+)`", IMPORTING))
    assert set(Mapping.model_fields) - {"name", "about", "needs", "decimal"} <= named
    keys = {field.alias or name for name, field in ColumnMapping.model_fields.items()}
    assert keys <= named


@pytest.mark.parametrize(("text", "command"), [(IMPORTING, "import"), (REPRODUCING, "reproduce")])
def test_every_option_exists(text, command):
    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    known = {name for parameter in found.params for name in parameter.opts}
    ours = re.sub(r"`python [^`]*`", "", text)  # a script's own options are not the command's
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", ours))
    assert named
    assert named <= known


def test_the_figures_and_the_small_example_of_a_reproduction(tmp_path):
    from kdlora_reproductions.figures import FOLDERS

    for report, folder in FOLDERS.items():
        assert f"`{report}/{folder}/`".replace("//", "/") in REPRODUCING
    (content,) = examples(REPRODUCING, "csv")
    (tmp_path / "table.csv").write_text(content, encoding="utf-8")
    found = kdlora.reproduce(scores=tmp_path / "table.csv", draws=200)
    (report,) = found.summary()
    assert report["report"] == "000"
    assert report["reproduced"] < report["printed"]
    assert set(found.skipped) == {"001", "002", "003", "004"}


def test_the_mapping_of_the_module_is_valid(tmp_path):
    from kdlora.importing import mapping

    assert mapping.__doc__
    text = mapping.__doc__.partition("\n\n    name:")[2].partition("\n\nAn arm")[0]
    path = tmp_path / "m.yaml"
    path.write_text("name:" + text.replace("\n    ", "\n"), encoding="utf-8")
    assert read_mapping(path).name == "our-lab"
