"""One run by the recipe behind the reports, as a program of its own (see `benchmarks.cell`).

Trainer and peft in fp32, texts padded to 128 tokens, an evaluation after every epoch, the
teacher's logits cached in a file for the students.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from benchmarks.peers import BATCH, MAX_LENGTH, DistillingTrainer, arguments, collate_padded

VARIANTS = ("lora", "adalora", "dora", "mrlora", "olora", "rslora")
RANK = 8
TARGETS, HEAD = ["query", "value"], ["classifier"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("encoder", choices=("teacher", "student"))
    parser.add_argument("adaptation", choices=("fft", *VARIANTS))
    parser.add_argument("--kd", action="store_true")
    chosen = parser.parse_args()
    folder = chosen.folder
    tokenizer = AutoTokenizer.from_pretrained(folder / chosen.encoder)
    # Any: the Trainer reads lists of rows too, which its annotations leave out
    parts: dict[str, Any] = {
        name: _rows(tokenizer, folder / f"{name}.csv") for name in ("train", "eval")
    }
    if chosen.kd:
        for row, logits in zip(parts["train"], np.load(folder / "logits.npy"), strict=True):
            row["teacher"] = logits.tolist()
    model = AutoModelForSequenceClassification.from_pretrained(folder / chosen.encoder)
    steps = -(-len(parts["train"]) // BATCH)
    trainer = DistillingTrainer(
        model=adapt(model, chosen.adaptation, steps),
        args=arguments(eval_strategy="epoch", per_device_eval_batch_size=BATCH),
        train_dataset=parts["train"],
        eval_dataset=parts["eval"],
        data_collator=collate_padded(tokenizer),
    )
    trainer.kd_weight = 0.5 if chosen.kd else 0.0
    trainer.train()
    trainer.predict(parts["eval"])
    if chosen.encoder == "teacher" and chosen.adaptation == "fft":
        np.save(folder / "logits.npy", trainer.predict(parts["train"]).predictions)
    name = f"{chosen.encoder}-{chosen.adaptation}{'-kd' if chosen.kd else ''}"
    trainer.save_model(str(folder / "saved" / name))


def adapt(model: nn.Module, adaptation: str, steps: int) -> nn.Module:
    """The variant as peft offers it; mrlora as the LoRA of rank 8 + 4 + 2 + 1 that it equals."""
    if adaptation == "fft":
        return model
    common: dict[str, Any] = {
        "lora_alpha": 2 * RANK, "target_modules": TARGETS, "modules_to_save": HEAD,
    }  # fmt: skip
    if adaptation == "adalora":
        return get_peft_model(model, AdaLoraConfig(total_step=steps, **common))
    changes: dict[str, dict[str, Any]] = {
        "dora": {"use_dora": True},
        "olora": {"init_lora_weights": "olora"},
        "rslora": {"use_rslora": True},
        "mrlora": {"r": 15},
    }
    own = {"r": RANK, **common, **changes.get(adaptation, {})}
    return get_peft_model(model, LoraConfig(**own))


def _rows(tokenizer: PreTrainedTokenizerBase, path: Path) -> list[dict[str, object]]:
    table = pd.read_csv(path)
    out = tokenizer(
        table.text.tolist(), truncation=True, max_length=MAX_LENGTH, padding="max_length"
    )
    return [
        {
            "input_ids": out["input_ids"][i],
            "attention_mask": out["attention_mask"][i],
            "labels": int(table.label[i] == "yes"),
            "teacher": [0.0, 0.0],
        }
        for i in range(len(table))
    ]


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
