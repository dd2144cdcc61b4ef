"""MrLoRA, multi-rank LoRA, as a tuner of peft.

Several low-rank blocks of falling rank stand beside each adapted layer, each with a learnable
weight: ``dW = sum_i s_i lambda_i B_i A_i`` with ranks r, r/2, r/4, ... 1, ``s_i = alpha / r_i``
(``alpha / sqrt(r_i)`` with `use_rslora`) and every lambda_i = 1 at first. The blocks lie
concatenated in one A [R, in] and one B [out, R], R the sum of the ranks, so a layer costs two
matmuls whatever the number of blocks: the weights of the blocks scale the R hidden units between
them. With all lambda_i = 1 and equal s_i this is plain LoRA of rank R.

Importing this module registers the variant with peft under the type MRLORA.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from peft.config import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
from peft.utils import (
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    PeftType,
    register_peft_method,
)
from torch import nn
from torch.nn import functional

from kdlora.vocabulary.adapter_size import halving_ranks


@dataclass
class MrLoraConfig(PeftConfig):
    """Settings of one MrLoRA adapter.

    `ranks` default to `halving_ranks(r)`. `init_weights` is "kaiming" (A random, B zero) or "svd":
    the blocks begin as the leading singular vectors of the base weight, the largest for the first
    block, and what they hold is taken out of the base weight, so the layer's output is unchanged.
    The base weight is then another one: with the adapter disabled the layer is not the original,
    and no other adapter can stand on the layer before it.
    """

    r: int = field(default=8, metadata={"help": "rank of the largest block"})
    ranks: list[int] | None = field(default=None, metadata={"help": "rank of every block"})
    alpha: float = field(default=16.0, metadata={"help": "numerator of every block's scale"})
    dropout: float = field(default=0.0, metadata={"help": "dropout before A"})
    use_rslora: bool = field(default=False, metadata={"help": "scale by alpha / sqrt(rank)"})
    init_weights: str = field(default="kaiming", metadata={"help": "kaiming or svd"})
    target_modules: list[str] | str | None = field(default=None, metadata={"help": "module names"})
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "left out"})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "trained whole"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("MRLORA")
        if self.ranks is None:
            self.ranks = halving_ranks(self.r)
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]
        problems = []
        if not self.ranks or any(isinstance(r, bool) or int(r) != r or r < 1 for r in self.ranks):
            problems.append(f"ranks must be positive whole numbers, got {self.ranks}")
        if self.init_weights not in ("kaiming", "svd"):
            problems.append(f"init_weights must be kaiming or svd, got {self.init_weights!r}")
        if problems:
            raise ValueError("; ".join(problems))

    def scales(self) -> list[float]:
        """The fixed scale ``s_i`` of every block."""
        assert self.ranks is not None
        return [self.alpha / (math.sqrt(r) if self.use_rslora else r) for r in self.ranks]


class MrLoraLinear(nn.Module, BaseTunerLayer):
    """A Linear layer with MrLoRA adapters beside it.

    Per adapter: `mrlora_A` [R, in], `mrlora_B` [out, R] and `mrlora_lambda` [blocks].
    """

    adapter_layer_names = ("mrlora_A", "mrlora_B", "mrlora_lambda")
    other_param_names = ("ranks", "scaling", "mrlora_dropout", "_units")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: MrLoraConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        linear = self._linear()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.ranks: dict[str, list[int]] = {}
        self.scaling: dict[str, list[float]] = {}
        self.mrlora_dropout = nn.ModuleDict()
        self.mrlora_A = nn.ParameterDict()
        self.mrlora_B = nn.ParameterDict()
        self.mrlora_lambda = nn.ParameterDict()
        self._units: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._disable_adapters = False
        self.merged_adapters = []
        linear.weight.requires_grad = False
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def _linear(self) -> nn.Linear:
        return cast(nn.Linear, self.get_base_layer())

    def update_layer(self, adapter_name: str, config: MrLoraConfig) -> None:
        """Create or replace one adapter's parameters."""
        ranks, scales = list(config.ranks or []), config.scales()
        self.ranks[adapter_name], self.scaling[adapter_name] = ranks, scales
        self._units.pop(adapter_name, None)
        self.mrlora_dropout[adapter_name] = (
            nn.Dropout(config.dropout) if config.dropout > 0 else nn.Identity()
        )
        total = sum(ranks)
        a = torch.empty(total, self.in_features)
        b = torch.zeros(self.out_features, total)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        if config.init_weights == "svd" and not a.is_meta:
            if len(self.mrlora_A):
                raise ValueError(
                    f"init_weights svd for adapter '{adapter_name}' would change the base weights "
                    f"under {', '.join(self.mrlora_A)}: begin with it on a model without another "
                    "adapter, or give init_weights kaiming"
                )
            self._take_from_base(
                a, b, [s for s, r in zip(scales, ranks, strict=True) for _ in range(r)]
            )
        self.mrlora_A[adapter_name] = nn.Parameter(a)
        self.mrlora_B[adapter_name] = nn.Parameter(b)
        self.mrlora_lambda[adapter_name] = nn.Parameter(torch.ones(len(ranks)))
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    @torch.no_grad()
    def _take_from_base(self, a: torch.Tensor, b: torch.Tensor, scales: list[float]) -> None:
        """Fill A and B with the leading singular triplets and subtract them from the base.

        Beyond the weight's own rank nothing is left to take: those rows keep random A and zero B.
        """
        weight = self._linear().weight
        u, sigma, vh = torch.linalg.svd(weight.float().cpu(), full_matrices=False)
        count = min(len(sigma), len(scales))
        scale = torch.tensor(scales[:count])
        root = torch.sqrt(sigma[:count] / scale)
        a[:count] = root[:, None] * vh[:count]
        b[:, :count] = u[:, :count] * root
        taken = (b[:, :count] * scale) @ a[:count]
        weight.sub_(taken.to(weight.device, weight.dtype))

    def fixed_scales(self, adapter_name: str) -> torch.Tensor:
        """``s_i`` of the block that each of the R hidden units belongs to, [R]."""
        return self._unit_table(adapter_name)[1]

    def unit_scales(self, adapter_name: str) -> torch.Tensor:
        """``s_i lambda_i`` of the block that each of the R hidden units belongs to, [R]."""
        blocks, scales = self._unit_table(adapter_name)
        return scales * self.mrlora_lambda[adapter_name][blocks]

    def _unit_table(self, adapter_name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Block index and fixed scale of every hidden unit, kept on the adapter's device.

        No buffers: they would be saved, and lost when peft creates layers on the meta device.
        """
        weights = self.mrlora_lambda[adapter_name]
        table = self._units.get(adapter_name)
        if table is None or table[1].device != weights.device or table[1].dtype != weights.dtype:
            ranks = torch.tensor(self.ranks[adapter_name])
            blocks = torch.arange(len(ranks)).repeat_interleave(ranks)
            scales = torch.tensor(self.scaling[adapter_name], dtype=weights.dtype)[blocks]
            table = (blocks.to(weights.device), scales.to(weights.device))
            self._units[adapter_name] = table
        return table

    def get_delta_weight(self, adapter_name: str) -> torch.Tensor:
        """``dW`` in at least fp32, [out, in]."""
        a, b = self.mrlora_A[adapter_name], self.mrlora_B[adapter_name]
        dtype = torch.promote_types(a.dtype, torch.float32)
        return (b.to(dtype) * self.unit_scales(adapter_name).to(dtype)) @ a.to(dtype)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        dtype = result.dtype
        for name in self.active_adapters:
            if name not in self.mrlora_A:
                continue
            a, b = self.mrlora_A[name], self.mrlora_B[name]
            hidden = functional.linear(
                self.mrlora_dropout[name](self._cast_input_dtype(x, a.dtype)), a
            )
            result = result + functional.linear(hidden * self.unit_scales(name), b)
        return result.to(dtype)

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the adapters' ``dW`` to the base weight; `safe_merge` refuses non-finite results."""
        weight = self._linear().weight
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in self.mrlora_A:
                continue
            merged = weight.data + self.get_delta_weight(name).to(weight.dtype)
            if safe_merge and not torch.isfinite(merged).all():
                raise ValueError(f"adapter {name} holds weights that are not finite")
            weight.data = merged
            self.merged_adapters.append(name)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take every merged adapter out of the base weight again."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        weight = self._linear().weight
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            if name in self.mrlora_A:
                weight.data = weight.data - self.get_delta_weight(name).to(weight.dtype)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True


class MrLoraModel(BaseTuner):
    """The model-level part of the tuner: which layers to wrap, and in what."""

    prefix = "mrlora_"
    tuner_layer_cls = MrLoraLinear
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING  # type: ignore[assignment]

    def _create_and_replace(  # type: ignore[override]
        self,
        peft_config: MrLoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: Any,
    ) -> None:
        if isinstance(target, MrLoraLinear):
            target.update_layer(adapter_name, peft_config)
            return
        linear = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        if not isinstance(linear, nn.Linear):
            raise TypeError(
                f"MrLoRA adapts Linear layers; {current_key} is a {type(linear).__name__}"
            )
        layer = MrLoraLinear(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # a further adapter does not train until it is chosen
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        """The base class's expects a `weight` even of whole heads; devices are set already."""
        setattr(parent, child_name, new_module)


def _register() -> None:
    """Make peft know the type: its enum is closed, so a member has to be added to it by hand."""
    if "MRLORA" not in PeftType.__members__:
        member = str.__new__(PeftType, "MRLORA")
        member._name_, member._value_ = "MRLORA", "MRLORA"
        type.__setattr__(PeftType, "MRLORA", member)
        PeftType._member_names_.append("MRLORA")
        PeftType._member_map_["MRLORA"] = member
        PeftType._value2member_map_["MRLORA"] = member
    if PeftType("MRLORA") not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name="mrlora", config_cls=MrLoraConfig, model_cls=MrLoraModel)


_register()
