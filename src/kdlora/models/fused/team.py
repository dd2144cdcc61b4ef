"""A batch computed by several threads side by side, each with its own texts.

Splitting every operation between the threads makes them wait for each other some hundred times a
step, and oneDNN leaves some products to one of them. Texts do not depend on each other before the
loss, so a thread can take its share through all layers alone, and its activations stay in its
core's cache. `python -m benchmarks speed` compares the two ("operations shared").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Barrier, Lock
from typing import Any

import torch
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

# Tokens times width of a share below which a thread of its own is not worth its overhead: with two
# threads DistilBERT wins with 430 tokens each and loses with 190, MiniLM loses with 430.
LEAST = 2**18


class Team:
    """Threads in which torch's operations use one core each.

    While it is made, torch's number of threads is 1 for threads that use torch for the first time;
    for all others, the caller's among them, it stays `size`.
    """

    _making = Lock()

    def __init__(self, size: int) -> None:
        """Raises RuntimeError where the system allows no more threads."""
        self.size = size
        self.pool = ThreadPoolExecutor(size, thread_name_prefix="kdlora-team")
        barrier = Barrier(size)  # so that no thread does the part of another

        def alone() -> None:
            # At a thread's first use torch sets its number to that of the process; a number that
            # was set before would be overwritten.
            torch.get_num_threads()
            torch.set_num_threads(1)
            barrier.wait()

        with Team._making:
            try:
                for ready in [self.pool.submit(alone) for _ in range(size)]:
                    ready.result()
            except BaseException:
                barrier.abort()
                self.pool.shutdown(wait=False)
                raise
            finally:
                torch.set_num_threads(size)

    def each(self, work: Callable[[int], Any], count: int) -> list[Any]:
        """``[work(0), work(1), ...]``, side by side; raises what the first of them raised."""
        futures = [self.pool.submit(work, i) for i in range(count)]
        wait(futures)
        errors = [future.exception() for future in futures]
        error = next(filter(None, errors), None)
        try:
            if error is not None:
                raise error
            return [future.result() for future in futures]
        finally:
            # An error holds its frame, and the frame what the others computed: after running out
            # of memory that has to go at once, not when the garbage collector comes by.
            del error, errors, futures


def shares(texts: int, length: int, width: int, threads: int) -> list[int]:
    """How many texts of `length` tokens each thread takes; one share where threads do not pay."""
    count = min(threads, texts, texts * length * width // LEAST)
    if count < 2:
        return [texts]
    least, more = divmod(texts, count)
    return [least + (i < more) for i in range(count)]


def side_by_side(
    team: Team,
    encode: Callable[[int], torch.Tensor],
    sizes: Sequence[int],
    parameters: Sequence[nn.Parameter],
) -> torch.Tensor:
    """``cat([encode(0), encode(1), ...])``, each computed by a thread of its own.

    Args:
        encode: share i of the batch -> [sizes[i], d].
        parameters: all tensors that `encode` uses and that have gradients. The gradients of the
            shares are added in their order, so that the sum does not depend on who was first.
    """
    if torch.is_grad_enabled() and parameters:
        return _SideBySide.apply(team, encode, tuple(sizes), *parameters)
    inference = torch.is_inference_mode_enabled()

    def without_gradient(share: int) -> torch.Tensor:
        with torch.inference_mode(inference), torch.no_grad():
            return encode(share)

    return torch.cat(team.each(without_gradient, len(sizes)))


class _SideBySide(Function):
    """A graph for every share, of which autograd sees the whole as one operation."""

    @staticmethod
    def forward(
        ctx: Any,
        team: Team,
        encode: Callable[[int], torch.Tensor],
        sizes: list[int],
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        def with_gradient(share: int) -> torch.Tensor:
            with torch.enable_grad():
                return encode(share)

        ctx.outputs = team.each(with_gradient, len(sizes))
        ctx.team, ctx.sizes, ctx.parameters = team, sizes, parameters
        return torch.cat([output.detach() for output in ctx.outputs])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        outputs, ctx.outputs = ctx.outputs, None  # a graph is used once, and then its memory freed
        if outputs is None:
            raise RuntimeError("a second backward pass through the same forward pass")
        pieces = grad.split(ctx.sizes)

        def gradients(share: int) -> tuple[torch.Tensor | None, ...]:
            return torch.autograd.grad(
                outputs[share], ctx.parameters, pieces[share], allow_unused=True
            )

        found = ctx.team.each(gradients, len(pieces))
        return None, None, None, *map(_sum, zip(*found, strict=True))


def _sum(gradients: tuple[torch.Tensor | None, ...]) -> torch.Tensor | None:
    total: torch.Tensor | None = None
    for gradient in gradients:
        if gradient is not None:
            total = gradient if total is None else total + gradient
    return total
