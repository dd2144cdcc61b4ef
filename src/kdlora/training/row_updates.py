"""AdamW for embeddings, of which a batch has a few rows: the others wait, and lose nothing.

A step of AdamW changes every row of a table of embeddings, although a batch gives a gradient to a
few hundred of them: weights decay, and a row that was in an earlier batch goes on in its direction.
Both are known beforehand. So a row is left alone until it is in a batch again, or the weights are
asked for, and what it missed is then done at once. The result is that of AdamW but for rounding
(`torch.optim.SparseAdam` leaves out what a row misses, which is most of what one batch does to it).

Source of AdamW: Loshchilov and Hutter (2019), "Decoupled weight decay regularization".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

FEWEST_ROWS = 8192  # of a table whose rows are worth the book-keeping
FADED = 128  # steps without a gradient, after which what is left of the first moment moves nothing:
# 0.9 ** 128 of a few learning rates is less than the rounding of a weight
EARLY = 128  # steps in which the second moment is corrected so much that they are added one by one
AT_ONCE = 1024  # rows that are brought up to date together


@contextmanager
def gradients_by_row(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Large embeddings that are trained have gradients of the rows of a batch alone, meanwhile.

    On a processor only: elsewhere to find those rows is to wait for the device in every step.
    """
    owners = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    changed = []
    if device.type == "cpu":
        for module in model.modules():
            if (
                isinstance(module, nn.Embedding)
                and module.num_embeddings >= FEWEST_ROWS
                and module.weight.requires_grad
                and module.weight.dtype == torch.float32
                and owners[id(module.weight)] == 1  # another module's share of it would be dense
                and not (module.sparse or module.scale_grad_by_freq or module.max_norm)
            ):
                module.sparse = True
                changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            module.sparse = False


@dataclass(frozen=True)
class _Steps:
    """What AdamW does in each step so far, [steps + 1]; the first entry stands before all steps.

    `kept` is the share of a weight that decay leaves after a step and all before it. The first
    moment is multiplied by `pace`, which is divided by `kept`, the root of the second by `spread`.
    """

    kept: torch.Tensor
    pace: torch.Tensor
    spread: torch.Tensor

    @classmethod
    def so_far(cls, group: dict[str, Any], rates: list[float]) -> _Steps:
        beta1, beta2 = group["betas"]
        steps = torch.arange(len(rates) + 1, dtype=torch.float64)
        lr = torch.tensor([0.0, *rates], dtype=torch.float64)
        kept = (1 - lr * group["weight_decay"]).cumprod(0)
        return cls(
            kept=kept,
            pace=lr / (1 - beta1**steps).clamp_min(1e-12) / kept,
            spread=(1 - beta2**steps).clamp_min(1e-12).rsqrt(),
        )


