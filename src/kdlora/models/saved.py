"""Trained models on disk: plain peft adapter folders and plain transformers model folders.

Either kind is readable without kdlora (an adapter of MrLoRA needs `import kdlora.models.mrlora`
first). A folder appears whole or not at all: it is written beside its place and then renamed.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from peft import AdaLoraConfig, PeftConfig, PeftModel
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from kdlora.data.model_folder import check_folder
from kdlora.errors import ModelError
from kdlora.files import whole_folder
from kdlora.json_files import read_json_object
from kdlora.models import adalora
from kdlora.models.checkpoints import (
    expected_warnings,
    quiet,
    read_classifier,
    read_config,
    read_tokenizer,
)
from kdlora.models.encoders import new_modules, output_names, resolve_encoder
from kdlora.models.merging import initial_factors, merge
from kdlora.models.mrlora import MrLoraConfig
from kdlora.models.student_layers import keep_layers
from kdlora.records.contents import require_whole_model
from kdlora.spec.encoders import ADAPTER_CONFIG
from kdlora.spec.fingerprint import hash_model_folder
from kdlora.spec.run import EncoderRef

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ABOUT = "kdlora.json"  # which encoder an adapter belongs to and what its outputs mean
BASE = "base"  # in an adapter folder: the encoder it belongs to, if that exists nowhere else
_PEFT_PREFIX = "base_model.model."
_WRAPPED = re.compile(r"\.(base_layer|modules_to_save|original_module)\.")


def save_trained(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    encoder: EncoderRef | None = None,
    base: Path | None = None,
) -> None:
    """Save a trained model and its tokenizer; an existing folder is replaced.

    An adapted model becomes an adapter folder (adapters and whatever was trained beside them),
    any other one a model folder, both with safetensors. `encoder` is remembered in an adapter
    folder, so that `load_trained` finds the encoder again. An encoder that exists nowhere else
    is given as the model folder `base`, which is copied into the adapter folder.
    """
    with whole_folder(Path(folder)) as partial, quiet(), expected_warnings():
        if isinstance(model, PeftModel):
            _save_adapter(model, partial, encoder)
            if base is not None:
                shutil.copytree(base, partial / BASE)
        else:
            assert isinstance(model, PreTrainedModel)
            model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, *, max_length: int) -> None:
    """Save a tokenizer that cuts where training did, whoever loads it: encoders allow more."""
    allowed = tokenizer.model_max_length
    tokenizer.model_max_length = max_length
    try:
        with quiet():
            tokenizer.save_pretrained(folder)
    finally:
        tokenizer.model_max_length = allowed


def _save_adapter(model: PeftModel, folder: Path, encoder: EncoderRef | None) -> None:
    config = model.peft_config["default"]
    adaptive = isinstance(config, AdaLoraConfig)
    with adalora.exact_rank_pattern(model) if adaptive else nullcontext(), _without_card(model):
        # Embeddings are never adapted; peft's own guess at that would ask the hub.
        model.save_pretrained(str(folder), save_embedding_layers=False)
    if initial := _taken_from_base(model):
        _make_independent(folder, config, initial)
    base = cast(PreTrainedModel, model.get_base_model()).config
    about = {
        "encoder": encoder.model_dump(mode="json") if encoder else None,
        "labels": output_names(base),
        "problem_type": base.problem_type,
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _without_card(model: PeftModel) -> Iterator[None]:
    """Without peft's model card, a template without content that takes most of a small save."""
    setattr(model, "create_or_update_model_card", lambda folder: None)  # noqa: B010
    try:
        yield
    finally:
        del model.create_or_update_model_card


def _taken_from_base(model: PeftModel) -> dict[str, dict[str, torch.Tensor]]:
    return {name: f for name, f in initial_factors(model).items() if "B" in f}


