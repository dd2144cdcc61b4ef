"""The Python front door: `help` reads well, and mypy --strict accepts a user's script."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kdlora

SCRIPT = """
from pathlib import Path

import datasets  # type: ignore[import-untyped]
import pandas as pd

import kdlora
from kdlora import Study
from kdlora.api import StudyResult

rows = pd.DataFrame({"text": ["good", "bad"], "label": ["pos", "neg"]})
result: StudyResult = kdlora.distil(
    train=rows, eval=Path("dev.csv"), unlabelled=["a.csv", Path("b.csv")], text=("title", "body"),
    teacher="minilm-l6", student="minilm-l3", seeds=[1, 2], epochs=2, lr=1e-4, max_length="auto",
    windows={"pooling": "max"}, max_eval=100, hub=None, out="results/x", strict=True,
    sections={"training": {"warmup": 0.1}}, on_note=print,
)
kdlora.distil(train=[("good", "pos")], student="minilm-l3", teacher_outputs="answers.csv")
kdlora.distil(train=[{"text": "good", "label": 1}], student="minilm-l3", teacher=Path("mine"))
kdlora.distil(train=datasets.Dataset.from_pandas(rows), student="minilm-l3", windows="mean")
student: Path | None = result.student
table: pd.DataFrame = result.table()
result.plot().to_dict()
html: str = result.report.html.read_text()
first: str = str(result.predict("a text")[0]["label"])
with_answers: pd.DataFrame = result.predict(rows)

study: Study = kdlora.read_study("study.yaml", seeds=[1])
plan = kdlora.plan(study)
ids: list[str] = [run.run_id for run in plan.runs]
looks = kdlora.look({"name": "x"})
doubts: list[str] = [found.told for look in looks for found in look.of("error", "warning")]
done: StudyResult = kdlora.run("study.yaml", out=Path("x"), workers=2, only=["arm=student/*"])
files = kdlora.write_report("results/x", where=["task=rte"], out="y")
name: str = str(files.html)
surest: list[str] = [str(one.to_dict()["task"]) for one in kdlora.mistakes("results/x")]

answers = kdlora.predict("results/x/student", "one text")
cut: list[bool] = [answer["truncated"] for answer in answers]
pairs = kdlora.predict(Path("m"), [("a", "b")])
frame: pd.DataFrame = kdlora.predict(kdlora.load_predictor("m", variant="onnx"), rows)

artefact = kdlora.export_model("results/x/student", "exported", formats=["onnx"], quantize=["int8"])
size: float = artefact.variants[0].size_mb

imported = kdlora.read_results("their.csv")
folder: Path = kdlora.import_results("their.csv", study="theirs")[0]
kdlora.trim_vocabulary("xlm-roberta-base", ["a text"], "small")

runs: pd.DataFrame = kdlora.load_frame("results/x")
evidence = kdlora.compare(runs, reference="teacher/fft")
for found in kdlora.compare_arms("results/x", "student/kd-lora", ["student/lora"]):
    verdict: str = found.verdict
choices = kdlora.recommend("results/x", max_size_mb=50)
errors: int = len(kdlora.doctor("results/x").errors)
facts = kdlora.reproduce("reference", on_step=print).summary()
"""


# What such a script needs no types of; mypy takes most of its time for them.
SKIPPED = """torch transformers peft altair scipy sklearn statsmodels onnx onnxruntime pyarrow rich
sqlalchemy huggingface_hub filelock jinja2 click fastapi starlette anyio httpx httpx2 httpcore2
opentelemetry tokenizers"""
CONFIG = f"""
[mypy]
strict = true
follow_imports = silent
[mypy-{",".join(f"{name}.*" for name in SKIPPED.split())}]
follow_imports = skip
follow_imports_for_stubs = true
ignore_missing_imports = true
"""


@pytest.mark.slow
def test_a_script_that_uses_every_public_function_is_typed(tmp_path):
    package = Path(kdlora.__file__).parent
    assert (package / "py.typed").is_file()  # else no user's mypy reads the types
    called = set(re.findall(r"kdlora\.(\w+)\(", SCRIPT))
    assert {name for name in kdlora.__all__ if name[0].islower()} <= called
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    (tmp_path / "mypy.ini").write_text(CONFIG, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=mypy.ini", "--cache-dir=cache", "script.py"],
        env={**os.environ, "MYPYPATH": str(package.parent)},
        cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["distil", "run"])
def test_help_describes_every_argument(name):
    function = getattr(kdlora, name)
    told, signature = inspect.getdoc(function), inspect.signature(function)
    assert told is not None
    described = told.partition("Args:")[2]
    names = [name for name in signature.parameters if name != "study"]
    assert [name for name in names if not re.search(rf"\b{name}\b[\w, ]*:", described)] == []
    assert "0x" not in str(signature)  # a default that is shown by its address
