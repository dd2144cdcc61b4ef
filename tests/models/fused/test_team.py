"""Texts shared out to threads, against the same computed by one."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdlora.models.fused import team as teams
from kdlora.models.fused.forward import fuse
from kdlora.models.fused.team import Team, shares, side_by_side
from tests.harness.fused import FAMILIES, VARIANTS, assert_same, gradients, trained
from tests.harness.models import adapt, load
from tests.harness.tiny_models import tiny_batch


@pytest.mark.parametrize("family", FAMILIES)
def test_families(encoder, family, two_threads):
    model, batch = trained(encoder, family, "lora", targets=("all-linear",))
    forward = fuse(model, torch.float32)
    assert_same(model, batch, forward, tolerance=2e-5)
    assert forward.team is not None


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(encoder, variant, two_threads):
    model, batch = trained(encoder, "bert", variant)
    forward = fuse(model, torch.float32)
    assert_same(model, batch, forward, tolerance=2e-5)
    assert (forward.team is None) == (variant == "fft")  # large gradients are not added up
    with torch.inference_mode():
        torch.testing.assert_close(forward(batch), model(**batch).logits, rtol=2e-5, atol=2e-5)
    assert forward.team is not None


def test_dropout_follows_the_seed_whoever_is_first(encoder, two_threads):
    loaded = load(encoder("bert"), dropout=0.3)
    batch = tiny_batch(loaded.tokenizer)
    model = adapt(loaded, "lora").train()
    forward = fuse(model, torch.float32)

    def once(seed):
        torch.manual_seed(seed)
        logits = forward(batch)
        return logits.detach(), gradients(model, logits)

    first, wanted = once(1)
    for _ in range(20):
        again, found = once(1)
        assert torch.equal(first, again)
        assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert not torch.equal(first, once(2)[0])


def test_shares_differ_in_what_is_dropped_and_follow_the_seed(encoder, two_threads):
    loaded = load(encoder("bert"), dropout=0.5)
    batch = {name: value[:1].repeat(2, 1) for name, value in tiny_batch(loaded.tokenizer).items()}
    forward = fuse(adapt(loaded, "lora").train(), torch.float32)
    logits = forward(batch)
    assert not torch.equal(logits[0], logits[1])

    def encoded(seed):  # before the head, which has a dropout of its own
        torch.manual_seed(seed)
        return forward._encode(forward._embed(batch), None)

    first = encoded(1)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first, encoded(1))
    assert not torch.equal(first, encoded(2))


@given(
    texts=st.integers(1, 600),
    length=st.integers(1, 512),
    width=st.sampled_from([128, 384, 768, 1024]),
    threads=st.integers(1, 64),
)
def test_shares_are_even_and_worth_a_thread(texts, length, width, threads):
    sizes = shares(texts, length, width, threads)
    assert sum(sizes) == texts
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) <= threads
    assert len(sizes) == 1 or texts * length * width >= len(sizes) * teams.LEAST


def test_gradients_are_those_of_the_whole(two_threads):
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(4, 3, generator=generator))
    unused = torch.nn.Parameter(torch.ones(2))
    parts = torch.randn(6, 4, generator=generator).split([3, 2, 1])
    whole = torch.cat(parts)
    team = Team(3)
    out = side_by_side(team, lambda i: (parts[i] @ weight).tanh(), [3, 2, 1], [weight, unused])
    torch.testing.assert_close(out, (whole @ weight).tanh())
    out.square().sum().backward()
    found, weight.grad = weight.grad, None
    (whole @ weight).tanh().square().sum().backward()
    torch.testing.assert_close(found, weight.grad)
    assert unused.grad is None


def test_a_thread_uses_one_core_and_the_caller_as_many_as_before(two_threads):
    team = Team(2)
    assert team.each(lambda i: torch.get_num_threads(), 2) == [1, 1]
    seen = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert [torch.get_num_threads(), *seen] == [2, 2]


def test_what_goes_wrong_in_a_thread_reaches_the_caller_and_holds_no_memory(two_threads):
    made = []

    def fail(i):
        out = torch.ones(1)
        made.append(weakref.ref(out))
        if i == 1:
            raise RuntimeError("not enough memory: you tried to allocate")
        return out

    gc.disable()
    try:
        with pytest.raises(RuntimeError, match="not enough memory") as caught:
            side_by_side(Team(2), fail, [1, 1], [])
        del caught
        assert [ref() for ref in made] == [None, None]
    finally:
        gc.enable()


def test_a_team_that_cannot_be_made_leaves_nothing_behind(two_threads, monkeypatch):
    started, start = [], threading.Thread.start

    def start_one(self):
        if started:
            raise RuntimeError("can't start new thread")
        started.append(self)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    with pytest.raises(RuntimeError, match="can't start"):
        Team(2)
    monkeypatch.undo()
    assert torch.get_num_threads() == 2
    started[0].join(timeout=10)
    assert not started[0].is_alive()


def test_where_no_threads_can_be_started_the_caller_computes_all(encoder, two_threads, monkeypatch):
    model, batch = trained(encoder, "bert", "lora")
    forward = fuse(model, torch.float32)
    tried = []

    def refuse(self):
        tried.append(self)
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.warns(UserWarning, match="can't start new thread"):
            logits = forward(batch)
        torch.testing.assert_close(logits, model(**batch).logits, rtol=2e-5, atol=2e-5)
        assert_same(model, batch, forward, tolerance=2e-5)
    assert len(tried) == 1  # not again at every step
    assert forward.team is None


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_the_callers_mode_is_handed_on(two_threads, mode):
    seen = []

    def encode(i):
        seen.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))
        return torch.ones(1)

    with mode():
        side_by_side(Team(2), encode, [1, 1], [])
    assert seen == [(mode is torch.inference_mode, False)] * 2
