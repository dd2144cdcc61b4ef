from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn, optim
from transformers import get_linear_schedule_with_warmup

from kdlora.spec.sections import MOST_EPOCHS, Training
from kdlora.training.schedule import evaluation_steps, make_schedule, steps_of


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


@given(
    st.integers(1, 3000), st.integers(1, 64), st.integers(1, 9), st.integers(0, 2000),
    st.integers(0, 3000),
)  # fmt: skip
def test_a_floor_of_steps_adds_whole_epochs_and_no_more_than_needed(n, batch, epochs, floor, more):
    training = Training(batch_size=batch, epochs=epochs, min_steps=floor)
    per_epoch, total = steps_of(n, training, counted=more)
    assert per_epoch == -(-n // batch)
    lasting = -(-(n + more) // batch)
    passes, left = divmod(total, lasting)
    assert left == 0
    assert epochs <= passes <= max(epochs, MOST_EPOCHS)
    assert passes == epochs or total - lasting < floor
    assert total >= floor or passes >= MOST_EPOCHS


def test_texts_that_only_count_give_as_many_steps_as_learning_from_them():
    training = Training(batch_size=32, epochs=3)
    alone = make_schedule(1000, training, 1e-3, counted=5000)
    assert alone.total_steps == make_schedule(6000, training, 1e-3).total_steps == 3 * 188
    assert alone.steps_per_epoch == 32
    assert alone.epochs == pytest.approx(17.625)
    assert max(evaluation_steps(alone, 1)) == alone.total_steps
