from __future__ import annotations

import errno
import os
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from kdlora.data.batches import collate, encode
from kdlora.distillation.hidden_states import (
    ABOUT,
    STATES,
    Online,
    cache_states,
    drop_cache,
    require_same_tokens,
)
from kdlora.errors import ModelError
from kdlora.models.inner_states import Wanted
from kdlora.training.forward import make_state_forward
from kdlora.training.precision import choose_compute
from tests.harness.moods import sentences
from tests.harness.tiny_models import tiny_config, tiny_tokenizer

CPU = torch.device("cpu")
COMPUTE = choose_compute("fp32", device="cpu")
CONFIG = tiny_config("bert", width=32, layers=2)
TEXTS = sentences(40, 0)[0]
ENCODED = encode(tiny_tokenizer(CONFIG), (TEXTS,), max_length=12)
IDS = np.array([f"{i:016x}" for i in range(40)])
WANTED = Wanted((0, 2), 1, "qv")
FEATURES = WANTED.features(32)


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_config(CONFIG).eval()


@pytest.fixture(scope="module")
def online(model) -> Online:
    return Online(make_state_forward(model, COMPUTE, WANTED), ENCODED, CPU)


def cached(online, folder, **changes):
    values = {"texts": ENCODED, "ids": IDS, "features": FEATURES, "about": "a", "budget_mb": 10}
    return cache_states(lambda: online, folder, device=CPU, **(values | changes))


def test_cached_states_are_the_computed_ones_in_any_order(online, tmp_path):
    states = cached(online, tmp_path)
    for index in (np.array([3]), np.array([7, 0, 39, 12])):
        fresh, stored = online(index), states(index)
        assert fresh.keys() == stored.keys() == FEATURES.keys()
        for name, value in fresh.items():
            assert len(value) == ENCODED.lengths[index].sum()
            torch.testing.assert_close(stored[name].float(), value, atol=2e-3, rtol=1e-3)
    assert not online(index)["q"].requires_grad


def test_online_states_are_those_of_each_text_alone(online, model):
    index = np.array([5, 20])
    both = online(index)["hidden.2"]
    one = model(**collate(ENCODED, index[1:]), output_hidden_states=True).hidden_states[2][0]
    torch.testing.assert_close(both[ENCODED.lengths[5] :], one, atol=1e-5, rtol=1e-4)


def test_the_budget_is_exact(online, tmp_path):
    size_mb = 2 * ENCODED.lengths.sum() * 4 * 32 / 1e6
    assert 0 < size_mb < 1
    assert cached(online, tmp_path, budget_mb=0) is None
    assert not list(tmp_path.iterdir())
    assert cached(online, tmp_path, budget_mb=1) is not None
    values = np.load(tmp_path / STATES)
    assert values.nbytes / 1e6 == pytest.approx(size_mb)


def test_a_whole_cache_is_used_again_and_another_is_not(online, tmp_path):
    cached(online, tmp_path)

    def never():
        raise AssertionError("the cache was not used")

    again = {"texts": ENCODED, "ids": IDS, "features": FEATURES, "budget_mb": 10, "device": CPU}
    assert cache_states(never, tmp_path, about="a", **again) is not None
    for changes in ({"about": "b"}, {"ids": IDS[::-1]}):
        with pytest.raises(AssertionError, match="not used"):
            cache_states(never, tmp_path, **({"about": "a"} | again | changes))
    whole = (tmp_path / STATES).read_bytes()
    (tmp_path / STATES).write_bytes(whole[:-8])
    with pytest.raises(AssertionError, match="not used"):
        cache_states(never, tmp_path, about="a", **again)
    assert cached(online, tmp_path) is not None
    assert (tmp_path / STATES).read_bytes() == whole


def test_the_time_is_kept_beside_the_states(online, tmp_path):
    first = cached(online, tmp_path)
    assert first.seconds > 0
    assert cached(online, tmp_path).seconds == first.seconds  # an interrupted run goes on


@pytest.mark.parametrize("missing", ["before", "meanwhile", "unknown"])
def test_a_disk_without_room_makes_the_teacher_compute(online, tmp_path, monkeypatch, missing):
    """Where pages of a mapped file find no space, the process would end by a signal."""
    if missing == "before":
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    else:  # another process takes the space, or the disk fails
        code = errno.ENOSPC if missing == "meanwhile" else errno.EIO

        def fail(*arguments):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "posix_fallocate", fail)
    if missing == "unknown":
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            cached(online, tmp_path)
    else:
        assert cached(online, tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_when_it_is_dropped(online, tmp_path):
    cached(online, tmp_path)
    (tmp_path / f".{STATES}.77.tmp").write_bytes(b"torn")
    (tmp_path / "record.json").write_text("{}")
    drop_cache(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]
    assert not (tmp_path / ABOUT).exists()


def test_tokens_must_be_the_same():
    require_same_tokens(ENCODED, ENCODED, names=("s", "t"))
    longer = encode(tiny_tokenizer(CONFIG), ([*TEXTS[:-2], "good", "bad film"],), max_length=12)
    with pytest.raises(ModelError, match="of student s and teacher t differ on 2 of 40 texts"):
        require_same_tokens(longer, ENCODED, names=("s", "t"))
