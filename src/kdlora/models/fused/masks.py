"""Random masks for dropout, several times cheaper than one Bernoulli draw an element."""

from __future__ import annotations

import math

import torch


class Masks:
    """Keep-masks of one dropout probability, from a generator or torch's global one.

    Every element is decided by one random byte, so the probability is rounded to a multiple of
    1/256 (0.1 becomes 26/256 = 0.1016); `scale` divides by the share that is really kept, so
    dropout leaves the expectation as it is.
    """

    def __init__(self, probability: float) -> None:
        self.threshold = min(round(256 * probability), 255)
        self.scale = 256 / (256 - self.threshold)

    def draw(
        self,
        shape: tuple[int, ...],
        like: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor | None:
        """Ones (kept) and zeros of the given shape in the dtype of `like`; None: keep all."""
        if self.threshold == 0:
            return None
        count = math.prod(shape)
        words = torch.empty(-(-count // 8), dtype=torch.int64, device=like.device)
        words.random_(-(2**63), None, generator=generator)
        # Bytes become numbers before they are compared: that is vectorised, a comparison of bytes
        # is not. 0 to 255 are exact in every dtype.
        return words.view(torch.uint8)[:count].to(like.dtype).ge_(self.threshold).view(shape)
