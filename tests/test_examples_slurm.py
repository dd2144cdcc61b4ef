"""The Slurm scripts: read by bash, and their inner command run as several processes at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kdlora.records.store import Store
from kdlora.spec.plan import make_plan
from tests.harness.finished import share_costs

SCRIPTS = Path(__file__).resolve().parent.parent / "examples" / "slurm"

# Starts the command once for each task, as Slurm does, but on this machine.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for task in 1 2; do "$@" & done
wait
"""


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.sbatch")), ids=lambda path: path.stem)
def test_bash_reads_it_and_slurm_its_options(path):
    subprocess.run(["bash", "-n", path], check=True)
    lines = path.read_text().splitlines()
    options = [n for n, line in enumerate(lines) if line.startswith("#SBATCH")]
    first_command = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    assert options
    assert max(options) < first_command  # Slurm does not see those behind a command
    assert (SCRIPTS / path.name).read_text().startswith("#!/bin/bash")
    missing = subprocess.run(["bash", path], capture_output=True, text=True, check=False)
    assert missing.returncode != 0
    assert f"usage: sbatch {path.name} STUDY" in missing.stderr


def test_two_tasks_share_one_folder(corner, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "srun").write_text(SRUN)
    (tools / "srun").chmod(0o755)
    (tools / "kdlora").write_text(f'#!/bin/bash\nexec {sys.executable} -m kdlora "$@"\n')
    (tools / "kdlora").chmod(0o755)
    training = corner.study().training.model_dump() | {"epochs": 1}
    study = corner.study(arms=["teacher/fft", "student/kd-lora"], training=training)
    path, out = tmp_path / "study.yaml", share_costs(corner, tmp_path / "out")
    path.write_text(yaml.safe_dump(study.model_dump(mode="json")))
    environment = {
        **os.environ,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "SLURM_CPUS_PER_TASK": "1",
        "KDLORA_WORKERS": "1",
    }
    done = subprocess.run(
        ["bash", SCRIPTS / "workers.sbatch", path, out],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    store, said = Store(out), done.stdout
    for run in make_plan(study).runs:
        assert store.is_done(run.run_id), done.stderr
        (lease,) = store.folder(run.run_id).glob("lease-*")
        # A task that did not see in time that a run is done takes its lease, and finds it done.
        assert lease.name in ("lease-000001", "lease-000002"), "a task took a run twice"
    assert "Traceback" not in done.stderr
    assert (out / "report.html").is_file(), said
