"""Reports of synthetic studies."""

from __future__ import annotations

from kdlora.report.content.parts import ReportInputs
from kdlora.report.content.study import build as build_report
from tests.harness.studies import make_histories

SPEC = {"name": "synthetic", "tasks": ["rte"], "seeds": [42, 43], "base_dir": "/home/someone"}


def report_of(frame, **changes):
    values = {"title": "A study", "spec": SPEC, "histories": lambda: make_histories(frame)}
    return build_report(frame, ReportInputs(**values | changes))
