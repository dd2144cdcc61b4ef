"""What strangers give that tries all there is, texts and model folders, and what must not pass."""

from __future__ import annotations

import json
import os
import pickle
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

HOSTILE = (
    "\x1b[2J\x1b]0;mine\x07 over\rwritten \x9b31m a\u202eb\u2066c\u2028d [red]arm[/red] :bug: [/x]"
)


def obeyed(text: str) -> set[str]:
    """Characters that a terminal takes for a command, or that turn around what follows."""
    turning = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
    return {
        letter
        for letter in text
        if (unicodedata.category(letter) in ("Cc", "Zl", "Zp") and letter not in "\n\t")
        or unicodedata.bidirectional(letter) in turning
    }


def _config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(values), encoding="utf-8")


def many_layers(folder: Path) -> None:
    _config(folder, num_hidden_layers=100_000, n_layers=100_000)


def many_words(folder: Path) -> None:
    _config(folder, vocab_size=10**12)


def negative_width(folder: Path) -> None:
    _config(folder, hidden_size=-4)


def damaged_config(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:500])


def pickled_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))


def a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "generation_config.json")


def a_link_out(folder: Path) -> None:
    (folder / "special_tokens_map.json").symlink_to("/etc/passwd")


def a_path_out(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"vocab_file": "/etc/passwd"}))


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


# How to harm a sound model's folder, and what is told of it whoever opens it.
HARM: dict[Callable[[Path], None], str] = {
    many_layers: "num_hidden_layers is 100,000, but the weights are",
    many_words: "vocab_size is 1,000,000,000,000, but no dimension of any weight is above",
    negative_width: "hidden_size is -4, expected a whole number above 0",
    damaged_config: "config.json cannot be read",
    cut_weights: "model.safetensors is no safetensors file",
    pickled_weights: "the weights are pickled (pytorch_model.bin)",
    a_pipe: "generation_config.json is a pipe: refused",
    a_link_out: "special_tokens_map.json is a link that leads out of the folder",
    a_path_out: "vocab_file is '/etc/passwd', which leads out of the folder",
    no_tokenizer: "there is no tokenizer beside it",
}
