"""The main job with every connection refused: nothing asks out but a download."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.moods import sentences, write_csv
from tests.harness.tiny_models import save_tiny_encoder

# In every process of the job, its workers too: who asks for a connection is written down.
_REFUSE = """
import os, socket, traceback
from pathlib import Path

def _refused(self, address, *rest):
    if self.family == socket.AF_UNIX:  # the processes of one machine among themselves
        return _connect(self, address, *rest)
    told = f"{os.getpid()} {address}\\n{''.join(traceback.format_stack())}"
    with open(os.environ["ASKED"], "a") as file:
        file.write(told)
    raise ConnectionRefusedError(111, "refused by the test")

def _nobody(host, *rest, **more):
    with open(os.environ["ASKED"], "a") as file:
        file.write(f"{os.getpid()} looks up {host}\\n{''.join(traceback.format_stack())}")
    raise socket.gaierror(-2, "refused by the test")

_connect = socket.socket.connect
socket.socket.connect = socket.socket.connect_ex = _refused
socket.getaddrinfo = _nobody
Path(os.environ["ASKED"] + f".{os.getpid()}").touch()
"""


@pytest.fixture
def refused(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that reaches nobody; the hub is not switched off by a name."""
    (tmp_path / "refuse").mkdir()
    (tmp_path / "refuse" / "sitecustomize.py").write_text(_REFUSE)
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    path = os.pathsep.join([str(tmp_path / "refuse"), os.environ.get("PYTHONPATH", "")])
    return {**ours, "PYTHONPATH": path, "ASKED": str(tmp_path / "asked"), "HOME": str(tmp_path)}


# The commands one after the other in one process: they import torch once. It says which before.
_COMMANDS = """
import glob, json, sys
from kdlora.cli import main

for words in json.loads(sys.argv[1]):
    if "torch" not in sys.modules:
        print("without torch until", words[0])
    try:
        main([next(iter(glob.glob(word)), word) if "*" in word else word for word in words])
    except SystemExit as end:
        if end.code:
            raise
"""


def kdlora(folder: Path, environment: dict[str, str], *commands: list[str]) -> str:
    """What commands print that all end well; a word with a * is the file that it fits."""
    done = subprocess.run(
        [sys.executable, "-c", _COMMANDS, json.dumps(commands)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_model_is_made_and_used_without_any_connection(
    tmp_path: Path, refused: dict[str, str]
) -> None:
    for name, layers, seed in (("big", 2, 1), ("small", 1, 2)):
        save_tiny_encoder(tmp_path / name, "bert", layers=layers, seed=seed)
    texts, moods = sentences(120, 0)
    write_csv(tmp_path / "reviews.csv", review=texts, mood=moods)
    run = "out/runs/*student-kd-lora*"  # flagged or not
    said = kdlora(
        tmp_path, refused,
        ["distil", "--train", "reviews.csv", "--text", "review", "--label", "mood",
         "--teacher", "./big", "--student", "./small", "--epochs", "1", "--max-length", "32",
         "--out", "out", "--threads", "1"],
        ["report", "out"],
        ["export", run, "--to", "shipped", "--format", "torch"],
        ["status", "out"],
        ["predict", "shipped", "--text", "a good film"],
    )  # fmt: skip
    assert "pos" in said.splitlines()[-1]
    without_torch = [line.split()[-1] for line in said.splitlines() if "torch until" in line]
    assert without_torch == ["distil", "report", "export"]  # workers train and look at models
    asked = tmp_path / "asked"
    assert not asked.exists(), asked.read_text()
    assert len(list(tmp_path.glob("asked.*"))) > 5  # the workers' processes, too


def test_a_connection_would_be_seen(tmp_path: Path, refused: dict[str, str]) -> None:
    program = "import urllib.request as u; u.urlopen('http://127.0.0.1:9/')"
    done = subprocess.run([sys.executable, "-c", program], env=refused, capture_output=True)
    assert done.returncode
    assert "looks up 127.0.0.1" in (tmp_path / "asked").read_text()
