from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdlora.models.saved import save_trained
from kdlora.ship.adapter_folder import as_lora, write_adapter
from kdlora.spec.run import EncoderRef
from tests.harness.models import adapt, load, logits, train
from tests.harness.tiny_models import save_tiny_encoder, tiny_batch

# What any user of peft writes; kdlora is not imported, so its own peft types are unknown.
PLAIN = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification
for folder in sys.argv[2:]:
    base = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], num_labels=3)
    model = PeftModel.from_pretrained(base, folder + "/adapter").eval()
    with torch.no_grad():
        torch.save(model(**torch.load(folder + "/batch")).logits, folder + "/logits")
assert "kdlora" not in sys.modules
"""


def test_plain_peft_loads_what_was_trained(tmp_path: Path) -> None:
    """Both variants whose form peft does not know, in one process of plain peft."""
    reference = save_tiny_encoder(tmp_path / "encoder", "bert")
    expected = {}
    for variant in ("mrlora", "olora"):
        loaded, folder = load(reference), tmp_path / variant
        batch = tiny_batch(loaded.tokenizer)
        options = {"init_weights": "svd", "use_rslora": True} if variant == "mrlora" else {}
        model = adapt(loaded, variant, options=options)
        train(model, batch)
        expected[folder] = logits(model, batch)
        save_trained(model, loaded.tokenizer, folder / "run", encoder=reference)
        assert write_adapter(folder / "run", folder / "adapter", reference) is None
        torch.save(batch, folder / "batch")
    arguments = [str(tmp_path / "encoder"), *map(str, expected)]
    subprocess.run([sys.executable, "-c", PLAIN, *arguments], check=True, timeout=120)
    for folder, before in expected.items():
        torch.testing.assert_close(torch.load(folder / "logits"), before, atol=1e-5, rtol=1e-4)
        config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
        assert config["peft_type"] == "LORA"
        for path in (folder / "adapter").glob("*.json"):  # nothing of this machine goes out
            assert str(tmp_path) not in path.read_text()


def test_the_blocks_of_mrlora_carry_their_scales() -> None:
    """Two blocks of rank 2 and 1 by hand: dW = s1 l1 B1 A1 + s2 l2 B2 A2."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, 5, generator=generator)
    b = torch.randn(4, 3, generator=generator)
    weights = {
        "m.layer.mrlora_A": a,
        "m.layer.mrlora_B": b,
        "m.layer.mrlora_lambda": torch.tensor([0.5, -2.0]),
        "m.classifier.weight": torch.ones(2, 4),
    }
    values = {"ranks": [2, 1], "alpha": 6.0, "use_rslora": False, "target_modules": ["layer"]}
    config, found = as_lora(values, weights)
    scale = config["lora_alpha"] / config["r"]
    update = scale * found["m.layer.lora_B.weight"] @ found["m.layer.lora_A.weight"]
    expected = 3 * 0.5 * b[:, :2] @ a[:2] + 6 * -2.0 * b[:, 2:] @ a[2:]
    torch.testing.assert_close(update, expected)
    assert config["target_modules"] == ["layer"]
    assert set(found) == {
        "m.layer.lora_A.weight", "m.layer.lora_B.weight", "m.classifier.weight",
    }  # fmt: skip


def test_what_cannot_be_an_adapter_folder_says_why(tmp_path: Path) -> None:
    reference = save_tiny_encoder(tmp_path / "encoder", "bert")
    why = write_adapter(tmp_path / "encoder", tmp_path / "adapter", reference)
    assert why is not None
    assert "no adapter" in why
    (tmp_path / "encoder" / "adapter_config.json").write_text("{}")
    cut = reference.model_copy(update={"layers": (0, 1)})
    why = write_adapter(tmp_path / "encoder", tmp_path / "adapter", cut)
    assert why is not None
    assert "layers 0, 1" in why
    assert not (tmp_path / "adapter").exists()


def test_the_weights_are_the_runs_own_for_plain_variants(tmp_path: Path) -> None:
    reference = save_tiny_encoder(tmp_path / "encoder", "distilbert")
    loaded = load(reference)
    save_trained(adapt(loaded, "dora"), loaded.tokenizer, tmp_path / "run", encoder=reference)
    write_adapter(tmp_path / "run", tmp_path / "adapter", reference)
    before = load_file(tmp_path / "run" / "adapter_model.safetensors")
    after = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("minilm-l6", "package", "sentence-transformers/all-MiniLM-L6-v2"),
        ("org/model", "hub", "org/model"),
        ("/home/a/models/mine", "folder", "mine"),
    ],
)
def test_the_base_model_is_called_as_peft_finds_it(
    tmp_path: Path, name: str, source: str, expected: str
) -> None:
    source_folder = tmp_path / "run"
    source_folder.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": "/somebody's/cache/minilm-l6"}
    (source_folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({"a": torch.zeros(1)}, source_folder / "adapter_model.safetensors")
    reference = EncoderRef.model_validate({"name": name, "source": source})
    assert write_adapter(source_folder, tmp_path / "adapter", reference) is None
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert written["base_model_name_or_path"] == expected
