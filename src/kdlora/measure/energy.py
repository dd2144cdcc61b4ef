"""Energy of a stretch of work, from counters that exist, or nothing.

A figure from the processor's nominal power would be an invention, so where neither counter can be
read every field stays None.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import torch

POWERCAP = Path("/sys/class/powercap")
MICROJOULE = 1e-6

GpuProbe = Callable[[], tuple[float, float]]


@dataclass
class _Counter:
    """One RAPL package counter in microjoules, which restarts from 0 after `range_uj`."""

    path: Path
    range_uj: int
    last_uj: int
    used_uj: int = 0

    def read(self) -> None:
        now = int(self.path.read_text())
        self.used_uj += now - self.last_uj + (self.range_uj if now < self.last_uj else 0)
        self.last_uj = now


@dataclass
class _GpuLog:
    probe: GpuProbe
    last_s: float
    energy_j: float = 0.0
    power_w: list[float] = field(default_factory=list)
    utilisation_percent: list[float] = field(default_factory=list)

    def read(self, now_s: float) -> None:
        power, utilisation = self.probe()
        mean = (power + self.power_w[-1]) / 2 if self.power_w else power
        self.energy_j += mean * (now_s - self.last_s)
        self.last_s = now_s
        self.power_w.append(power)
        self.utilisation_percent.append(utilisation)


class EnergyMeter:
    """Joules of the processor packages and the GPU inside a `with` block.

    The processor's energy comes from RAPL (Linux, `root`/intel-rapl:*/energy_uj, AMD's too;
    often readable by the superuser only) and covers the whole package, other processes included.
    The GPU's is its power by NVML, sampled every `interval_s` seconds and integrated. `method`
    names what `energy_j` sums. A counter that cannot be read, or fails midway, counts as absent.

    The GPU counts only where the work is on one (`device`); `gpu` replaces the way to ask for
    (W, per cent).
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        *,
        root: Path = POWERCAP,
        gpu: GpuProbe | None = None,
        interval_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.energy_j: float | None = None
        self.method: str | None = None
        self.gpu_utilisation_percent: float | None = None
        self.gpu_power_w: float | None = None
        self._root = root
        self._probe = gpu or _cuda_probe(torch.device(device))
        self._interval_s = interval_s
        self._clock = clock
        self._counters: list[_Counter] = []
        self._gpu: _GpuLog | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> EnergyMeter:
        self._counters = _find_counters(self._root)
        self._gpu = _GpuLog(self._probe, self._clock()) if self._probe else None
        self._read()
        if self._counters or self._gpu:
            # Also for RAPL alone: a counter wraps within minutes under load.
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
        self._read()
        parts: dict[str, float] = {}
        if self._counters:
            parts["rapl package"] = sum(c.used_uj for c in self._counters) * MICROJOULE
        if self._gpu is not None:
            parts["nvml"] = self._gpu.energy_j
            self.gpu_power_w = _mean(self._gpu.power_w)
            self.gpu_utilisation_percent = _mean(self._gpu.utilisation_percent)
        if parts:
            self.energy_j, self.method = sum(parts.values()), " + ".join(parts)

    def _watch(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._read()

    def _read(self) -> None:
        try:
            for counter in self._counters:
                counter.read()
        except (OSError, ValueError):
            self._counters = []
        if self._gpu is not None:
            try:
                self._gpu.read(self._clock())
            except Exception:  # NVML's errors differ by driver and package: all mean unreadable
                self._gpu = None


def _find_counters(root: Path) -> list[_Counter]:
    """The package counters: their subdomains and `psys` would count the same energy twice."""
    counters = []
    for folder in sorted(root.glob("intel-rapl:*")):
        try:
            if not (folder / "name").read_text().startswith("package"):
                continue
            path = folder / "energy_uj"
            range_uj = int((folder / "max_energy_range_uj").read_text())
            counters.append(_Counter(path, range_uj, int(path.read_text())))
        except (OSError, ValueError):
            continue
    return counters


def _cuda_probe(device: torch.device) -> GpuProbe | None:
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    if device.index is None:  # the sampling thread would take the default for the current one
        device = torch.device("cuda", torch.cuda.current_device())
    return lambda: (torch.cuda.power_draw(device) / 1000, float(torch.cuda.utilization(device)))


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
