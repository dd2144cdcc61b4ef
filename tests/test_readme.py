"""The README's Python example does what it says when it is put into a file and run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import kdlora
from tests.harness.moods import sentences, write_csv
from tests.harness.tiny_models import save_tiny_encoder

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_python_example_run_as_a_file_gives_a_student_that_predicts(tmp_path):
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
    # Nothing in the example is guarded: a worker that ran it again would start its own study.
    (tmp_path / "example.py").write_text(f"print('begins')\n{example}\nprint(result.student)\n")
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    begun, student = done.stdout.splitlines()
    assert begun == "begins"
    frame = kdlora.load_frame(tmp_path / "results" / "distil-train")
    assert set(frame["status"]) == {"done"}
    assert {"teacher/fft", "student/kd-lora"} <= set(frame["arm"])
    (answer,) = kdlora.predict(tmp_path / student, ["a film to remember"])
    assert answer["label"] in ("pos", "neg")


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
