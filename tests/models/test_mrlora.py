from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from kdlora.models.mrlora import MrLoraConfig, MrLoraLinear
from tests.harness.tiny_models import save_tiny_encoder, tiny_config

IN, OUT = 12, 9


class Net(nn.Module):
    """Two layers, so that adapters of both get gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(IN, OUT)
        self.second = nn.Linear(OUT, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


def _net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def _adapted(random: bool = True, **settings) -> PeftModel:
    """An adapted net; with `random` its B and lambda are no longer at their start."""
    config = MrLoraConfig(
        **({"r": 4, "alpha": 8, "target_modules": ["first", "second"]} | settings)
    )
    model = get_peft_model(_net(), config)
    if random:
        _scramble(model)
    return model.eval()


def _scramble(model: nn.Module, seed: int = 3) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "mrlora_B" in name or "mrlora_lambda" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)


def _layers(model: nn.Module) -> list[MrLoraLinear]:
    return [module for module in model.modules() if isinstance(module, MrLoraLinear)]


X = torch.randn(7, IN, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("rslora", [False, True])
def test_is_the_sum_of_its_blocks(rslora: bool) -> None:
    """Computed block by block from the definition."""
    model = _adapted(r=8, use_rslora=rslora)
    layer = _layers(model)[0]
    a, b = layer.mrlora_A["default"], layer.mrlora_B["default"]
    weights, ranks = layer.mrlora_lambda["default"], [8, 4, 2, 1]
    expected, start = layer.base_layer(X), 0
    for weight, rank in zip(weights, ranks, strict=True):
        scale = 8 / (math.sqrt(rank) if rslora else rank)
        block = slice(start, start + rank)
        expected = expected + scale * weight * X @ a[block].T @ b[:, block].T
        start += rank
    assert start == len(a)
    torch.testing.assert_close(layer(X), expected)
    torch.testing.assert_close(
        layer.base_layer(X) + X @ layer.get_delta_weight("default").T, expected
    )


@pytest.mark.parametrize(
    ("ranks", "weights", "scale"),
    [
        ([4, 4, 4], [1.0, 1.0, 1.0], 8 / 4),  # equal ranks, hence equal scales
        ([8, 4, 2, 1], [8.0, 4.0, 2.0, 1.0], 8.0),  # weights that make the scales equal
    ],
)
def test_with_equal_scales_it_is_lora_of_the_summed_rank(ranks, weights, scale: float) -> None:
    """Outputs, and gradients of A and B, of peft's own LoRA with the same factors."""
    total = sum(ranks)
    ours = _adapted(ranks=ranks)
    config = LoraConfig(r=total, lora_alpha=scale * total, target_modules=["first", "second"])
    plain = get_peft_model(_net(), config).eval()
    for name, layer in ours.named_modules():
        if isinstance(layer, MrLoraLinear):
            layer.mrlora_lambda["default"].data = torch.tensor(weights)
            twin = plain.get_submodule(name)
            twin.lora_A["default"].weight.data = layer.mrlora_A["default"].data.clone()
            twin.lora_B["default"].weight.data = layer.mrlora_B["default"].data.clone()
    torch.testing.assert_close(ours(X), plain(X))
    for model in (ours, plain):
        model(X).square().sum().backward()
    for name, layer in ours.named_modules():
        if isinstance(layer, MrLoraLinear):
            twin = plain.get_submodule(name)
            for mine, theirs in ((layer.mrlora_A, twin.lora_A), (layer.mrlora_B, twin.lora_B)):
                torch.testing.assert_close(mine["default"].grad, theirs["default"].weight.grad)


def test_parameter_count_of_the_reports() -> None:
    """Ranks 8, 4, 2, 1 on the query and value of 12 layers of width 768."""
    with torch.device("meta"):
        base = BertForSequenceClassification(BertConfig())
        model = get_peft_model(base, MrLoraConfig(r=8, target_modules=["query", "value"]))
    adapter = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert adapter == 2 * 12 * (15 * 1536 + 4)


def test_start() -> None:
    model = _adapted(random=False)
    torch.testing.assert_close(model(X), _net()(X), atol=0, rtol=0)
    for layer in _layers(model):
        assert torch.equal(layer.mrlora_lambda["default"], torch.ones(3))
        assert not layer.mrlora_B["default"].any()
        a = layer.mrlora_A["default"]
        bound = math.sqrt(1 / layer.in_features)  # Kaiming's uniform with a = sqrt 5
        assert 0.8 * bound < a.abs().max() <= bound


