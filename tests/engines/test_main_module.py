"""Workers start wherever a study is started from, and never run the user's main module again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

# Without a guard: whoever runs this a second time starts the study a second time.
PROGRAM = """\
print("begins", flush=True)
from pathlib import Path
from kdlora.engines.local import run_plan
from kdlora.engines.supervisor import EngineOptions
from kdlora.records.store import Store
from kdlora.spec.plan import make_plan
from kdlora.spec.check import read_study
plan, store = make_plan(read_study("study.yaml")), Store(Path("out"))
plan.runs[:] = [run for run in plan.runs if run.arm == "baseline/majority"]
plan.cells[:] = [cell for cell in plan.cells if cell.arm == "baseline/majority"]
store.prepare()
print(*run_plan(plan, store, EngineOptions(workers=1, threads=1)).values(), flush=True)
"""

# Python would run a main module again by its path, by its name, or not at all.
FORMS = {
    "a script": ["program.py"],
    "a package": ["-m", "package"],
    "a prompt": ["-i", "-"],
    "a notebook's cell": ["-c", "exec(compile(open('program.py').read(), '<cell 1>', 'exec'))"],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_study_may_be_started_from(form, corner, tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    for file in (tmp_path / "program.py", package / "__main__.py"):
        file.write_text(PROGRAM)
    study = corner.study().model_dump(mode="json")
    Path(tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    done = subprocess.run(
        [sys.executable, *FORMS[form]],
        cwd=tmp_path, input=PROGRAM, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["begins", "done"], done.stdout + done.stderr
    assert (done.returncode, "Error" in done.stderr) == (0, False), done.stderr
