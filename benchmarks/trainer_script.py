"""A user's own distillation with the Hugging Face Trainer, as one script (see `end_to_end`).

A teacher fully fine-tuned, its logits of the training texts, a LoRA student that learns from them:
the model of the best epoch on texts held out from training, scored on the evaluation texts, merged
and saved. Written as one who knows the Trainer would: batches grouped by length, fused AdamW, bf16
where the processor multiplies it, eager attention, large batches where nothing is trained.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.peers import MAX_LENGTH, DistillingTrainer, arguments, collate_dynamic
from kdlora.training.precision import choose_compute

Rows = list[dict[str, Any]]
_SCORED = 64  # texts a batch where nothing is trained


def main(folder: Path, epochs: int, selection: int) -> None:
    """Read `folder`/train.csv and eval.csv; `selection` training rows choose the best epoch."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "teacher")
    train, report = (_read(tokenizer, folder / f"{name}.csv") for name in ("train", "eval"))
    held_out, train = train[:selection], train[selection:]

    teacher = _fitted(_encoder(folder / "teacher"), tokenizer, train, held_out, epochs, 1e-4, 0.0)
    for row, logits in zip(train, _logits(teacher, tokenizer, train), strict=True):
        row["teacher"] = logits.tolist()
    print(f"teacher: {_accuracy(teacher, tokenizer, report):.4f}")
    teacher.save_pretrained(folder / "saved" / "teacher")

    lora = LoraConfig(
        r=16, lora_alpha=32, target_modules="all-linear",
        modules_to_save=["classifier"],
    )  # fmt: skip
    adapted = get_peft_model(_encoder(folder / "student"), lora)
    student = _fitted(adapted, tokenizer, train, held_out, epochs, 1e-3, 0.5)
    merged = student.merge_and_unload()
    print(f"student: {_accuracy(merged, tokenizer, report):.4f}")
    merged.save_pretrained(folder / "saved" / "student")
    tokenizer.save_pretrained(folder / "saved" / "student")


def _encoder(folder: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=2, attn_implementation="eager"
    )


def _read(tokenizer: Any, path: Path) -> Rows:
    table = pd.read_csv(path)
    ids = tokenizer(table.text.tolist(), truncation=True, max_length=MAX_LENGTH)["input_ids"]
    return [
        {"input_ids": row, "attention_mask": [1] * len(row), "labels": label, "teacher": [0.0, 0.0]}
        for row, label in zip(ids, (table.label == "yes").astype(int).tolist(), strict=True)
    ]


def _fitted(
    model: nn.Module,
    tokenizer: Any,
    train: Rows,
    held_out: Rows,
    epochs: int,
    rate: float,
    kd_weight: float,
) -> Any:
    """The model at its best epoch by the accuracy on the texts that were held out."""
    with tempfile.TemporaryDirectory() as checkpoints:
        trainer = DistillingTrainer(
            model=model,
            args=arguments(
                output_dir=checkpoints,
                num_train_epochs=epochs,
                learning_rate=rate,
                warmup_steps=0.1,
                weight_decay=0.01,
                eval_strategy="epoch",
                save_strategy="epoch",
                save_total_limit=1,
                load_best_model_at_end=True,
                metric_for_best_model="accuracy",
                per_device_eval_batch_size=_SCORED,
                train_sampling_strategy="group_by_length",
                optim="adamw_torch_fused",
                bf16=choose_compute().dtype == torch.bfloat16,
            ),
            train_dataset=train,
            eval_dataset=held_out,
            data_collator=collate_dynamic(tokenizer),
            compute_metrics=lambda out: {
                "accuracy": float((np.argmax(out.predictions, -1) == out.label_ids).mean())
            },
        )
        trainer.kd_weight = kd_weight
        trainer.train()
    return model


def _logits(model: nn.Module, tokenizer: Any, rows: Rows) -> np.ndarray:
    """In the order of the rows, [n, 2]; the Trainer's predictions are not, if it groups."""
    model.eval()
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]["input_ids"]))
    found = np.zeros((len(rows), 2), dtype=np.float32)
    compute = choose_compute()
    for start in range(0, len(order), _SCORED):
        index = order[start : start + _SCORED]
        batch = tokenizer.pad(
            {"input_ids": [rows[i]["input_ids"] for i in index]}, return_tensors="pt"
        )
        with torch.inference_mode(), compute.autocast():
            found[index] = model(**batch).logits.float().numpy()
    return found


def _accuracy(model: nn.Module, tokenizer: Any, rows: Rows) -> float:
    labels = np.array([row["labels"] for row in rows])
    return float((_logits(model, tokenizer, rows).argmax(-1) == labels).mean())


if __name__ == "__main__":
    torch.manual_seed(0)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
