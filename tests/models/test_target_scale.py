from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from kdlora.models import adapters, target_scale
from kdlora.models.encoders import LoadedEncoder, load_encoder
from kdlora.models.merging import merge
from kdlora.models.saved import load_trained, save_trained
from kdlora.models.target_scale import TargetScale, restore_unit, standardise_head
from kdlora.models.target_scale import target_scale as scale_of
from kdlora.spec.adapter import Adapter
from kdlora.spec.run import EncoderRef
from kdlora.vocabulary.task import TASKS
from tests.harness.moods import sentences
from tests.harness.tiny_models import FAMILIES, FURTHER_FAMILIES, save_tiny_encoder

TASK = TASKS["stsb"]
LABELS = np.array([90.0, 100.0, 104.0, np.nan], dtype=np.float32)


def _loaded(folder: Path, family: str) -> LoadedEncoder:
    if not folder.is_dir():
        save_tiny_encoder(folder, family, seed=1)
    return load_encoder(EncoderRef(name="m", source="folder", path=str(folder)), TASK, seed=0)


def _answers(model: nn.Module, loaded: LoadedEncoder) -> torch.Tensor:
    batch = loaded.tokenizer(sentences(4, 0)[0], padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**batch).logits


def test_labels_are_freed_of_their_mean_and_standard_deviation():
    scale = scale_of(LABELS)
    known = LABELS[:3].astype(np.float64)
    assert (scale.mean, scale.scale) == pytest.approx((known.mean(), known.std()))
    z = scale.standardised(torch.from_numpy(LABELS))
    assert z[:3].mean() == pytest.approx(0, abs=1e-6)
    assert z[:3].square().mean() == pytest.approx(1, rel=1e-6)
    assert z[3].isnan()


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.lists(st.floats(-3, 3), min_size=1))
def test_what_is_standardised_is_restored(mean, scale, values):
    target = TargetScale(mean, scale)
    z = target.standardised(torch.tensor(values, dtype=torch.float64) * scale + mean)
    np.testing.assert_allclose(
        target.restored(z.numpy()), np.array(values) * scale + mean, atol=1e-5 * scale, rtol=1e-6
    )


@pytest.mark.parametrize(
    ("labels", "teacher", "expected"),
    [
        ([0.1, 0.1, 0.1], None, (np.float32(0.1), 1.0)),  # nothing to divide by
        ([], None, (0.0, 1.0)),
        ([np.nan, np.nan], [[2.0], [4.0]], (3.0, 1.0)),  # only the teacher says numbers
        ([7.0, 7.0], [[2.0], [4.0]], (3.0, 1.0)),
        ([7.0, 7.0], [[5.0], [5.0]], (7.0, 1.0)),
        ([1.0, 3.0], [[2.0], [40.0]], (2.0, 1.0)),  # labels come first
    ],
)
def test_labels_that_say_nothing_give_way_to_the_teacher(labels, teacher, expected):
    signal = None if teacher is None else np.array(teacher, dtype=np.float32)
    scale = scale_of(np.array(labels, dtype=np.float32), signal)
    assert (scale.mean, scale.scale) == pytest.approx(expected)


def test_a_head_without_a_bias_is_scaled_but_not_moved():
    scale = scale_of(np.array([3.0, 4.0]), shifts=False)
    assert (scale.mean, scale.scale) == pytest.approx((0.0, 12.5**0.5))


@pytest.mark.parametrize("family", [*FAMILIES, *FURTHER_FAMILIES])
@pytest.mark.parametrize("adaptation", ["fft", "lora"])
def test_every_family_answers_in_the_labels_unit_once_saved(tmp_path, family, adaptation):
    loaded = _loaded(tmp_path / "m", family)
    target = standardise_head(loaded, LABELS)
    assert target is not None
    adapter = Adapter(rank=2).of("lora") if adaptation == "lora" else None
    model = adapters.adapt(loaded, adaptation, adapter, seed=0, total_steps=1)
    in_training = _answers(model, loaded).double().numpy()
    restore_unit(model, target)
    save_trained(model, loaded.tokenizer, tmp_path / "saved", encoder=EncoderRef(
        name="m", source="folder", path=str(tmp_path / "m")))  # fmt: skip
    again, _ = load_trained(tmp_path / "saved")
    expected = target.restored(in_training)
    np.testing.assert_allclose(_answers(again, loaded).numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(_answers(merge(model), loaded).numpy(), expected, rtol=1e-5)
    # and what came trained begins as what it was
    if adaptation == "fft":
        student = _loaded(tmp_path / "saved", family)
        assert student.new_modules == ()
        other = standardise_head(student, np.array([5.0, 25.0], dtype=np.float32))
        assert other == TargetScale(15.0, 10.0)
        z = _answers(student.model, loaded).numpy()
        np.testing.assert_allclose(other.restored(z), expected, rtol=1e-5)


def test_a_head_that_does_not_end_in_a_linear_layer_is_left_as_it_is(tmp_path, monkeypatch):
    loaded = _loaded(tmp_path / "m", "bert")
    before = {k: v.clone() for k, v in loaded.model.state_dict().items()}
    loaded.model.classifier.register_forward_hook(lambda layer, args, out: out.tanh())
    assert standardise_head(loaded, LABELS) is None
    monkeypatch.setattr(target_scale, "output_layer", lambda model: None)
    assert standardise_head(loaded, LABELS) is None
    after = loaded.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
