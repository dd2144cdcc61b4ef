"""Energy against a made-up powercap folder and a scripted GPU."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from kdlora.measure.energy import EnergyMeter


class Powercap:
    """A folder like /sys/class/powercap."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, name: str, label: str, energy_uj: int, range_uj: int = 10_000_000) -> None:
        folder = self.root / name
        folder.mkdir()
        (folder / "name").write_text(label + "\n")
        (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
        self.set(name, energy_uj)

    def set(self, name: str, energy_uj: int) -> None:
        new = self.root / name / "new"
        new.write_text(f"{energy_uj}\n")
        new.replace(self.root / name / "energy_uj")  # the watcher never sees half a file


@pytest.fixture
def powercap(tmp_path) -> Powercap:
    return Powercap(tmp_path)


def test_packages_are_summed_and_their_parts_left_out(powercap):
    powercap.add("intel-rapl:0", "package-0", 1_000_000)
    powercap.add("intel-rapl:1", "package-1", 0)
    powercap.add("intel-rapl:0:0", "core", 0)  # inside package-0
    powercap.add("intel-rapl:2", "psys", 0)  # the whole board, packages included
    powercap.add("intel-rapl-mmio:0", "package-0", 0)  # the same counter by another road
    (powercap.root / "intel-rapl").mkdir()
    with EnergyMeter(root=powercap.root) as meter:
        powercap.set("intel-rapl:0", 3_500_000)
        powercap.set("intel-rapl:1", 500_000)
        for name in ("intel-rapl:0:0", "intel-rapl:2", "intel-rapl-mmio:0"):
            powercap.set(name, 9_000_000)
    assert meter.energy_j == pytest.approx(2.5 + 0.5)
    assert meter.method == "rapl package"
    assert meter.gpu_power_w is None
    assert meter.gpu_utilisation_percent is None


def test_a_counter_that_wraps(powercap):
    powercap.add("intel-rapl:0", "package-0", 9_000_000)
    with EnergyMeter(root=powercap.root) as meter:
        powercap.set("intel-rapl:0", 500_000)
    assert meter.energy_j == pytest.approx(1.5)


def test_a_counter_that_wraps_many_times_is_watched(powercap):
    powercap.add("intel-rapl:0", "package-0", 0)
    with EnergyMeter(root=powercap.root, interval_s=0.005) as meter:
        for reading in (8_000_000, 4_000_000, 2_000_000):  # 8 J, then 6 J, then 8 J
            powercap.set("intel-rapl:0", reading)
            counter = meter._counters[0]
            for _ in range(2000):
                if counter.last_uj == reading:
                    break
                time.sleep(0.005)
    assert meter.energy_j == pytest.approx(8 + 6 + 8)


def test_nothing_readable_is_none(powercap):
    with EnergyMeter(root=powercap.root / "absent") as meter:
        pass
    assert (meter.energy_j, meter.method) == (None, None)
    powercap.add("intel-rapl:0", "package-0", 0)
    (powercap.root / "intel-rapl:0" / "energy_uj").unlink()  # as where only root may read it
    with EnergyMeter(root=powercap.root) as meter:
        pass
    assert (meter.energy_j, meter.method) == (None, None)


def test_a_counter_lost_midway_counts_as_absent(powercap):
    powercap.add("intel-rapl:0", "package-0", 0)
    with EnergyMeter(root=powercap.root) as meter:
        (powercap.root / "intel-rapl:0" / "energy_uj").unlink()
    assert meter.energy_j is None


def test_gpu_power_is_integrated(tmp_path):
    readings = iter([(100.0, 50.0), (200.0, 90.0)])
    moments = iter([10.0, 10.0, 14.0])
    meter = EnergyMeter(
        root=tmp_path, gpu=lambda: next(readings), interval_s=3600, clock=lambda: next(moments)
    )
    with meter:
        pass
    assert meter.energy_j == pytest.approx(150 * 4)  # trapezoid: 4 s at 150 W on average
    assert meter.method == "nvml"
    assert meter.gpu_power_w == pytest.approx(150)
    assert meter.gpu_utilisation_percent == pytest.approx(70)


def test_both_are_summed_and_named(powercap):
    powercap.add("intel-rapl:0", "package-0", 0)
    moments = iter([0.0, 0.0, 2.0])
    meter = EnergyMeter(
        root=powercap.root, gpu=lambda: (30.0, 1.0), interval_s=3600, clock=lambda: next(moments)
    )
    with meter:
        powercap.set("intel-rapl:0", 5_000_000)
    assert meter.energy_j == pytest.approx(5 + 60)
    assert meter.method == "rapl package + nvml"


def test_a_gpu_that_cannot_be_read_is_absent(tmp_path):
    def probe() -> tuple[float, float]:
        raise ModuleNotFoundError("pynvml")

    with EnergyMeter(root=tmp_path, gpu=probe) as meter:
        pass
    assert (meter.energy_j, meter.method, meter.gpu_power_w) == (None, None, None)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_a_gpu_beside_work_on_the_processor_is_not_asked(device, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "power_draw", lambda *a: pytest.fail("asked"))
    with EnergyMeter(device, root=tmp_path) as meter:
        pass
    assert meter.energy_j is None


def test_torch_is_asked_in_milliwatts_of_the_current_gpu(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "power_draw", lambda d: asked.append(d) or 250_000)
    monkeypatch.setattr(torch.cuda, "utilization", lambda d: 80)
    with EnergyMeter("cuda", root=tmp_path, interval_s=3600) as meter:
        pass
    assert meter.gpu_power_w == 250
    assert meter.gpu_utilisation_percent == 80
    assert set(asked) == {torch.device("cuda", 3)}


def test_an_error_inside_the_block_stops_the_watch(powercap):
    powercap.add("intel-rapl:0", "package-0", 0)
    meter = EnergyMeter(root=powercap.root)
    with pytest.raises(KeyError), meter:
        raise KeyError
    assert not meter._thread.is_alive()
