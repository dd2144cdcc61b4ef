"""The Dockerfile of an export serves its ONNX form and passes a linter."""

from __future__ import annotations

import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from kdlora.cli.app import COMMANDS
from kdlora.errors import InputError
from kdlora.records.artefact import Artefact
from kdlora.ship.dockerfile import write_dockerfile

VARIANT = {
    "name": "onnx", "runtime": "onnx", "quantization": "none", "path": "onnx/model.onnx",
    "size_mb": 1.0, "metric": "accuracy", "score": 0.9, "gate": "passed",
}  # fmt: skip


def artefact(**changes: str) -> Artefact:
    values = {"run_id": "r", "task": "sst2", "max_length": 16, "variants": [VARIANT | changes]}
    return Artefact.model_validate(values)


def test_it_serves_with_this_version_as_no_root(tmp_path: Path) -> None:
    write_dockerfile(tmp_path, artefact(), tag="My moods!")
    text = (tmp_path / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    words = [line.partition(" ")[0] for line in lines if not line.startswith(" ")]
    assert words == ["FROM", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "HEALTHCHECK", "CMD"]
    assert f"kdlora[serve]=={version('kdlora')}" in text
    assert "docker build -t my-moods ." in text
    assert '"serve", "/model"' in text
    assert "serve" in COMMANDS
    left_out = (tmp_path / ".dockerignore").read_text(encoding="utf-8").split()
    assert "model.safetensors" in left_out
    assert "onnx" not in left_out


def test_a_linter_has_nothing_to_say(tmp_path: Path) -> None:
    program = shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed: [dev]")
    write_dockerfile(tmp_path, artefact(), tag="moods")
    done = subprocess.run(
        [program, tmp_path / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("changes", [{"runtime": "torch", "name": "torch"}, {"gate": "failed"}])
def test_without_a_form_to_serve_there_is_none(tmp_path: Path, changes: dict[str, str]) -> None:
    with pytest.raises(InputError, match="add onnx to --format"):
        write_dockerfile(tmp_path, artefact(**changes), tag="moods")
    assert not list(tmp_path.iterdir())
