"""The simulation of verdicts, in small: error rates within their Monte-Carlo error."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import evidence
from benchmarks.evidence import broken, measure, page, simulate
from benchmarks.simulated_studies import Design, draw

STUDIES = 80
HARD = (
    Design("one noisy task of one run", tasks=3, seeds=3, one_seed_tasks=1, uneven=5),
    Design("a shared teacher", tasks=2, pairs=3, seeds=3, shared=True),
    Design("one seed with a common effect", tasks=7, seed_correlation=0.15),
    Design("two seeds, one noisy task", tasks=3, seeds=2, uneven=5),
    Design("texts alone", texts=300),
    Design("texts and seeds", texts=200, seeds=3, seed_spread=1.5),
)


@pytest.mark.parametrize("design", HARD, ids=lambda d: d.name)
def test_no_promise_is_broken_where_verdicts_used_to_be_false(design: Design) -> None:
    line = measure(design, STUDIES, seed=1)
    assert line["useful"] == 1
    assert broken(line) == []
    for rates in filter(None, line["scopes"].values()):
        assert rates["made"] == 1  # the design alone decides
        assert rates["power"] > 0.05


def test_a_rate_that_is_too_high_is_named() -> None:
    line = measure(Design("texts alone", texts=100), 20, seed=2)
    line["scopes"]["trained models"] |= {"false": 0.5, "coverage": 0.5}
    assert len(broken(line)) == 2
    assert "Broken promises: texts alone, trained models: false 0.500" in page([line])


def test_what_is_drawn_has_the_truth_that_it_says() -> None:
    rng = np.random.default_rng(0)
    drawn = draw(Design("d", tasks=4, pairs=2, seeds=2, task=3, noise=0.0), 3, rng, 1.5)
    table = drawn.study.table
    means = table.groupby("arm")["score"].mean()
    for (a, b), truth in zip(drawn.contrasts, drawn.tasks, strict=True):
        assert means[a] - means[b] == pytest.approx(truth)
    design = Design("d", texts=20_000, accuracy=0.8)
    drawn = draw(design, 1, rng, 4.0)
    (run_a, run_b) = drawn.study.table["run_id"]
    right = [
        float(
            (drawn.study.outputs[run].outputs.argmax(1) == drawn.study.outputs[run].labels).mean()
        )
        for run in (run_a, run_b)
    ]
    assert right == pytest.approx([0.84, 0.80], abs=0.01)


def test_designs_that_are_done_are_not_simulated_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tmp_path / "lines.jsonl"
    monkeypatch.setattr(evidence, "designs", lambda: [Design("d", tasks=3, seeds=3)])
    first = simulate(lines, 5)
    monkeypatch.setattr(evidence, "measure", lambda *_: pytest.fail("simulated again"))
    assert simulate(lines, 5) == json.loads(json.dumps(first))
    assert len(lines.read_text().splitlines()) == 1


def test_a_run_that_was_ended_says_what_it_lacks(tmp_path: Path) -> None:
    assert simulate(tmp_path / "lines.jsonl", 5, minutes=0) == []
    line = measure(Design("d", tasks=3, seeds=3), 5)
    assert "Not yet simulated: a task of one run" in page([line])


def test_every_design_has_a_name_of_its_own() -> None:
    names = [design.name for design in evidence.designs()]
    assert len(set(names)) == len(names)
