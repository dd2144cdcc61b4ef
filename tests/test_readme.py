"""The README's Python example does what it says when it is put into a file and run.

Every connection is refused to it, and to the commands that follow: nothing asks out but a download.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kdlora
from tests.harness.moods import sentences, write_csv
from tests.harness.tiny_models import save_tiny_encoder

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")

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


# What follows the study, in its process: it needs torch only now, since workers trained and merged.
_COMMANDS = """
import sys
from kdlora.cli import main

folder = str(result.student.parent)
for words in (
    ["report", folder],
    ["status", folder],
    ["export", folder, "--to", "shipped", "--format", "torch"],
    ["predict", "shipped", "--text", "a good film"],
):
    assert words[0] in ("export", "predict") or "torch" not in sys.modules
    try:
        main(words)
    except SystemExit as end:
        if end.code:
            raise
"""


def test_the_python_example_run_as_a_file_gives_a_student_that_predicts(
    tmp_path: Path, refused: dict[str, str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    for name, family in (("roberta-base", "roberta"), ("distilroberta-base", "distilbert")):
        assert f'"{name}"' in example  # the hub's models, here two folders of their names
        # of a size and a spread of weights that learn at the example's default learning rates
        sizes = {"width": 128, "layers": 1, "initializer_range": 0.1}
        save_tiny_encoder(tmp_path / name, family, max_position_embeddings=130, **sizes)
    for name, n, seed in (("train", 600, 3), ("dev", 100, 4)):
        texts, moods = sentences(n, seed)
        write_csv(tmp_path / f"{name}.csv", review=texts, stars=moods)
    example = example.replace("kdlora.distil(", "kdlora.distil(threads=1, ")  # tiny models
    trains, line, predicts = example.partition("result.frame")
    # Nothing in the example is guarded: a worker that ran it again would start its own study.
    (tmp_path / "example.py").write_text(
        f"print('begins')\n{trains}\nprint(result.student)\n{_COMMANDS}\n{line}{predicts}"
    )
    done = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path, env=refused, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    begun, student, *said = done.stdout.splitlines()
    assert begun == "begins"
    assert "begins" not in said
    assert re.search("pos|neg", said[-1])
    frame = kdlora.load_frame(tmp_path / "results" / "distil-train")
    assert set(frame["status"]) == {"done"}
    assert {"teacher/fft", "student/kd-lora"} <= set(frame["arm"])
    (answer,) = kdlora.predict(tmp_path / student, ["a film to remember"])
    assert answer["label"] in ("pos", "neg")
    asked = tmp_path / "asked"
    assert not asked.exists(), asked.read_text()
    assert len(list(tmp_path.glob("asked.*"))) > 5  # the workers' processes, too


def test_a_connection_would_be_seen(tmp_path: Path, refused: dict[str, str]) -> None:
    program = "import urllib.request as u; u.urlopen('http://127.0.0.1:9/')"
    done = subprocess.run([sys.executable, "-c", program], env=refused, capture_output=True)
    assert done.returncode
    assert "looks up 127.0.0.1" in (tmp_path / "asked").read_text()


def test_the_printed_run_has_the_numbers_of_the_page_that_it_shows() -> None:
    """`make results` writes both from the same records."""
    printed = README[README.index("<!-- printed by kdlora demo") : README.index("<!-- end -->")]
    page = (Path(__file__).resolve().parent.parent / "docs" / "results" / "demo.md").read_text()
    table = page[page.index("### The models at a glance") :]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| ")][2:]
    shown = {
        tuple(re.findall(r"[\d.,]+", "|".join([row[2], *row[5:6], *row[7:10], row[11]])))
        for row in rows
        if row[1].strip().startswith(("Teacher", "Student"))
    }
    lines = [
        line.split() for line in printed.splitlines() if re.match(r" (teacher|student) ", line)
    ]
    assert len(lines) == 3
    for score, _, kept, size, latency, speed, seconds in (line[2:] for line in lines):
        assert (score, kept, size, latency, speed, seconds) in shown
