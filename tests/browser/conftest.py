"""A real browser without a network, and pages for it; tests skip where there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from kdlora.report import build
from kdlora.report.content.parts import ReportInputs
from tests.harness.studies import make_frame, make_histories, put, with_prefix

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Chromium of the system (KDLORA_BROWSER names another), headless."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: [dev]")
    given = os.environ.get("KDLORA_BROWSER")
    path = given or next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser found (looked for {', '.join(NAMES)}; KDLORA_BROWSER names one)")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


def study() -> pd.DataFrame:
    """Two pairs, three tasks, two seeds: something of everything, with a flag and a failure."""
    frames = []
    for pair in ("minilm-l6--minilm-l3", "bert--distilbert"):
        own = make_frame(("rte", "cola", "sst2"), pair=pair)
        frames.append(with_prefix(own, f"{pair[:4]}-"))
    frame = pd.concat(frames, ignore_index=True)
    where = {"task": "rte", "arm": "student/lora", "seed": 42}
    flags = {"flags": ("never_improved",), "flag_details": ("no better than at first",)}
    return put(frame, where, **flags, size_mb=71.25, score=0.6543)


@pytest.fixture(scope="session")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frame = study()
    out = tmp_path_factory.mktemp("page")
    inputs = ReportInputs("A study", {"name": "x"}, histories=lambda: make_histories(frame))
    return build.write_report(frame, out, inputs).html
