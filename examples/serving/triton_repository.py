"""Lay an exported model out as Triton's ONNX Runtime backend wants it.

    python examples/serving/triton_repository.py out/moods models --form onnx-int8
    docker run --rm -p 8001:8000 -v "$PWD/models:/models" \\
        nvcr.io/nvidia/tritonserver:25.06-py3 tritonserver --model-repository=/models

makes ``models/moods/config.pbtxt`` and ``models/moods/1/model.onnx``. Needs only onnxruntime. Texts
are read by the client (`triton_client.py` beside this file): Triton takes token ids.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import onnxruntime

TYPES = {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32"}


def write_repository(export: Path, repository: Path, form: str, *, max_batch: int = 32) -> Path:
    """Write one form of an export as a model of the repository; returns its folder.

    A form that is scaled by the range of a whole batch (dynamic INT8) is given one text at a time:
    its answer to a text would otherwise depend on the texts that Triton puts beside it.
    """
    about = json.loads((export / "export.json").read_text(encoding="utf-8"))
    forms = {variant["name"]: variant for variant in about["variants"]}
    if form not in forms or forms[form]["runtime"] != "onnx":
        known = ", ".join(name for name, v in forms.items() if v["runtime"] == "onnx")
        raise SystemExit(f"no ONNX form '{form}' in {export}; it has {known or 'none'}")
    model = export / forms[form]["path"]
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    alone = b"DynamicQuantize" in model.read_bytes()
    folder = repository / export.resolve().name
    (folder / "1").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model, folder / "1" / "model.onnx")
    lines = [
        f'name: "{folder.name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {1 if alone else max_batch}",
    ]
    # The first dimension is the batch, which Triton adds itself.
    for kind, tensors in (("input", session.get_inputs()), ("output", session.get_outputs())):
        for tensor in tensors:
            sizes = [d if isinstance(d, int) else -1 for d in tensor.shape[1:]]
            said = f'name: "{tensor.name}" data_type: {TYPES[tensor.type]} dims: {sizes}'
            lines.append(f"{kind} [ {{ {said} }} ]")
    if not alone:
        lines.append("dynamic_batching { max_queue_delay_microseconds: 2000 }")
    (folder / "config.pbtxt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("export", type=Path)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--form", default="onnx")
    parser.add_argument("--max-batch", type=int, default=32)
    given = parser.parse_args()
    print(write_repository(given.export, given.repository, given.form, max_batch=given.max_batch))


if __name__ == "__main__":
    main()
