"""ONNX files whose tensors would be read from elsewhere are refused, wherever these hide."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from kdlora.errors import ModelError
from kdlora.ship.onnx_files import check_onnx
from kdlora.ship.predict import load_predictor
from tests.harness.exported import TABLE, save_exported, save_onnx


@pytest.mark.parametrize("location", ["/etc/passwd", "../../secret.bin", "a/../../../b"])
def test_onnx_tensors_from_elsewhere_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(TABLE.tobytes())
    folder = save_exported(tmp_path / "model", beside=location)
    with pytest.raises(ModelError, match="outside the folder"):
        load_predictor(folder)


def test_onnx_tensors_beside_the_model(tmp_path: Path) -> None:
    folder = save_exported(tmp_path / "model", variants=["onnx"], beside="weights.data")
    assert check_onnx(folder / "onnx" / "model.onnx") == ["weights.data"]
    assert load_predictor(folder)([["good"]])[0]["label"] == "positive"
    data = folder / "onnx" / "weights.data"
    data.write_bytes(bytes(len(data.read_bytes())))
    with pytest.raises(ModelError, match=r"onnx/weights\.data is not what was exported"):
        load_predictor(folder)
    data.unlink()
    with pytest.raises(ModelError, match=r"weights\.data with its tensors is missing"):
        load_predictor(folder)
    data.symlink_to("/etc/passwd")
    with pytest.raises(ModelError, match="leads out"):
        load_predictor(folder)


def test_hidden_onnx_tensors_are_found(tmp_path: Path) -> None:
    """In a constant, in a branch of an If, in a local function, in a sparse tensor's values."""

    def tensor(location: str) -> TensorProto:
        made = numpy_helper.from_array(TABLE, "t")
        made.ClearField("raw_data")
        made.data_location = TensorProto.EXTERNAL
        made.external_data.add(key="offset", value="0")
        made.external_data.add(key="location", value=location)
        return made

    constant = helper.make_node("Constant", [], ["c"], value=tensor("constant"))
    inner = helper.make_graph([], "inner", [], [], [tensor("branch")])
    branch = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    body = helper.make_node("Constant", [], ["d"], value=tensor("function"))
    function = helper.make_function("own", "f", [], ["d"], [body], [helper.make_opsetid("", 17)])
    graph = helper.make_graph([constant, branch], "g", [], [])
    graph.sparse_initializer.add().values.CopyFrom(tensor("sparse"))
    model = helper.make_model(graph, functions=[function])
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    names = ["constant", "branch", "function", "sparse"]
    for name in names:
        (tmp_path / name).touch()
    assert sorted(check_onnx(path)) == sorted(names)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_damaged_onnx_files_are_told_apart(tmp_path_factory, data: st.DataObject) -> None:
    """Cut or changed anywhere, a file passes or raises ModelError; nothing else comes out."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    save_onnx(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(ModelError):
        assert check_onnx(path) == []


def test_external_data_agrees_with_onnx(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save_onnx(path, beside="weights.data")
    tensors = onnx.load(str(path), load_external_data=False).graph.initializer
    expected = {e.value for t in tensors for e in t.external_data if e.key == "location"}
    assert set(check_onnx(path)) == expected == {"weights.data"}