@pytest.mark.parametrize("ranks", [[4, 2, 1], [8, 8]])  # 16 is more than the layers have
def test_svd_start_keeps_the_function_and_takes_the_leading_part(ranks: list[int]) -> None:
    model = _adapted(random=False, ranks=ranks, init_weights="svd")
    torch.testing.assert_close(model(X), _net()(X), atol=1e-5, rtol=0)
    layer, original = _layers(model)[0], _net().first.weight
    sigma = torch.linalg.svdvals(original)
    taken = torch.linalg.svdvals(layer.get_delta_weight("default"))
    count = min(sum(ranks), OUT)
    torch.testing.assert_close(taken[:count], sigma[:count], atol=1e-5, rtol=0)
    left = torch.linalg.svdvals(layer.base_layer.weight)
    torch.testing.assert_close(left[: OUT - count], sigma[count:], atol=1e-5, rtol=0)
    # the first block holds the largest singular values
    b, a = layer.mrlora_B["default"], layer.mrlora_A["default"]
    block = layer.scaling["default"][0] * b[:, : ranks[0]] @ a[: ranks[0]]
    torch.testing.assert_close(
        torch.linalg.svdvals(block)[: ranks[0]], sigma[: ranks[0]], atol=1e-5, rtol=0
    )


def test_merge_and_unmerge() -> None:
    model = _adapted()
    expected, base = model(X), _net()
    model.merge_adapter(safe_merge=True)
    torch.testing.assert_close(model(X), expected)
    merged = _layers(model)[0].base_layer.weight
    assert not torch.allclose(merged, base.first.weight)
    model.unmerge_adapter()
    torch.testing.assert_close(_layers(model)[0].base_layer.weight, base.first.weight)
    torch.testing.assert_close(model(X), expected)
    with pytest.warns(UserWarning, match="Already unmerged"):
        _layers(model)[0].unmerge()
    plain = model.merge_and_unload()
    assert type(plain.first) is nn.Linear
    torch.testing.assert_close(plain(X), expected)


def test_merging_refuses_what_is_not_finite() -> None:
    model = _adapted()
    _layers(model)[0].mrlora_lambda["default"].data[0] = math.inf
    with pytest.raises(ValueError, match="not finite"):
        model.merge_and_unload(safe_merge=True)


def test_disabled_adapter_is_the_base_model() -> None:
    model, base = _adapted(), _net()(X)
    with model.disable_adapter():
        torch.testing.assert_close(model(X), base)
    assert not torch.allclose(model(X), base)
    model.merge_adapter()
    with model.disable_adapter():  # takes the merged weights out again
        torch.testing.assert_close(model(X), base)


@pytest.mark.parametrize("low_memory", [False, True])
def test_save_and_load(tmp_path, low_memory: bool) -> None:
    model = _adapted(r=8, alpha=3, use_rslora=True, modules_to_save=None)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(_net(), tmp_path, low_cpu_mem_usage=low_memory)
    torch.testing.assert_close(again.eval()(X), model(X))
    assert not any(p.requires_grad for p in again.parameters())
    trainable = PeftModel.from_pretrained(_net(), tmp_path, is_trainable=True)
    assert {n for n, p in trainable.named_parameters() if p.requires_grad} == {
        n for n, _ in trainable.named_parameters() if "mrlora_" in n
    }
    assert again.peft_config["default"].ranks == [8, 4, 2, 1]


def test_state_dict_round_trip() -> None:
    model, other = _adapted(), _adapted(random=False)
    state = get_peft_model_state_dict(model)
    assert {key.rsplit(".", 1)[1] for key in state} == {"mrlora_A", "mrlora_B", "mrlora_lambda"}
    assert len(state) == 6
    result = set_peft_model_state_dict(other, state)
    assert not result.unexpected_keys
    torch.testing.assert_close(other(X), model(X))


