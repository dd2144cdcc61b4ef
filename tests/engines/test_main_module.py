"""Workers start wherever a study is started from, and never run the user's main module again."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Without a guard: whoever runs this a second time starts another worker. It prints instead of
# training, which takes the time that torch needs to load; the README's example trains.
PROGRAM = """\
print("begins", flush=True)
from kdlora.engines.local import WorkerProcess
worker = WorkerProcess(target=print, args=("done",))
worker.start()
worker.join()
"""

# Python would run a main module again by its path, by its name, or not at all.
FORMS = {
    "a script": ["program.py"],
    "a package": ["-m", "package"],
    "a prompt": ["-i", "-"],
    "a notebook's cell": ["-c", "exec(compile(open('program.py').read(), '<cell 1>', 'exec'))"],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_worker_may_be_started_from(form, tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    for file in (tmp_path / "program.py", package / "__main__.py"):
        file.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, *FORMS[form]],
        cwd=tmp_path, input=PROGRAM, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["begins", "done"], done.stdout + done.stderr
    assert (done.returncode, "Error" in done.stderr) == (0, False), done.stderr
