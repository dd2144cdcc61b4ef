from __future__ import annotations

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdlora.spec.sections import Training
from kdlora.training import row_updates
from kdlora.training.checkpoint import Paused
from kdlora.training.loop import NewRates, clipped_step, gradient_norm, make_optimizer
from kdlora.training.row_updates import (
    EARLY,
    FADED,
    RowAdamW,
    gradients_by_row,
    sum_by_moments,
    sum_one_by_one,
)
from tests.harness.training import fit, make_model, same

ROWS, WIDTH = 40, 6


def a_table(seed=0):
    return nn.Parameter(torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(seed)))


def an_optimizer(table, kind=RowAdamW, decay=0.1, lr=1e-2):
    return kind([table], lr=lr, weight_decay=decay, fused=True)


def steps_of(optimizer, table, steps, *, first=0, by_row=True, seed=3, rare=0.5):
    """Steps in which a few rows have a gradient, the first ones often and the last ones rarely."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(1000 * seed + step)
        chances = rare ** torch.arange(ROWS).float() + 0.004
        rows = (torch.rand(ROWS, generator=generator) < chances).nonzero()[:, 0]
        values = torch.randn(len(rows), WIDTH, generator=generator) * 10.0 ** -(step % 3)
        gradient = torch.sparse_coo_tensor(rows[None], values, (ROWS, WIDTH))
        table.grad = gradient if by_row else gradient.to_dense()
        optimizer.param_groups[0]["lr"] = 1e-2 * min(1.0, step / 20) / (1 + step / 300)
        optimizer.step()


@pytest.mark.parametrize("steps", [1, 30, 3 * FADED])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_result_is_that_of_adamw(steps, decay):
    ours, theirs = a_table(), a_table()
    mine = an_optimizer(ours, decay=decay)
    steps_of(mine, ours, steps)
    other = an_optimizer(theirs, torch.optim.AdamW, decay=decay)
    steps_of(other, theirs, steps, by_row=False)
    behind = (ours - theirs).abs().max()
    mine.settle()
    torch.testing.assert_close(ours, theirs, rtol=3e-5, atol=3e-6)
    assert steps == 1 or behind > 1e-4  # before it was settled it was another one
    for name in ("exp_avg", "exp_avg_sq"):
        one, two = mine.state[ours][name], other.state[theirs][name]
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(
    begin=st.integers(EARLY, 20_000),
    steps=st.integers(1, FADED),
    scale=st.floats(-12, 2),
    seed=st.integers(0, 99),
)
def test_the_steps_that_are_missed_add_up(begin, steps, scale, seed):
    """Both ways of adding them, and a sum in double precision, for roots of every size."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.rand(3, 5, generator=generator) * 10.0**scale
    past = torch.arange(1, steps + 1, dtype=torch.float64)
    size = torch.rand(3, 1, generator=generator, dtype=torch.float64) * 1e-4 * 0.9**past
    slope = (0.999 ** (past / 2) / (1 - 0.999 ** (begin + past)).sqrt()).expand(3, -1)
    exact = (size[:, None] / (slope[:, None] * root.double()[:, :, None] + 1e-8)).sum(2)
    for way in (sum_one_by_one, sum_by_moments):
        torch.testing.assert_close(way(root, size, slope, 1e-8).double(), exact, rtol=3e-6, atol=0)


@settings(max_examples=25, deadline=None)
@given(
    parts=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    decay=st.sampled_from([0.0, 0.01, 0.3]),
    seed=st.integers(0, 99),
)
def test_to_settle_in_between_changes_nothing(parts, decay, seed):
    often, once = a_table(seed), a_table(seed)
    settled, late = an_optimizer(often, decay=decay), an_optimizer(once, decay=decay)
    done = 0
    for part in parts:
        steps_of(settled, often, part, first=done, seed=seed)
        steps_of(late, once, part, first=done, seed=seed)
        settled.settle()
        done += part
    late.settle()
    torch.testing.assert_close(often, once, rtol=3e-5, atol=3e-6)


def test_a_step_that_is_not_finite_changes_nothing():
    table = a_table()
    optimizer = an_optimizer(table)
    steps_of(optimizer, table, 5)
    weights, state = table.detach().clone(), copy.deepcopy(optimizer.state[table])
    optimizer.found_inf = torch.ones(())
    steps_of(optimizer, table, 1, first=5)
    assert torch.equal(table, weights)
    assert optimizer.state[table]["step"] == state["step"]
    optimizer.found_inf = torch.zeros(())
    steps_of(optimizer, table, 1, first=5)
    assert not torch.equal(table, weights)