class RowAdamW(torch.optim.AdamW):
    """Fused AdamW; a parameter with a sparse gradient [rows, d] is updated where it has one.

    Such a parameter is behind until `settle` is called. Its state has, beside AdamW's own, by row:
    up to which step it was `applied`, and at which it was last `touched` by a gradient (0: never);
    and the learning rates of all steps so far.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step; none where `found_inf` is 1, as the fused optimizer does it."""
        by_row = []
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is not None and gradient.is_sparse:
                    by_row.append((group, parameter, gradient.coalesce()))
                    parameter.grad = None
                elif gradient is not None and "applied" in self.state.get(parameter, {}):
                    self._settle(group, parameter)  # resumed where gradients are dense
                    for name in ("applied", "touched", "rates"):
                        del self.state[parameter][name]
        super().step()
        if not by_row:
            return
        found_inf, scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        if found_inf is not None and bool(found_inf):
            return
        for group, parameter, gradient in by_row:
            rows, values = gradient.indices()[0], gradient.values()
            self._row_step(group, parameter, rows, values if scale is None else values / scale)

    @torch.no_grad()
    def settle(self) -> None:
        """Bring every row up to the last step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if "applied" in self.state.get(parameter, {}):
                    self._settle(group, parameter)

    def _row_step(
        self, group: dict[str, Any], parameter: nn.Parameter, rows: torch.Tensor, g: torch.Tensor
    ) -> None:
        state = self._state_by_row(parameter)
        self._catch_up(group, parameter, rows, _Steps.so_far(group, state["rates"]))
        state["step"] += 1
        step = int(state["step"])
        lr, (beta1, beta2) = group["lr"], group["betas"]
        state["rates"].append(lr)
        first, second = state["exp_avg"][rows], state["exp_avg_sq"][rows]
        first.lerp_(g, 1 - beta1)
        second.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        root = (second / (1 - beta2**step)).sqrt_().add_(group["eps"])
        weights = parameter[rows].mul_(1 - lr * group["weight_decay"])
        parameter[rows] = weights.addcdiv_(first, root, value=-lr / (1 - beta1**step))
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = first, second
        state["applied"][rows] = state["touched"][rows] = step

    def _state_by_row(self, parameter: nn.Parameter) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if "exp_avg" not in state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        if "applied" not in state:
            done = int(state["step"])  # steps with dense gradients, as earlier versions took them
            state["applied"] = torch.full(
                (len(parameter),), float(done)
            )  # exact in fp32, as loaded
            state["touched"] = state["applied"].clone()
            state["rates"] = [0.0] * done
        return state

    def _settle(self, group: dict[str, Any], parameter: nn.Parameter) -> None:
        steps = _Steps.so_far(group, self.state[parameter]["rates"])
        for rows in torch.arange(len(parameter)).split(AT_ONCE):
            self._catch_up(group, parameter, rows, steps)

    def _catch_up(
        self, group: dict[str, Any], parameter: nn.Parameter, rows: torch.Tensor, steps: _Steps
    ) -> None:
        """Give `rows` the steps that they missed, in which their gradient was zero."""
        state = self.state[parameter]
        now = int(state["step"])
        rows = rows[state["applied"][rows] < now]
        if not len(rows):
            return
        (beta1, beta2), eps = group["betas"], group["eps"]
        applied, touched = state["applied"][rows].long(), state["touched"][rows].long()
        state["applied"][rows] = now
        kept = steps.kept
        weights = parameter[rows].mul_((kept[now] / kept[applied]).float()[:, None])
        parameter[rows] = weights
        known = touched > 0
        if not bool(known.any()):
            return
        rows, applied, touched, weights = (x[known] for x in (rows, applied, touched, weights))
        first, second = state["exp_avg"][rows], state["exp_avg_sq"][rows]
        missed = (now - applied).double()
        state["exp_avg"][rows] = first * _share(beta1, missed.clamp(max=600))  # no denormals
        state["exp_avg_sq"][rows] = second * _share(beta2, missed)
        last = (touched + FADED).clamp(max=now)
        longest = int((last - applied).max())
        if longest < 1:
            return
        past = torch.arange(1, longest + 1)
        at = (applied[:, None] + past).clamp(max=now)
        size = steps.pace[at] * (kept[now] * beta1 ** past.double())
        size = size.where(applied[:, None] + past <= last[:, None], 0.0)
        slope = steps.spread[at] * beta2 ** (past / 2).double()
        root = second.sqrt_()
        early = applied < EARLY
        way = torch.empty_like(root)
        if bool(early.any()):
            way[early] = sum_one_by_one(root[early], size[early], slope[early], eps)
        way[~early] = sum_by_moments(root[~early], size[~early], slope[~early], eps)
        parameter[rows] = weights.addcmul_(first, way, value=-1)


def _share(beta: float, steps: torch.Tensor) -> torch.Tensor:
    return (beta**steps).float()[:, None]


def sum_one_by_one(
    root: torch.Tensor, size: torch.Tensor, slope: torch.Tensor, eps: float
) -> torch.Tensor:
    """What AdamW's steps add up to: the sum over j of ``size[:, j] / (slope[:, j] * root + eps)``.

    Args:
        root: of the second moment at first [n, d].
        size, slope: of each row and step [n, steps]: what it multiplies the first moment and the
            root by.

    Returns what the first moment [n, d] is to be multiplied by.
    """
    total = torch.zeros_like(root)
    for one, other in zip(size.float().unbind(1), slope.float().unbind(1), strict=True):
        total.addcdiv_(one[:, None], (root * other[:, None]).add_(eps))
    return total


def sum_by_moments(
    root: torch.Tensor, size: torch.Tensor, slope: torch.Tensor, eps: float
) -> torch.Tensor:
    """As `sum_one_by_one`, in as many operations for a hundred steps as for one.

    The slopes hardly differ where the second moment is `EARLY` steps old, so that the sum is that
    of a Taylor series about their mean, up to the fifth power.
    """
    total = size.sum(1)
    mean = (size * slope).sum(1) / total.clamp_min(1e-300)
    off = slope - mean[:, None]
    power, moments = size * off, []
    for _ in range(4):
        power = power * off
        moments.append(power.sum(1).float()[:, None])
    two, three, four, five = moments
    part = (root * mean.float()[:, None]).add_(eps).reciprocal_()
    turn = root * part
    series = two - turn * (three - turn * (four - turn * five))
    return series.mul_(turn).mul_(turn).add_(total.float()[:, None]).mul_(part)
