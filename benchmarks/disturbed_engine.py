"""An engine that is going to be killed: started often, so it loads no more than `kdlora run` does.

Called with the study's folder, the file of its runs as JSON, and the seconds after which a silent
worker's run is taken over.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from kdlora.engines.local import run_plan
from kdlora.engines.selection import RunSelection
from kdlora.engines.supervisor import EngineOptions
from kdlora.records.store import Store
from kdlora.spec.plan import Plan
from kdlora.spec.run import read_run


def work(folder: Path, runs: Path, expiry_s: float) -> None:
    """Do what is not done of the runs in the file."""
    store = Store(folder)
    store.prepare()
    plan = Plan([read_run(values) for values in json.loads(runs.read_text(encoding="utf-8"))])
    options = EngineOptions(threads=1, expiry_s=expiry_s, selection=RunSelection(retry_failed=True))
    run_plan(plan, store, options)


if __name__ == "__main__":
    work(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