def test_a_loaded_state_goes_on_bit_for_bit():
    through, table = a_table(), a_table()
    straight, optimizer = an_optimizer(through), an_optimizer(table)
    steps_of(straight, through, 60)
    steps_of(optimizer, table, 33)
    kept = io.BytesIO()
    torch.save(optimizer.state_dict(), kept)
    kept.seek(0)
    again = an_optimizer(table)
    again.load_state_dict(torch.load(kept, weights_only=True))
    steps_of(again, table, 27, first=33)
    for one in (straight, again):
        one.settle()
    assert torch.equal(through, table)


@pytest.mark.parametrize("by_row", [True, False], ids=["dense, then rows", "rows, then dense"])
def test_a_state_of_the_other_kind_of_gradient_goes_on(by_row):
    """As a checkpoint of an earlier version, or one that goes on on another device."""
    ours, theirs = a_table(), a_table()
    mine, other = an_optimizer(ours), an_optimizer(theirs, torch.optim.AdamW)
    steps_of(mine, ours, 30, by_row=not by_row)
    steps_of(other, theirs, 30, by_row=False)
    again = an_optimizer(ours)
    again.load_state_dict(mine.state_dict())
    steps_of(again, ours, 30, first=30, by_row=by_row)
    again.settle()
    steps_of(other, theirs, 30, first=30, by_row=False)
    torch.testing.assert_close(ours, theirs, rtol=3e-5, atol=3e-6)


def test_a_gradient_is_clipped_as_a_dense_one():
    states = []
    for by_row in (True, False):
        table, bias = a_table(), nn.Parameter(torch.ones(3))
        named = {"table": table, "bias": bias}
        optimizer = make_optimizer(named, Training(), NewRates(frozenset({"bias"}), 5.0))
        for group in optimizer.param_groups:
            group["lr"] = 0.1
        twice = torch.tensor([[4, 4, 9]])  # a token that a batch has twice
        values = torch.arange(18.0).reshape(3, WIDTH)
        table.grad = torch.sparse_coo_tensor(twice, values, (ROWS, WIDTH))
        if not by_row:
            table.grad = table.grad.to_dense()
        bias.grad = torch.ones(3)
        norm = gradient_norm(named)
        clipped_step(optimizer, norm, 1.0, torch.zeros(()))
        optimizer.settle()
        states.append((norm, table.detach(), bias.detach(), optimizer.state[table]["exp_avg"]))
    for one, other in zip(*states, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_only_large_tables_that_are_trained_and_nobody_shares(monkeypatch):
    monkeypatch.setattr(row_updates, "FEWEST_ROWS", 100)
    model = nn.ModuleDict(
        {
            "large": nn.Embedding(100, 4),
            "small": nn.Embedding(99, 4),
            "frozen": nn.Embedding(100, 4).requires_grad_(False),
            "tied": nn.Embedding(100, 4),
            "output": nn.Linear(4, 100),
            "halved": nn.Embedding(100, 4, dtype=torch.bfloat16),
        }
    )
    model["output"].weight = model["tied"].weight
    names = [n for n, m in model.items() if isinstance(m, nn.Embedding)]
    with gradients_by_row(model, torch.device("cpu")):
        assert [n for n in names if model[n].sparse] == ["large"]
    assert not any(model[n].sparse for n in names)
    with gradients_by_row(model, torch.device("meta")):
        assert not any(model[n].sparse for n in names)


def trained(tmp_path, name, **changes):
    model = make_model(dropout=0.1)
    (tmp_path / name).mkdir(exist_ok=True)
    progress = fit(model, tmp_path / name, **changes)
    return progress, model


def test_a_training_by_row_is_the_training(tmp_path, monkeypatch):
    dense, model = trained(tmp_path, "dense")
    monkeypatch.setattr(row_updates, "FEWEST_ROWS", 1)
    taken = []
    step = RowAdamW._row_step
    monkeypatch.setattr(
        RowAdamW, "_row_step", lambda self, *args: (taken.append(1), step(self, *args))
    )
    by_row, other = trained(tmp_path, "rows")
    assert len(taken) >= dense.step
    begin = make_model(dropout=0.1)
    # Sums of a token's uses are rounded in another order, which moves weights whose gradient is
    # nearly nothing.
    moved, apart = (
        sum(float((one - two).detach().abs().sum()) for one, two in zip(a, b, strict=True))
        for a, b in (
            (model.parameters(), begin.parameters()),
            (model.parameters(), other.parameters()),
        )
    )
    assert apart < 0.02 * moved
    assert by_row.history[-1]["train_loss"] == pytest.approx(
        dense.history[-1]["train_loss"], rel=1e-3
    )
    assert [row["step"] for row in by_row.history] == [row["step"] for row in dense.history]
    assert not any(getattr(module, "sparse", False) for module in other.modules())


def test_a_training_by_row_resumes_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(row_updates, "FEWEST_ROWS", 1)
    _, straight = trained(tmp_path, "straight")
    for pause in (5, 8):
        with pytest.raises(Paused):
            trained(tmp_path, "paused", pause_after=pause)
    _, resumed = trained(tmp_path, "paused")
    assert same(straight, resumed)
