"""With clocks of our own: every call of a model takes as long as we say."""

from __future__ import annotations

import numpy as np
import pytest

from kdlora.ship.export_timing import TEACHER, time_calls, timings_of

COST = {TEACHER: 0.030, "onnx-int8": 0.002}  # seconds of a single text


class Clock:
    """Wall and processor time that pass only while a model computes."""

    def __init__(self) -> None:
        self.now = self.busy = 0.0
        self.calls: list[tuple[str, tuple[int, int]]] = []

    def call(self, name: str):
        def pass_(feed: dict[str, np.ndarray]) -> None:
            batch, length = feed["input_ids"].shape
            assert feed["attention_mask"].all()
            assert feed["input_ids"].max() < 50
            self.calls.append((name, (batch, length)))
            self.busy += COST[name] * batch
            self.now += COST[name] * batch

        return pass_


@pytest.fixture
def clock() -> Clock:
    return Clock()


def run(clock: Clock, *names: str, longest: int = 512):
    return time_calls(
        {name: clock.call(name) for name in names},
        vocabulary=50,
        longest=longest,
        threads=1,
        rng=np.random.default_rng(0),
        clock=lambda: clock.now,
        processor_clock=lambda: clock.busy,
    )


def test_ratios_and_throughput_follow_from_the_times(clock: Clock) -> None:
    timed = run(clock, TEACHER, "onnx-int8")
    single, longer, batch = timings_of("onnx-int8", timed, threads=1)
    assert [(t.batch, t.length) for t in (single, longer, batch)] == [(1, 32), (1, 128), (32, 32)]
    assert single.latency_p50_ms == pytest.approx(2.0)
    assert single.teacher_latency_p50_ms == pytest.approx(30.0)
    assert single.ratio == pytest.approx(15.0)
    assert single.processor_ms == pytest.approx(2.0)
    assert single.teacher_processor_ms == pytest.approx(30.0)
    assert batch.throughput_per_s == pytest.approx(500.0)
    assert batch.teacher_throughput_per_s == pytest.approx(1 / 0.030)


def test_models_take_turns_at_every_shape(clock: Clock) -> None:
    run(clock, TEACHER, "onnx-int8")
    names = [name for name, _ in clock.calls]
    assert names == [TEACHER, "onnx-int8"] * (len(names) // 2)


def test_lengths_are_cut_to_what_the_models_take(clock: Clock) -> None:
    timed = run(clock, "onnx-int8", longest=32)
    assert [(t.batch, t.length) for t in timed] == [(1, 32), (32, 32)]
    (alone, _) = timings_of("onnx-int8", timed, threads=1)
    assert alone.ratio is None
    assert alone.teacher_latency_p50_ms is None
    assert alone.teacher_processor_ms is None
