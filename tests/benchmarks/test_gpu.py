"""The check of a GPU, with the processor in its place: it passes, and sees what is wrong."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig

from benchmarks import gpu, workload
from kdlora.training import loop


@pytest.fixture
def setting(monkeypatch) -> gpu.Setting:
    tiny = BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    monkeypatch.setitem(workload.SHAPES, "tiny", tiny)
    monkeypatch.setitem(workload._QUERY_VALUE, "tiny", ["query", "value"])
    monkeypatch.setitem(workload._HEAD, "tiny", ["classifier"])
    return gpu.Setting(torch.device("cpu"), formats=(torch.float32,), shape="tiny", texts=96)


def test_all_that_needs_no_gpu_passes_without_one(setting) -> None:
    found = gpu.measure(setting, study=False)
    assert found.passed, gpu.page(found)
    assert len(found.checks) == 4
    page = gpu.page(found)
    if not torch.cuda.is_available():
        assert "stands in for a GPU" in page
        assert found.speeds == ()
    assert loop.StepCounts is gpu.StepCounts  # nothing stays replaced


def test_a_device_that_computes_something_else_fails(setting, monkeypatch) -> None:
    right = gpu.make_forward

    def wrong(model, compute):
        forward = right(model, compute)
        return forward if compute is gpu.CPU else lambda inputs: 3 * forward(inputs)

    monkeypatch.setattr(gpu, "make_forward", wrong)
    failed = [c.what for c in gpu.measure(setting, study=False).checks if not c.passed]
    assert failed == ["loss of a batch, fp32", "gradients of a batch, fp32"]


def test_a_step_that_is_not_skipped_fails(setting, monkeypatch) -> None:
    right = loop.clipped_step
    monkeypatch.setattr(
        loop, "clipped_step", lambda o, norm, clip, skipped: right(o, norm, clip, 0 * skipped)
    )
    check = gpu.skipped_step(setting, setting.compute(torch.float32))
    assert not check.passed


def test_training_that_is_not_resumed_where_it_was_fails(setting, monkeypatch) -> None:
    right = loop.restore

    def forgetful(state, trained, optimizer):
        progress, best = right(state, trained, optimizer)
        torch.manual_seed(5)  # as if the dropout's state had not been kept
        return progress, best

    monkeypatch.setattr(loop, "restore", forgetful)
    assert not gpu.resumed(setting, setting.compute(torch.float32)).passed
