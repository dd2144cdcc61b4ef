"""Timing several programs in turns, each in a process of its own.

A shared machine drifts, so contenders take turns, A B C A B C ..., and only ratios within one
round are compared. Each process is started as its users would start it: kdlora's with the
settings that `kdlora run` gives its workers, a peer's with none.
"""

from __future__ import annotations

import ctypes.util
import importlib
import multiprocessing as mp
import os
import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from kdlora.machine import tune_workers
from kdlora.training.precision import choose_compute, cpu_flags

WARM_UP = 1
ALLOCATOR = "tcmalloc_minimal"


@dataclass
class Tally:
    """Counts the texts and the padded tokens of the batches that a model is given."""

    texts: int = 0
    padded_tokens: int = 0

    def note(self, texts: int, length: int) -> None:
        self.texts += texts
        self.padded_tokens += texts * length


@dataclass(frozen=True)
class Turn:
    """What a contender did in one of its turns, and how it was set up where it chose itself."""

    seconds: float
    texts: int
    padded_tokens: int
    settings: str = ""

    @classmethod
    def of(cls, seconds: float, tally: Tally, settings: str = "") -> Turn:
        return cls(seconds, tally.texts, tally.padded_tokens, settings)


@dataclass(frozen=True)
class Contender:
    """`make` names a function, ``package.module:function``; it returns a callable to be timed.

    The callable does its work once and gives a `Turn`. `tuned` starts the process as kdlora starts
    its workers; `allocator` with tcmalloc, where that is installed.
    """

    make: str
    arguments: dict[str, Any]
    tuned: bool = False
    allocator: bool = False


def in_turns(contenders: Mapping[str, Contender], repeats: int) -> dict[str, list[Turn]]:
    """The turns of each contender, one a round; a first round is not counted."""
    tuned = _tuned_environment()  # chosen while nothing runs, as at the start of a study
    started = {name: _start(contender, tuned) for name, contender in contenders.items()}
    taken: dict[str, list[Turn]] = {name: [] for name in contenders}
    try:
        for turn in range(WARM_UP + repeats):
            for name, (connection, _) in started.items():
                connection.send("go")
                value = connection.recv()
                if isinstance(value, str):
                    raise RuntimeError(f"{name} failed:\n{value}")
                if turn >= WARM_UP:
                    taken[name].append(value)
                rate = value.texts / value.seconds
                print(f"  round {turn}  {name}: {rate:.1f} a second", flush=True)
    finally:
        for connection, process in started.values():
            connection.close()
            process.join(timeout=10)
            process.terminate()
    return taken


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as a peer: the median over rounds, with the least and the most."""

    median: float
    least: float
    most: float
    rounds: int


def seconds_in_turns(contenders: Mapping[str, Contender], repeats: int) -> dict[str, list[float]]:
    """The seconds of each contender's turns, one a round."""
    turns = in_turns(contenders, repeats)
    return {name: [turn.seconds for turn in own] for name, own in turns.items()}


def ratio(ours: list[float], theirs: list[float]) -> Ratio:
    """Compare round by round, so that drift between rounds cancels."""
    values = [b / a for a, b in zip(ours, theirs, strict=True)]
    return Ratio(statistics.median(values), min(values), max(values), len(values))


def allocator() -> str:
    """How this process gets its memory: "tcmalloc" where it was started with it, else "malloc"."""
    return "tcmalloc" if ALLOCATOR in os.environ.get("LD_PRELOAD", "") else "malloc"


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    import torch
    import transformers

    flags = [f for f in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if f in cpu_flags()]
    return {
        "processor": platform.processor() or platform.machine(),
        "instructions": flags,
        "precision": choose_compute().name,
        "tcmalloc": ctypes.util.find_library(ALLOCATOR) is not None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "load_average": round(os.getloadavg()[0], 2),
    }


def precision(about: dict[str, Any]) -> str:
    """What kdlora and peer (b) computed in on a `machine`; older descriptions do not say it."""
    fast = any("bf16" in flag for flag in about["instructions"])
    return about.get("precision", "bf16" if fast else "fp32")


def described(about: dict[str, Any]) -> str:
    """A `machine` in words, for the pages."""
    threads = f"{about['threads']} thread{'s' * (about['threads'] != 1)}"
    return (
        f"{threads} ({', '.join(about['instructions'])}; {precision(about)}; "
        f"torch {about['torch']}, transformers {about['transformers']})"
    )


def aims(about: dict[str, Any]) -> str:
    """The head of the column of aims: they were set for machines that multiply bf16."""
    return "aimed at" if precision(about) == "bf16" else "aimed at, with fast bf16"


def _tuned_environment() -> dict[str, str]:
    """The variables that `kdlora run` would start its workers with now."""
    before = dict(os.environ)
    try:
        tune_workers()
        return dict(os.environ)
    finally:
        os.environ.clear()
        os.environ.update(before)


def _start(contender: Contender, tuned: dict[str, str]) -> tuple[Connection, Any]:
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe()
    before = dict(os.environ)
    try:
        if contender.tuned:
            os.environ.update(tuned)
        if contender.allocator and (library := ctypes.util.find_library(ALLOCATOR)):
            os.environ["LD_PRELOAD"] = library
        process = context.Process(target=_serve, args=(contender, theirs), daemon=True)
        process.start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    theirs.close()
    return ours, process


def _serve(contender: Contender, connection: Connection) -> None:
    import traceback
    import warnings

    from kdlora.models.checkpoints import silence_libraries

    warnings.filterwarnings("ignore")
    silence_libraries()
    module, _, name = contender.make.partition(":")
    run: Callable[[], Turn] | None = None
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        try:
            run = run or getattr(importlib.import_module(module), name)(**contender.arguments)
            connection.send(run())
        except Exception:
            connection.send(traceback.format_exc())
            return