def test_several_adapters() -> None:
    model = _adapted()
    alone = model(X)
    second = MrLoraConfig(r=2, alpha=1, target_modules=["first"])
    model.add_adapter("second", second)
    torch.testing.assert_close(model(X), alone)  # not active until it is chosen
    assert not any(p.requires_grad for n, p in model.named_parameters() if n.endswith(".second"))
    model.set_adapter("second")
    torch.testing.assert_close(model(X), _net()(X))  # B is zero
    _scramble(model, seed=8)
    changed = model(X)
    assert {n.rsplit(".", 1)[1] for n, p in model.named_parameters() if p.requires_grad} == {
        "second"
    }
    assert not torch.allclose(changed, _net()(X))
    model.base_model.set_adapter(["default", "second"])
    both = model(X)
    model.base_model.merge_adapter(["default", "second"])
    torch.testing.assert_close(model(X), both)
    model.base_model.unmerge_adapter()
    model.set_adapter("second")
    torch.testing.assert_close(model(X), changed)
    model.delete_adapter("default")
    torch.testing.assert_close(model(X), changed)
    assert not any(n.endswith(".default") for n, _ in model.named_parameters())


def test_no_adapter_takes_the_base_away_from_under_another() -> None:
    model = _adapted()
    before = model(X)
    late = MrLoraConfig(r=2, target_modules=["first"], init_weights="svd")
    with pytest.raises(ValueError, match="'late' would change the base weights under default"):
        model.add_adapter("late", late)
    torch.testing.assert_close(model(X), before)


def test_disabling_an_svd_adapter_is_not_the_original_as_the_docs_say() -> None:
    model = _adapted(random=False, init_weights="svd")
    torch.testing.assert_close(model(X), _net()(X))
    with model.disable_adapter():
        assert not torch.allclose(model(X), _net()(X), atol=1e-3)


def test_the_example_of_the_docs_with_peft_alone(tmp_path, monkeypatch) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "adaptations.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    save_tiny_encoder(tmp_path / "distilbert-base-uncased", "distilbert", head=True)
    monkeypatch.chdir(tmp_path)  # the name is then a folder
    names: dict = {}
    trained, rest = code.split("# ... train it, then\n")
    exec(trained, names)
    _scramble(names["model"])
    batch = {"input_ids": torch.arange(5, 15).view(2, 5)}
    expected = names["model"].eval()(**batch).logits
    exec(rest, names)
    torch.testing.assert_close(names["again"].eval()(**batch).logits, expected)
    torch.testing.assert_close(names["plain"].eval()(**batch).logits, expected)
    assert not any(isinstance(m, MrLoraLinear) for m in names["plain"].modules())
    scales = names["config"].scales()
    assert scales == [2, 4, 8, 16]  # as the text says


def test_heads_of_several_layers_are_saved_whole(tmp_path) -> None:
    """With a task type, as peft's own users have it; a RoBERTa head has two layers."""
    from transformers import AutoModelForSequenceClassification

    def base() -> nn.Module:
        torch.manual_seed(4)
        return AutoModelForSequenceClassification.from_config(tiny_config("roberta"))

    config = MrLoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS")
    model = get_peft_model(base(), config).eval()
    _scramble(model)
    batch = {"input_ids": torch.arange(5, 15).view(2, 5)}
    expected = model(**batch).logits
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base(), tmp_path)
    torch.testing.assert_close(again.eval()(**batch).logits, expected)
    torch.testing.assert_close(again.merge_and_unload()(**batch).logits, expected)


def test_dropout_only_while_training() -> None:
    model = _adapted(dropout=0.5)
    torch.testing.assert_close(model(X), model(X), atol=0, rtol=0)
    model.train()
    assert not torch.allclose(model(X), model(X))


def test_moves_between_types() -> None:
    model = _adapted()
    expected = model(X)
    model.double()
    torch.testing.assert_close(model(X.double()), expected.double(), atol=1e-5, rtol=1e-5)
    model.float()
    for layer in _layers(model):  # as in training: the base in bf16, the adapter in fp32
        layer.base_layer.bfloat16()
    assert model(X.bfloat16()).dtype == torch.bfloat16


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match=r"ranks must be positive.*init_weights must be"):
        MrLoraConfig(ranks=[2, 0], init_weights="zeros")
    embed = nn.ModuleDict({"embed": nn.Embedding(3, 4)})
    with pytest.raises(TypeError, match="embed is a Embedding"):
        get_peft_model(embed, MrLoraConfig(target_modules=["embed"]))
