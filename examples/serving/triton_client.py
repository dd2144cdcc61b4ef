"""Ask a model that Triton serves, with the tokenizer of the export: needs tokenizers and numpy.

python examples/serving/triton_client.py out/moods http://127.0.0.1:8001 "what a lovely film"
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

PARTS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


def request_of(export: Path, text: str) -> dict[str, Any]:
    """The body of an inference request (KServe v2) for one text, cut and without padding.

    Padding would change the answers of an INT8 form, which scales by what it sees.
    """
    about = json.loads((export / "export.json").read_text(encoding="utf-8"))
    reader = tokenizers.Tokenizer.from_file(str(export / "tokenizer.json"))
    reader.no_padding()
    row = reader.encode(text)
    return {
        "inputs": [
            {
                "name": name,
                "datatype": "INT64",
                "shape": [1, len(row.ids)],
                "data": [list(getattr(row, PARTS[name]))],
            }
            for name in about["inputs"]
        ]
    }


def labels_of(export: Path, answer: dict[str, Any]) -> list[tuple[str, float]]:
    """The label of each text and its probability, from the logits that came back."""
    card = json.loads((export / "kdlora.json").read_text(encoding="utf-8"))
    logits = next(o for o in answer["outputs"] if o["name"] == "logits")
    rows = np.array(logits["data"], dtype=np.float64).reshape(logits["shape"])
    temperature = (card.get("calibration") or {}).get("temperature") or 1.0
    shares = np.exp((rows - rows.max(axis=1, keepdims=True)) / temperature)
    shares /= shares.sum(axis=1, keepdims=True)
    best = shares.argmax(axis=1)
    return [(card["label_names"][i], float(row[i])) for i, row in zip(best, shares, strict=True)]


def main() -> None:
    export, address, *texts = sys.argv[1:]
    for text in texts:
        body = json.dumps(request_of(Path(export), text)).encode()
        url = f"{address}/v2/models/{Path(export).resolve().name}/infer"
        asked = urllib.request.Request(url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            (found,) = labels_of(Path(export), json.load(answer))
        print(f"{found[0]}\t{found[1]:.3f}\t{text}")


if __name__ == "__main__":
    main()
