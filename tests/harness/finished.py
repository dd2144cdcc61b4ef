"""A study whose runs are all done, where nobody reads the report that `kdlora.run` ends with."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from kdlora.engines.local import run_plan
from kdlora.engines.supervisor import EngineOptions
from kdlora.records.frame import load_frame, save_plan
from kdlora.records.store import Store
from kdlora.spec.plan import make_plan
from kdlora.spec.study import Study
from tests.harness.moods import Corner


def share_costs(corner: Corner, folder: Path) -> Path:
    """The folder of a study that times no shape of model which another study of the corner did."""
    place, kept = Store(folder).costs, corner.folder / "costs"
    kept.mkdir(exist_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        place.symlink_to(kept, target_is_directory=True)
    return folder


def finished(corner: Corner, study: Study, folder: Path, *, workers: int = 1) -> pd.DataFrame:
    """Do what is missing of a study, and return its frame.

    A report and a student to ship take longer than all the runs of a tiny study.
    """
    plan, store = make_plan(study), Store(share_costs(corner, folder))
    store.prepare()
    save_plan(store, study, plan)
    status = run_plan(plan, store, EngineOptions(workers=workers, threads=1))
    failures = [store.read_failure(i) for i, state in status.items() if state == "failed"]
    assert set(status.values()) == {"done"}, [found.error for found in failures if found]
    return load_frame(folder)
