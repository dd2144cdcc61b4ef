"""Against arithmetic done by hand in numpy, on a graph with all the parts that matter."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from kdlora.ship.quantize import INT4, INT8, Settings, quantize, quantize_rows, share_equal_weights
from tests.harness.kills import killed_at_every_change
from tests.harness.onnx_models import INNER, WIDTH, WORDS, small_model

IDS = np.random.default_rng(1).integers(0, WORDS, (5, 12), dtype=np.int64)


def answers(model: onnx.ModelProto | Path) -> np.ndarray:
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input_ids": IDS})
    return logits


@pytest.fixture
def source(tmp_path: Path) -> Path:
    onnx.save_model(small_model(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def types(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_rows_are_rounded_to_127_steps_of_their_own_scale() -> None:
    model = small_model()
    table = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    scale = np.abs(table).max(axis=1, keepdims=True) / 127
    expected = np.where(scale > 0, np.round(table / np.where(scale > 0, scale, 1)) * scale, 0)
    exact = small_model()
    exact.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(expected.astype(np.float32), "table")
    )
    quantize_rows(model)
    np.testing.assert_allclose(answers(model), answers(exact), atol=1e-4)
    assert "table" not in {t.name for t in model.graph.initializer}


def test_small_tables_and_activations_are_left_alone() -> None:
    model = small_model()
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.ones((2, WIDTH), np.float32), "table")
    )
    before = model.SerializeToString(deterministic=True)
    quantize_rows(model)
    assert [n.op_type for n in model.graph.node].count("Gather") == 1
    assert len(model.SerializeToString(deterministic=True)) == len(before)


def test_equal_weights_are_stored_once() -> None:
    model = small_model()
    expected, before = answers(model), len(model.SerializeToString())
    share_equal_weights(model)
    names = [t.name for t in model.graph.initializer]
    assert "up2" not in names
    assert "down2" not in names
    assert len(names) == len(set(names)) == 8
    assert before - len(model.SerializeToString()) == pytest.approx(2 * 4 * WIDTH * INNER, rel=0.01)
    np.testing.assert_array_equal(answers(model), expected)


def test_int8_is_a_quarter_and_int4_smaller_still(source: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "8.onnx", INT8[0])
    quantize(source, tmp_path / "4.onnx", INT4[0])
    full = small_model()
    share_equal_weights(full)
    whole = len(full.SerializeToString())
    eight, four = ((tmp_path / f"{n}.onnx").stat().st_size for n in (8, 4))
    assert eight < whole / 3.2
    assert four < 0.75 * eight


@pytest.mark.parametrize("settings", [*INT8, *INT4], ids=str)
def test_every_setting_runs_and_stays_near(
    settings: Settings, source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "small.onnx"
    quantize(source, target, settings)
    exact, found = answers(source), answers(target)
    error = np.abs(found - exact).max() / np.abs(exact).max()
    assert 0 < error < (0.1 if settings.bits == 8 else 0.6)
    assert target.stat().st_size < source.stat().st_size


def test_int8_multiplies_integers_and_keeps_what_it_is_told_to(
    source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "small.onnx"
    quantize(source, target, Settings(8))
    assert types(target).count("MatMulInteger") == 6  # two layers of two, pooler and head
    quantize(source, target, Settings(8, keep=("head",)))
    assert types(target).count("MatMulInteger") == 4
    quantize(source, target, Settings(8, keep=("feed-forward outputs",)))
    assert types(target).count("MatMulInteger") == 4
    quantize(source, target, Settings(8, keep=("head", "feed-forward outputs")))
    assert types(target).count("MatMulInteger") == 2
    kept = {t.name: t.data_type for t in onnx.load(target).graph.initializer}
    assert kept["down1"] == TensorProto.FLOAT
    quantize(source, target, Settings(8, keep=("embeddings",)))
    kept = {t.name: t.data_type for t in onnx.load(target).graph.initializer}
    assert kept["table"] == TensorProto.FLOAT


@pytest.mark.parametrize("settings", INT8, ids=str)
def test_two_products_of_eight_bits_fit_in_sixteen(
    settings: Settings, source: Path, tmp_path: Path
) -> None:
    """What processors without VNNI add up in 16 bits would saturate, silently, beyond that."""
    target = tmp_path / "small.onnx"
    quantize(source, target, settings)
    model = onnx.load(target)
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    codes = [weights[n.input[1]] for n in model.graph.node if n.op_type == "MatMulInteger"]
    assert codes or settings.keep
    for code in codes:
        assert code.dtype == np.int8
        assert 2 * 255 * np.abs(code.astype(int)).max() < 2**15


def test_int4_covers_products_tables_and_the_pooler(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "small.onnx"
    quantize(source, target, INT4[0])
    found = types(target)
    assert found.count("MatMulNBits") == 5  # two layers of two, and the pooler as a product
    assert found.count("GatherBlockQuantized") == 1
    assert found.count("Gemm") == 1  # the head is too small to gain anything
    quantize(source, target, Settings(4, block=16, symmetric=False))
    assert "GatherBlockQuantized" not in types(target)
    quantize(source, target, Settings(4, keep=("head",)))
    assert types(target).count("Gemm") == 2


def test_one_scale_per_channel_is_nearer_than_one_per_tensor(tmp_path: Path) -> None:
    model = small_model()
    for i, tensor in enumerate(model.graph.initializer):
        if tensor.name.startswith(("up", "down")):  # channels of very different size
            weight = numpy_helper.to_array(tensor)
            spread = np.logspace(-2, 0.5, weight.shape[1]).astype(np.float32)
            model.graph.initializer[i].CopyFrom(
                numpy_helper.from_array(weight * spread, tensor.name)
            )
    onnx.save_model(model, tmp_path / "model.onnx")
    errors = []
    for settings in (Settings(8), Settings(8, per_channel=False)):
        quantize(tmp_path / "model.onnx", tmp_path / "small.onnx", settings)
        errors.append(np.abs(answers(tmp_path / "small.onnx") - answers(model)).mean())
    assert errors[0] < errors[1]


@pytest.mark.parametrize("settings", [INT8[0], INT4[0]], ids=str)
def test_a_kill_leaves_nothing_outside_the_targets_folder(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    """ONNX Runtime writes the whole model to temporary files of its own meanwhile."""
    system, target = tmp_path / "system", tmp_path / "export" / "small.onnx"
    system.mkdir()
    target.parent.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(system))

    def check(killed: int) -> None:
        assert not list(system.iterdir())
        left = [path.name for path in target.parent.iterdir() if path != target]
        assert len(left) <= 1  # what an earlier kill left goes when the next begins

    assert killed_at_every_change(lambda: quantize(source, target, settings), check)
    assert list(target.parent.iterdir()) == [target]
    assert tempfile.tempdir == str(system)
