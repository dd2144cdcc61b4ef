"""A fuzzer that knows the server by its `/openapi.json` alone finds nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.harness.exported import save_exported
from tests.harness.serving import serving

FUZZER = shutil.which("schemathesis")


@pytest.mark.skipif(FUZZER is None, reason="the command schemathesis is not installed")
def test_the_schema_and_the_answers_agree(tmp_path: Path) -> None:
    with serving(save_exported(tmp_path / "moods", pairs=True)) as (_, port):
        url = f"http://127.0.0.1:{port}"
        command = [str(FUZZER), "--config-file", str(Path(__file__).with_name("schemathesis.toml"))]
        command += ["run", f"{url}/openapi.json", "--url", url, "--seed", "1", "--no-color"]
        command += ["--max-examples", "15", "--phases", "examples,coverage,fuzzing"]
        found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=280)
    assert found.returncode == 0, found.stdout[-3000:]
    assert "No issues found" in found.stdout
