from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn, optim
from transformers import get_linear_schedule_with_warmup

from kdlora.spec.sections import Training
from kdlora.training.schedule import evaluation_steps, make_schedule


@given(
    st.integers(1, 500), st.integers(1, 64), st.integers(1, 5), st.floats(0, 0.9), st.integers(1, 4)
)
def test_the_plan_fits_the_data(n, batch, epochs, warmup, evals):
    training = Training(batch_size=batch, epochs=epochs, warmup=warmup, evals_per_epoch=evals)
    schedule = make_schedule(n, training, 1e-3)
    assert schedule.total_steps == -(-n // batch) * epochs
    assert 0 <= schedule.warmup_steps < max(schedule.total_steps, 1)
    rates = [schedule.lr(s) for s in range(schedule.total_steps)]
    assert all(0 < rate <= 1e-3 + 1e-12 for rate in rates)
    steps = evaluation_steps(schedule, evals)
    assert schedule.total_steps in steps
    assert all(0 < s <= schedule.total_steps for s in steps)


def test_the_decay_equals_that_of_transformers():
    schedule = make_schedule(320, Training(batch_size=32, epochs=4, warmup=0.0), 1e-3)
    optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=1e-3)
    theirs = get_linear_schedule_with_warmup(optimizer, 0, 40)
    for step in range(40):
        assert schedule.lr(step) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


def test_warm_up_climbs_to_the_peak_and_the_end_is_near_zero():
    schedule = make_schedule(1000, Training(batch_size=10, epochs=1, warmup=0.1), 2e-3)
    assert schedule.warmup_steps == 10
    assert schedule.lr(0) == pytest.approx(2e-4)
    assert schedule.lr(9) == pytest.approx(2e-3)
    assert schedule.lr(99) == pytest.approx(2e-3 / 90)
    assert schedule.lr(100) == 0


def test_evaluations_are_spread_over_each_epoch():
    schedule = make_schedule(1000, Training(batch_size=10, epochs=2), 1e-3)
    assert evaluation_steps(schedule, 1) == {100, 200}
    assert evaluation_steps(schedule, 4) == {25, 50, 75, 100, 125, 150, 175, 200}
