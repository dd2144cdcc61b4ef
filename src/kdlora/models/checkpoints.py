"""Reading classifiers and tokenizers from folders and the hub, with errors a user can act on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import huggingface_hub.utils.logging as hub_logging
import torch
import transformers.utils.logging as hf_logging
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.modeling_utils import PreTrainedModel

from kdlora.data.model_folder import check_folder
from kdlora.errors import ModelError
from kdlora.models.inspection import supports_sdpa
from kdlora.spec.encoders import PACKAGED_ENCODERS


def silence_libraries() -> None:
    """Turn off progress bars and notes about new heads (kdlora records them itself)."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="peft")


T = TypeVar("T")


@dataclass
class Checkpoint:
    """A model as read, and which of its parameters the files did not hold."""

    model: PreTrainedModel
    new_parameters: frozenset[str]


@contextmanager
def quiet() -> Iterator[None]:
    """No log lines and progress bars of the libraries: their load report becomes our own words."""
    verbosity, hub_verbosity = hf_logging.get_verbosity(), hub_logging.get_verbosity()
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(hf_logging.CRITICAL)
    hub_logging.set_verbosity(hub_logging.CRITICAL)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if bars:
            hf_logging.enable_progress_bar()


# What peft warns of although it is meant; all of it and nothing else is silenced.
_EXPECTED = (
    "`is_gradient_checkpointing` is deprecated",  # peft asks transformers by an old name
    "The following rank_pattern keys did not",  # AdaLoRA's pattern is none of LoRA's
    r"Adapter 'default': \d+ LoRA tensor\(s\) have invalid shape",  # AdaLoRA left it no rank
    "Initializing zero-element tensors",  # the same, on loading
    r"Unsupported layer type '<class 'torch\.nn\.modules\.normalization",  # LN_TUNING's layers
)


@contextmanager
def expected_warnings() -> Iterator[None]:
    """Silence what peft says about things that are meant."""
    with warnings.catch_warnings():
        for message in _EXPECTED:
            warnings.filterwarnings("ignore", message=message)
        yield


def read_config(source: str, **changes: Any) -> PreTrainedConfig:
    """The config of a folder or hub model with some fields replaced. Raises ModelError."""
    return _read(AutoConfig.from_pretrained, source, what="config", **changes)


def read_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The (fast, where there is one) tokenizer of a folder or hub model. Raises ModelError."""
    tokenizer = _read(AutoTokenizer.from_pretrained, source, what="tokenizer")
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"the tokenizer of '{source}' has no padding token, so texts of different length "
            "cannot share a batch. Give an encoder model"
        )
    return tokenizer


def read_classifier(
    source: str, config: PreTrainedConfig, *, seed: int, attention: str
) -> Checkpoint:
    """Read a sequence classifier in fp32 on the CPU.

    What the files do not hold is initialised from `seed`; torch's global generator stays as it
    was. `attention` falls back to "eager" where the family has nothing else; what is really used
    stands in `model.config._attn_implementation`. Raises ModelError.
    """
    if attention != "eager" and not supports_sdpa(config):
        attention = "eager"
    with seeded(seed):
        model, report = _read(
            AutoModelForSequenceClassification.from_pretrained,
            source,
            what="weights",
            config=config,
            dtype=torch.float32,
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
        )
    new = set(report["missing_keys"])
    new |= {item if isinstance(item, str) else item[0] for item in report["mismatched_keys"]}
    return Checkpoint(model, frozenset(new))


def read_encoder(source: str) -> PreTrainedModel:
    """Read an encoder without a head in fp32, to look at it. Raises ModelError."""
    loaded: PreTrainedModel = _read(
        AutoModel.from_pretrained, source, what="weights", dtype=torch.float32, use_safetensors=True
    )
    return loaded.eval()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of the CPU from `seed`; the generator's state before is restored after."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _read(load: Callable[..., T], source: str, *, what: str, **arguments: Any) -> T:
    """Call a `from_pretrained`: the local cache first, then the hub.

    The cache first, because an unreachable hub takes half a minute to be given up, and because
    a study then keeps the weights that it began with.
    """
    options = {"trust_remote_code": False, **arguments}
    if Path(source).is_dir():
        check_folder(Path(source))
    with quiet():
        if not Path(source).is_dir():
            try:
                return load(source, local_files_only=True, **options)
            except Exception:
                pass  # not (wholly) in the cache
        try:
            if not Path(source).is_dir():
                _ask_hub(source)
            return load(source, **options)
        except Exception as error:  # strangers' files provoke any kind in the libraries
            raise ModelError(_explain(error, source, what)) from None


_PATIENCE_S = 8.0  # for the hub's answer


@cache  # config, weights and tokenizer are three reads of one model
def _ask_hub(name: str) -> None:
    """Raise what is wrong where the hub is away or has no such model; `from_pretrained` itself asks
    five times and for half a minute. Where nothing is, it is not asked again.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(name, timeout=_PATIENCE_S)
    except Exception as error:  # the hub's HTTP library, and so its errors, differ by version
        away = "connect" in type(error).__name__.lower() or isinstance(error, ConnectionError)
        if away or isinstance(error, RepositoryNotFoundError):
            raise  # else the files may be had all the same


def _explain(error: Exception, source: str, what: str) -> str:
    """What to tell the user about a failed read."""
    instead = (
        f"Give a local folder, or one of the packaged encoders: {', '.join(PACKAGED_ENCODERS)}"
    )
    detail = " ".join(str(error).split())
    if not isinstance(error, OSError | ValueError | RuntimeError | SafetensorError | ImportError):
        detail = f"{type(error).__name__} {detail}"  # the text alone says little: "'added_tokens'"
    if Path(source).is_dir():
        if isinstance(error, ImportError):
            return f"{source}: its {what} needs a package that is not installed: {detail}"
        return f"{source}: cannot read its {what}: {detail}"
    if Path(source).is_absolute():
        return f"no model folder at {source}"
    causes = list(_causes(error))
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return (
            f"model '{source}': its authors ask you to accept their terms on the hub and to log "
            f"in (hf auth login). {instead}"
        )
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return f"model '{source}': the hub has no such model. {instead}"
    if any(word in detail.lower() for word in ("connect", "offline")):
        return (
            f"model '{source}': the model hub cannot be reached and its {what} is not in the "
            f"local cache. {instead}"
        )
    return f"model '{source}': cannot read its {what}: {detail} {instead}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