def _make_independent(
    folder: Path, config: PeftConfig, initial: dict[str, dict[str, torch.Tensor]]
) -> None:
    """Rewrite an adapter whose start was taken out of the base weights, for the base as it was.

    ``s (B A - B0 A0)`` is an ordinary adapter of twice the rank, so nobody has to redo the
    decomposition of the base (whose result depends on the linear algebra library) to load it.
    """
    weights = load_file(folder / ADAPTER_WEIGHTS)
    values = read_json_object(folder / ADAPTER_CONFIG)
    several = isinstance(config, MrLoraConfig)
    rank = 2 * values.get("r", 0)
    names = ("mrlora_A", "mrlora_B") if several else ("lora_A.weight", "lora_B.weight")
    for layer, factors in initial.items():
        a, b = (f"{_PEFT_PREFIX}{layer}.{name}" for name in names)
        weights[a] = torch.cat([weights[a], factors["A"].cpu()])
        if several:  # the blocks carry the sign in their own weight
            weights[b] = torch.cat([weights[b], factors["B"].cpu()], dim=1)
            key = f"{_PEFT_PREFIX}{layer}.mrlora_lambda"
            weights[key] = torch.cat([weights[key], -torch.ones_like(weights[key])])
        else:
            weights[b] = torch.cat([weights[b], -factors["B"].cpu()], dim=1)
            missing = rank - weights[a].shape[0]  # peft cuts the rank to the layer's own
            weights[a] = functional.pad(weights[a], (0, 0, 0, missing))
            weights[b] = functional.pad(weights[b], (0, missing))
    if several:
        values |= {"ranks": values["ranks"] * 2, "init_weights": "kaiming"}
    else:
        grown = 2**0.5 if values["use_rslora"] else 2  # alpha / r or alpha / sqrt(r) stays
        values |= {"r": rank, "lora_alpha": grown * values["lora_alpha"]}
        values["init_lora_weights"] = True
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(values, indent=2, sort_keys=True)
    (folder / ADAPTER_CONFIG).write_text(text, encoding="utf-8")


