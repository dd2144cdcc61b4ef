"""The page on `kdlora doctor` names every finding that there is, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import kdlora
from tests.harness.evidence_frames import grid, noisy

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
CHECKS = ROOT / "src" / "kdlora" / "evidence" / "diagnosis"


def names_in_code() -> set[str]:
    """The first argument of every finding, where it is a text or one of two."""
    found: set[str] = set()
    for path in CHECKS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "DiagnosisFinding":
                parts = ast.walk(node.args[0])
                found |= {p.value for p in parts if isinstance(p, ast.Constant)}
    return {name for name in found if isinstance(name, str) and not name.endswith(":")}


def test_every_finding_stands_in_the_table() -> None:
    rows = re.findall(r"^\| (`.*`) \|", TEXT, flags=re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert listed == names_in_code()


def test_doctor_takes_a_frame_a_table_and_a_study(tmp_path: Path) -> None:
    frame = grid(noisy(0.1), tasks=["rte"])
    frame.loc[0, "score"] = 7.0
    found = kdlora.doctor(frame)
    assert found.coverage is not None
    assert found.coverage.present == len(frame)
    assert "impossible_value" in {one.name for one in found.errors}
    frame.to_csv(tmp_path / "runs.csv", index=False)
    assert {one.name for one in kdlora.doctor(tmp_path / "runs.csv").findings} >= {"no_control_arm"}
    with pytest.raises(kdlora.errors.KdloraError, match="no study 'nothing'"):
        kdlora.doctor("nothing", results=tmp_path)
