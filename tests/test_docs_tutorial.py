"""The tutorial's commands, one after the other, on tiny encoders and a set of its own."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.harness.commands import in_process
from tests.harness.moods import sentences, write_csv
from tests.harness.serving import get, serving
from tests.harness.tiny_models import save_tiny_encoder

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "tutorial.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
]


def test_every_command_does_what_the_tutorial_says(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the export to ONNX: pip install 'kdlora[onnx]'")
    for name, family in (("minilm-l6", "bert"), ("minilm-l3", "distilbert")):
        sizes = {"width": 64, "layers": 1, "initializer_range": 0.1}
        save_tiny_encoder(tmp_path / "encoders" / name, family, **sizes)
    messages, queues = sentences(400, 3)
    write_csv(tmp_path / "tickets.csv", message=messages, queue=queues)
    told = []
    for program, *words in COMMANDS:
        assert program == "kdlora"
        given = [f"encoders/{w}" if w in ("minilm-l6", "minilm-l3") else w for w in words]
        if given[0] == "serve":
            with serving(tmp_path / given[1]) as (_, port):
                assert get(port, "/health")[0] == 200
            continue
        if given[0] == "distil":  # threads of tiny models wait for each other more than they work
            given += ["--threads", "1"]
        done = in_process(*given, cwd=tmp_path)
        assert done.returncode == 0, (given, done.stdout, done.stderr)
        told.append(given[0])
    assert told == ["look", "distil", "report", "mistakes", "recommend", "calibrate", "export",
                    "predict", "predict"]  # fmt: skip
    assert (tmp_path / "out" / "tickets" / "onnx" / "model_int8.onnx").is_file()
    assert len((tmp_path / "answers.csv").read_text(encoding="utf-8").splitlines()) == 401