def load_trained(
    folder: Path, *, encoder: EncoderRef | None = None, attention: str = "eager"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a saved model, an adapter merged onto fresh fp32 base weights, with its tokenizer.

    `encoder` says where the adapter's encoder is now; by default it is where it was in training.
    Raises ModelError for a folder that holds no classifier or an adapter without all it needs, and
    StoreError for one that is damaged, where it is known what was written.
    """
    folder = Path(folder)
    require_whole_model(folder)
    if (folder / ADAPTER_CONFIG).is_file():
        model = merge(_load_adapter(folder, encoder, attention))
    elif (folder / "config.json").is_file():
        checkpoint = read_classifier(
            str(folder), read_config(str(folder)), seed=0, attention=attention
        )
        if checkpoint.new_parameters:
            raise ModelError(
                f"{folder} holds an encoder but no trained classifier: "
                f"{', '.join(new_modules(checkpoint))} would be random"
            )
        model = checkpoint.model
    else:
        raise ModelError(
            f"{folder} is no saved model: it holds neither {ADAPTER_CONFIG} nor config.json"
        )
    return model, read_tokenizer(str(folder))


def load_adapted(
    folder: Path, *, encoder: EncoderRef | None = None, attention: str = "eager"
) -> PeftModel:
    """Load a saved adapter beside its fp32 base weights, not merged; else as `load_trained`."""
    require_whole_model(folder)
    return _load_adapter(folder, encoder, attention)


def _load_adapter(folder: Path, encoder: EncoderRef | None, attention: str) -> PeftModel:
    """The same of a folder that is known to be whole."""
    check_folder(folder)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(f"{folder}: no safetensors file: expected {ADAPTER_WEIGHTS}")
    try:
        config = PeftConfig.from_pretrained(str(folder))
        weights = load_file(folder / ADAPTER_WEIGHTS)
        about, remembered = _read_about(folder)
        outputs = _outputs(folder, about, weights)
    except ModelError:
        raise
    except Exception as error:  # strangers' files provoke any kind in the library
        detail = f"{type(error).__name__} {error}"
        raise ModelError(f"{folder}: cannot read the adapter: {detail}") from None
    if (folder / BASE).is_dir():
        encoder = EncoderRef(name=BASE, source="folder", path=str(folder / BASE))
    source = _find_encoder(folder, encoder or remembered, remembered, config)
    base_config = read_config(source, **outputs)
    layers = (encoder.layers if encoder else None) or (remembered.layers if remembered else None)
    checkpoint = keep_layers(
        read_classifier(source, base_config, seed=0, attention=attention),
        layers,
        where=source,
        seed=0,
    )
    modules = {name for name, _ in checkpoint.model.named_modules()}
    prefix = PEFT_TYPE_TO_PREFIX_MAPPING.get(config.peft_type, "")
    strangers = {owner for key in weights if (owner := _owner(key, prefix)) not in modules}
    if strangers:
        raise ModelError(
            f"{folder}: the adapter does not fit encoder {source}, a {base_config.model_type} "
            f"model, which has no {min(strangers)}"
        )
    lost = [p for p in sorted(checkpoint.new_parameters) if _PEFT_PREFIX + p not in weights]
    if lost:
        raise ModelError(
            f"{folder} was saved without {', '.join(lost)}, which the encoder {source} has not "
            "either: the adapter cannot be restored. Train it again with kdlora"
        )
    try:
        with expected_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            return PeftModel.from_pretrained(checkpoint.model, str(folder), torch_device="cpu")
    except Exception as error:  # as above
        detail = " ".join(str(error).split())[:300]
        raise ModelError(f"{folder}: the adapter does not fit encoder {source}: {detail}") from None


def _owner(key: str, prefix: str) -> str:
    """The base model's module to which a saved tensor belongs; "" is the model itself.

    `prefix` is what the names of the adapter's parameters begin with.
    """
    if not key.startswith(_PEFT_PREFIX):
        return ""  # shared by all layers, as the projections of VeRA
    name = key.removeprefix(_PEFT_PREFIX)
    if prefix and f".{prefix}" in name:
        return name.split(f".{prefix}")[0]
    # The rest are peft's wrappers, around whatever trains beside the adapters: heads and biases.
    wrapped = _WRAPPED.search(name)
    return name[: wrapped.start()] if wrapped else name.rpartition(".")[0]


def _read_about(folder: Path) -> tuple[dict[str, Any], EncoderRef | None]:
    path = folder / ABOUT
    if not path.is_file():  # an adapter of another tool
        return {}, None
    about = read_json_object(path)
    try:
        encoder = EncoderRef.model_validate(about["encoder"]) if about.get("encoder") else None
    except ValidationError as error:
        raise ValueError(f"{ABOUT}: {error}") from None
    return about, encoder


def _find_encoder(
    folder: Path, wanted: EncoderRef | None, trained_on: EncoderRef | None, config: PeftConfig
) -> str:
    source = resolve_encoder(wanted) if wanted else config.base_model_name_or_path
    if not source:
        raise ModelError(f"{folder} does not say which encoder it belongs to; name it")
    # A cut vocabulary lies in its own folder, whose name is the hash of what it was made of.
    known = trained_on.fingerprint if trained_on and trained_on.vocabulary is None else ""
    if known and Path(source).is_dir() and hash_model_folder(Path(source)) != known:
        raise ModelError(
            f"{folder} was trained on the encoder '{trained_on.name if trained_on else source}', "
            f"but {source} holds other files than then: the adapter would not fit its weights"
        )
    return source


def _outputs(
    folder: Path, about: dict[str, Any], weights: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """Number and names of the outputs, from kdlora's own note or from the head's shape."""
    if about:
        return {
            "id2label": dict(enumerate(about["labels"])),
            "label2id": {name: i for i, name in enumerate(about["labels"])},
            "problem_type": about["problem_type"],
        }
    ends = ("classifier.weight", "classifier.out_proj.weight", "score.weight")
    heads = [t for k, t in weights.items() if k.endswith(ends) and "pre_classifier" not in k]
    if not heads:
        raise ModelError(f"{folder} holds no weights of a classification head")
    return {"num_labels": heads[-1].shape[0]}
