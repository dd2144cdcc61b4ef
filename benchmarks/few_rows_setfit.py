"""SetFit (Tunstall et al. 2022) on given rows; run by a Python that has it, and not kdlora.

    python -m venv setfit && setfit/bin/pip install setfit==1.2.0
    python -m benchmarks few_rows --setfit-python setfit/bin/python ...

Reads one argument, the settings as JSON, and prints what it found as JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_WARM_UP = 10


def seconds_a_text(answer: Any, texts: Sequence[str]) -> list[float]:
    """How long `answer(text)` takes for each text, one at a time; the first ones warm up."""
    for text in texts[:_WARM_UP]:
        answer(text)
    taken = []
    for text in texts:
        started = time.perf_counter()
        answer(text)
        taken.append(time.perf_counter() - started)
    return taken


def main(asked: dict[str, Any]) -> dict[str, float]:
    import pandas as pd
    import torch
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    torch.set_num_threads(asked["threads"])
    rows, held_out = pd.read_csv(asked["train"]), pd.read_csv(asked["test"])
    names = sorted(set(rows["label"]))
    data = Dataset.from_dict(
        {"text": rows["text"].tolist(), "label": [names.index(name) for name in rows["label"]]}
    )
    model = SetFitModel.from_pretrained(asked["encoder"])
    model.model_body.max_seq_length = asked["max_length"]
    work = Path(asked["work"])
    arguments = TrainingArguments(
        output_dir=str(work / "steps"), batch_size=16, num_epochs=1, seed=asked["seed"],
        num_iterations=asked["pairs_a_row"], report_to="none", eval_strategy="no",
        save_strategy="no", show_progress_bar=False,
    )  # fmt: skip
    started = time.perf_counter()
    Trainer(model=model, args=arguments, train_dataset=data).train()
    seconds = time.perf_counter() - started
    said = [names[int(i)] for i in model.predict(held_out["text"].tolist())]
    model.save_pretrained(str(work / "model"))
    weights = [p for p in (work / "model").rglob("*") if p.suffix in (".safetensors", ".pkl")]
    torch.set_num_threads(1)
    texts = held_out["text"].tolist()[: asked["timed"]]
    taken = seconds_a_text(lambda text: model.predict([text]), texts)
    return {
        "accuracy": float((held_out["label"] == said).mean()),
        "train_s": seconds,
        "size_mb": sum(path.stat().st_size for path in weights) / 1e6,
        "text_ms": 1000 * statistics.median(taken),
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
