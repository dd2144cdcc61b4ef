"""An encoder's own files on this machine: its config and its tokenizer, read without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdlora.data.packaged import packaged_folder
from kdlora.errors import ModelError
from kdlora.files import cache_dir, read_text
from kdlora.json_files import read_json_object
from kdlora.spec.encoders import ADAPTER_CONFIG
from kdlora.spec.fingerprint import hash_json
from kdlora.spec.run import EncoderRef, hashed_encoder

_CUT_VERSION = 1  # raised when the same study file comes to mean other kept tokens


def trimmed_folder(encoder: EncoderRef) -> Path:
    """Where an encoder lies once its vocabulary is cut, whatever layers are then taken of it."""
    whole = hashed_encoder(encoder.model_copy(update={"layers": None}))
    key = hash_json({"version": _CUT_VERSION, "encoder": whole}, 16)
    return cache_dir() / "encoders" / f"{Path(encoder.name).name}-{key}"


def encoder_file(encoder: EncoderRef, name: str) -> Path | None:
    """A file of an encoder, if it is on this machine; None where it is not. Nothing is fetched.

    Of an adapter's folder it is that of its base where the folder has none; of a model of the hub
    that in the hub's own cache; of one whose vocabulary is not cut yet that of the whole.
    """
    if encoder.vocabulary is not None and (own := trimmed_folder(encoder) / name).is_file():
        return own
    if encoder.source == "package":
        folder = packaged_folder(encoder.name)
    elif encoder.path is not None:
        folder = Path(encoder.path)
        adapter = folder / ADAPTER_CONFIG
        if not (folder / name).is_file() and adapter.is_file():
            try:
                base = read_json_object(adapter).get("base_model_name_or_path")
            except (OSError, ValueError):  # told where the model is looked at
                return None
            folder = Path(str(base))
    else:
        return _cached(encoder.name, name)
    path = folder / name
    return path if path.is_file() else None


def _cached(model: str, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, name)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def encoder_config(encoder: EncoderRef) -> dict[str, Any] | None:
    """What an encoder's config.json says; None where it is not here or cannot be read, which is
    told where the model is looked at."""
    path = encoder_file(encoder, "config.json")
    if path is None:
        return None
    try:
        return read_json_object(path)
    except (OSError, ValueError):
        return None


def tokenizer_rules(encoder: EncoderRef) -> str | None:
    """The content of an encoder's tokenizer.json, if it is on this machine; None where not.

    Raises ModelError for one that cannot be read.
    """
    path = encoder_file(encoder, "tokenizer.json")
    try:
        return read_text(path) if path is not None else None
    except OSError as error:
        raise ModelError(f"{encoder.title}: {path} cannot be read: {error}") from None
