"""Two studies that many tests of the report look at, and the reports of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import pytest

from kdlora.report.document import Report
from tests.harness.reports import report_of
from tests.harness.studies import blank, make_frame, put


@pytest.fixture(scope="session")
def one_task() -> pd.DataFrame:
    """The demo's shape: one task, five arms, two seeds, two baselines, nothing wrong."""
    return make_frame()


@pytest.fixture(scope="session")
def troubled() -> pd.DataFrame:
    """Five tasks with a flagged run, a failed one, a missing one and one of lower is better."""
    frame = make_frame(("rte", "cola", "stsb", "sst2", "toxicity"))
    frame = put(
        frame, {"task": "cola", "arm": "student/lora", "seed": 43},
        flags=("constant_predictions", "never_improved"), score=0.0, selection_score=0.01,
        flag_details=("all 1,043 report rows are predicted 'acceptable'",
                      "the selection score was best at the first evaluation"),
        flag_severities=("error", "warning"),
    )  # fmt: skip
    frame = put(frame, {"task": "rte", "arm": "teacher/lora", "seed": 42}, latency_p50_ms=np.nan,
                latency_p95_ms=np.nan, throughput_per_s=np.nan, speedup_latency=np.nan)  # fmt: skip
    frame = blank(frame, {"task": "sst2", "arm": "student/kd-lora", "seed": 43}, "failed",
                  "OutOfMemoryError: tried to allocate 512 MB\nwhile in step 17")  # fmt: skip
    return blank(frame, {"task": "stsb", "arm": "student/fft", "seed": 43}, "missing")


@pytest.fixture(scope="session")
def made(one_task, troubled) -> Callable[[str], Report]:
    """The report of a study by its fixture's name, made once."""
    frames = {"one_task": one_task, "troubled": troubled}
    return cache(lambda name: report_of(frames[name]))
