"""The trained adapter as a folder that plain peft loads, whatever variant it was trained as.

OLoRA and PiSSA stand in a run's folder as ordinary LoRA on the untouched base already
(`models.saved`); MrLoRA, which peft does not know, is written as LoRA here. Both are exact.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from kdlora.json_files import read_json_object
from kdlora.models.saved import ABOUT, ADAPTER_WEIGHTS, BASE
from kdlora.spec.encoders import ADAPTER_CONFIG
from kdlora.spec.run import EncoderRef

FOLDER = "adapter"


def write_adapter(source: Path, target: Path, encoder: EncoderRef) -> str | None:
    """Write the adapter of a run's model folder to `target`; returns why not, if it cannot be.

    The base model is named as on the hub, where peft finds it, or by its folder's last part: no
    path of the machine that trained it is left.
    """
    if not (source / ADAPTER_CONFIG).is_file():
        return "fully fine-tuned: there is no adapter"
    if encoder.layers is not None and not (source / BASE).is_dir():
        return (
            f"the adapter fits only layers {', '.join(map(str, encoder.layers))} of "
            f"{encoder.name}, which plain peft cannot cut; use the merged model"
        )
    values: dict[str, Any] = read_json_object(source / ADAPTER_CONFIG)
    weights = load_file(source / ADAPTER_WEIGHTS)
    if values["peft_type"] == "MRLORA":
        values, weights = as_lora(values, weights)
    values["base_model_name_or_path"] = encoder.hub_name or Path(encoder.name).name
    target.mkdir(parents=True)
    _write(target / ADAPTER_CONFIG, values)
    save_file(weights, target / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    if (source / BASE).is_dir():
        shutil.copytree(source / BASE, target / BASE)
    if (source / ABOUT).is_file():
        about = read_json_object(source / ABOUT)
        if encoder.source == "folder":
            about["encoder"] = None
        _write(target / ABOUT, about)
    return None


def as_lora(
    values: dict[str, Any], weights: dict[str, torch.Tensor]
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """MrLoRA's config and weights as those of LoRA of the summed rank.

    ``sum_i s_i lambda_i B_i A_i`` is one product of the concatenated A and the concatenated B
    whose columns carry ``s_i lambda_i``; alpha = r leaves LoRA's own scale at 1.
    """
    ranks = [int(r) for r in values["ranks"]]
    fixed = [values["alpha"] / (math.sqrt(r) if values.get("use_rslora") else r) for r in ranks]
    converted: dict[str, torch.Tensor] = {}
    for key, tensor in weights.items():
        layer, _, kind = key.rpartition(".")
        if kind == "mrlora_A":
            converted[f"{layer}.lora_A.weight"] = tensor.contiguous()
        elif kind == "mrlora_B":
            blocks = weights[f"{layer}.mrlora_lambda"].double() * torch.tensor(fixed).double()
            columns = torch.repeat_interleave(blocks, torch.tensor(ranks))
            scaled = (tensor.double() * columns).to(tensor.dtype)
            converted[f"{layer}.lora_B.weight"] = scaled.contiguous()
        elif kind != "mrlora_lambda":
            converted[key] = tensor
    total = sum(ranks)
    same = ("target_modules", "exclude_modules", "modules_to_save", "task_type", "inference_mode")
    config = {name: values[name] for name in same if name in values}
    config |= {
        "peft_type": "LORA",
        "r": total,
        "lora_alpha": total,
        "lora_dropout": values.get("dropout", 0.0),
        "bias": "none",
        "use_rslora": False,
        "init_lora_weights": True,
    }
    return config, converted


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
