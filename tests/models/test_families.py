from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification

from kdlora.models import families
from kdlora.models.families import FAMILIES, take_apart
from kdlora.models.inspection import linear_names
from tests.harness.tiny_models import FAMILIES as TINY
from tests.harness.tiny_models import FURTHER_FAMILIES, tiny_config

ALL = [*TINY, *FURTHER_FAMILIES]


def _model(family: str, **changes: object):
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(tiny_config(family, **changes))


def test_every_file_describes_a_family_that_transformers_has() -> None:
    files = {p.stem for p in Path(families.__file__).parent.glob("*.py")} - {"__init__", "family"}
    described = {name for name in files if hasattr(getattr(families, name), "FAMILY")}
    assert described == files
    assert {t for name in files for t in getattr(families, name).FAMILY.model_types} == set(
        FAMILIES
    )
    assert set(FAMILIES) <= set(CONFIG_MAPPING.keys())


def test_families_are_read_without_torch() -> None:
    code = "import sys, kdlora.models.families as f; print(len(f.FAMILIES), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(FAMILIES)), "False"]


@pytest.mark.parametrize("family", ALL)
def test_what_is_stated_of_a_family_is_so_in_transformers(family: str) -> None:
    model, stated = _model(family), FAMILIES[family]
    names = {name for name, _ in model.named_parameters()}
    assert stated.pooler == any("pooler" in name for name in names)
    assert stated.position_table == any(
        "position_embeddings" in name or "rel_embeddings" in name for name in names
    )
    layers = {tuple(part for part in name.split(".") if part.isdigit()) for name in names} - {()}
    assert stated.shares_layers == (len(layers) == 1)
    widths = [model.base_model.get_input_embeddings().weight.shape[1], model.config.hidden_size]
    assert stated.narrow_embeddings == (widths[0] != widths[1])
    projections = [n for n in linear_names(model) if n.endswith(stated.projections)]
    assert len(projections) == len(layers) * len(stated.projections)


@pytest.mark.parametrize("family", ALL)
def test_the_parts_hold_every_weight_of_the_encoders_layers(family: str) -> None:
    model = _model(family)
    parts = take_apart(model)
    assert (parts is None) == (FAMILIES[family].parts is None)
    if parts is None:
        return
    assert len(parts.layers) == model.config.num_hidden_layers
    held = {
        id(weight)
        for layer in parts.layers
        for module in vars(layer).values()
        if isinstance(module, nn.Module)
        for weight in module.parameters()
    }
    outside = (
        "embeddings", "pooler", "embedding_hidden_mapping_in", "relative_attention_bias",
        "encoder.LayerNorm",  # of the distances
        "final_norm",  # what a pre-norm encoder's head begins with
    )  # fmt: skip
    wanted = {
        id(weight)
        for name, weight in model.base_model.named_parameters()
        if not any(part in name for part in outside)
    }
    assert held == wanted
