from __future__ import annotations

import time
from pathlib import Path

import pytest

from cada_edge.benchmarks.bench_monitor import Monitor
from cada_edge.benchmarks.machine_energy import EnergyCurve, RaplMeter
from cada_edge.benchmarks.machine_load import (
    CpuTimes,
    LoadMeter,
    parse_stat,
    read_frequency_mhz,
    read_throttle_count,
)

pytestmark = pytest.mark.alone


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file system whose counters stand still until a test changes them."""
    put(tmp_path / "proc/stat", "cpu  100 0 50 800 50 0 0 10 0 0\ncpu0 50 0 25 400 25 0 0 5 0 0\n")
    return tmp_path


def test_old_kernels_have_fewer_columns() -> None:
    assert parse_stat("cpu  10 1 5 80\ncpu0 1") == CpuTimes(busy=16, idle=80, stolen=0)


def test_others_are_what_we_are_not(root: Path) -> None:
    meter = LoadMeter(root)
    time.sleep(0.3)
    put(root / "proc/stat", "cpu  200 0 150 900 50 0 0 110 0 0\n")
    found = meter.read()
    assert found["stolen_share"] == pytest.approx(100 / 400)
    assert found["idle_share"] == pytest.approx(100 / 400)
    # 200 ticks of 10 ms in 0.3 s or more, of which this sleeping process had next to nothing.
    assert 0.5 < found["other_cores"] < 7
    assert 0 <= found["own_cores"] < 0.5
    assert found["peak_memory_mib"] > 10
    assert found["throttled"] is None


def test_a_system_that_does_not_tell(tmp_path: Path) -> None:
    found = LoadMeter(tmp_path).read()
    assert found["other_cores"] is None
    assert found["idle_share"] is None
    assert read_frequency_mhz(tmp_path) is None
    assert read_throttle_count(tmp_path) is None


def test_frequencies_and_throttling_of_all_processors(root: Path) -> None:
    for number, khz in enumerate((1_000_000, 3_000_000)):
        cpu = root / f"sys/devices/system/cpu/cpu{number}"
        put(cpu / "cpufreq/scaling_cur_freq", f"{khz}\n")
        put(cpu / "thermal_throttle/core_throttle_count", "3\n")
        put(cpu / "thermal_throttle/package_throttle_count", "1\n")
    assert read_frequency_mhz(root) == 2000
    meter = LoadMeter(root)
    put(root / "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "5\n")
    assert read_throttle_count(root) == 10
    assert meter.read()["throttled"] == 2


def test_a_virtual_machine_has_its_frequency_in_cpuinfo(root: Path) -> None:
    put(root / "proc/cpuinfo", "processor : 0\ncpu MHz\t\t: 2600.5\nprocessor : 1\ncpu MHz\t\t: 2400.5\n")
    assert read_frequency_mhz(root) == 2500.5


def test_a_curve_of_power_and_one_of_a_counter_give_the_same_energy() -> None:
    power, counter = EnergyCurve("power"), EnergyCurve("counter")
    for at_s in range(6):
        power.add_power(float(at_s), 10.0)
        counter.add_counter(float(at_s), 10.0 * at_s)
    for curve in (power, counter):
        assert curve.between([(1.0, 2.5), (4.0, 5.0)]) == pytest.approx(25.0)
        # A little beyond the last reading the power is taken to go on.
        assert curve.between([(4.5, 5.5)]) == pytest.approx(10.0)
    assert EnergyCurve("empty").between([(0.0, 1.0)]) is None


def test_rapl_counts_packages_once_and_through_their_overflow(root: Path) -> None:
    zones = root / "sys/class/powercap"
    for zone, name in (
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:0:0", "core"),
        ("intel-rapl-mmio:0", "package-0"),
        ("intel-rapl:1", "package-1"),
        ("intel-rapl:2", "psys"),
    ):
        put(zones / zone / "name", f"{name}\n")
        put(zones / zone / "energy_uj", "9000000\n")
        put(zones / zone / "max_energy_range_uj", "10000000\n")
    meter = RaplMeter(root)
    assert meter.is_readable
    meter.sample(0.0)
    put(zones / "intel-rapl:0/energy_uj", "9500000\n")
    put(zones / "intel-rapl:1/energy_uj", "1000000\n")
    meter.sample(1.0)
    # Half a joule of the one, and over its end of ten one to the end and one more of the other.
    assert meter.curve.between([(0.0, 1.0)]) == pytest.approx(2.5)
    assert meter.curve.scope == "processor, without memory and board (RAPL: package-0, package-1)"
    assert not RaplMeter(root / "elsewhere").is_readable


def test_the_monitor_reads_until_its_end(root: Path) -> None:
    zone = root / "sys/class/powercap/intel-rapl:0"
    for name, text in (("name", "package-0"), ("energy_uj", "0"), ("max_energy_range_uj", "1000000000")):
        put(zone / name, f"{text}\n")
    with Monitor(root=root, every_s=0.02) as monitor:
        started = time.perf_counter()
        time.sleep(0.1)
        put(zone / "energy_uj", "3000000\n")
        ended = time.perf_counter()
    found = monitor.read()
    assert found["load"]["own_cores"] is not None
    assert found["jetson"] is None
    assert [curve.scope for curve in monitor.curves] == [
        "processor, without memory and board (RAPL: package-0)"
    ]
    curve = monitor.curves[0]
    # A reading comes before the block and one after its end, so that the whole of it lies between two.
    assert curve.joules[-1] == 3.0
    assert curve.at_s[0] <= started
    assert curve.at_s[-1] >= ended
    assert len(curve.at_s) >= 3
