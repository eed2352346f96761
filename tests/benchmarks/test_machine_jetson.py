"""tegrastats' lines, as people published them; the program itself is a double here: this is no Jetson."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from cada_edge.benchmarks.machine_jetson import TegrastatsMeter, describe_jetson, parse_tegrastats

# github.com/GDWR/jetson_exporter, issue 14: AGX Orin, JetPack 6.
AGX_ORIN = (
    "04-11-2025 10:36:27 RAM 4321/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) CPU [0%@729,0%@729,"
    "0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729] EMC_FREQ 0%@2133 GR3D_FREQ "
    "0%@[0,0] VIC_FREQ 729 APE 174 CV0@-256C CPU@44.562C Tboard@32C SOC2@40.093C Tdiode@33C SOC0@41.093C "
    "CV1@-256C GPU@-256C tj@44.343C SOC1@41.25C CV2@-256C VDD_GPU_SOC 2340mW/2340mW VDD_CPU_CV 390mW/390mW "
    "VIN_SYS_5V0 4025mW/4025mW NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
# github.com/henrygd/beszel, agent/gpu_test.go: Orin Nano, JetPack 6.
ORIN_NANO = (
    "11-15-2024 08:38:09 RAM 6185/7620MB (lfb 8x2MB) SWAP 851/3810MB (cached 1MB) CPU [15%@729,11%@729,"
    "14%@729,13%@729,11%@729,8%@729] EMC_FREQ 43%@2133 GR3D_FREQ 63%@[621] NVDEC off NVJPG off NVJPG1 off "
    "VIC off OFA off APE 200 cpu@53.968C soc2@52.437C soc0@50.75C gpu@53.343C tj@53.968C soc1@51.656C VDD_IN "
    "12479mW/12479mW VDD_CPU_GPU_CV 4667mW/4667mW VDD_SOC 2817mW/2817mW"
)
# github.com/martinkersner/gtop, pull request 7: AGX Xavier, JetPack 4.
AGX_XAVIER = (
    "RAM 14700/15692MB (lfb 3x2MB) SWAP 898/8192MB (cached 23MB) CPU [0%@1190,0%@1190,0%@1190,0%@1190,"
    "0%@1190,0%@1190,0%@1190,0%@1190] EMC_FREQ 0% GR3D_FREQ 0% AO@30C GPU@30.5C Tboard@31C Tdiode@32C "
    "AUX@30.5C CPU@31.5C thermal@30.8C PMIC@100C GPU 463/463 CPU 618/618 SOC 2936/2936 CV 0/0 VDDRQ 309/309 "
    "SYS5V 3306/3306"
)
# github.com/FindHao/tx-utils, issue 3: TX2, JetPack 4.
TX2 = (
    "RAM 2020/7852MB (lfb 1164x4MB) CPU [9%@345,21%@345,25%@345,3%@345,1%@345,1%@345] EMC_FREQ 0% GR3D_FREQ "
    "0% PLL@42.5C MCPU@42.5C PMIC@100C Tboard@40C GPU@41C BCPU@42.5C thermal@41.9C Tdiode@41.25C "
    "VDD_SYS_GPU 153/158 VDD_SYS_SOC 536/547 VDD_4V0_WIFI 633/527 VDD_IN 3140/3208 VDD_SYS_CPU 536/590 "
    "VDD_SYS_DDR 557/601"
)


def test_an_agx_orin() -> None:
    reading = parse_tegrastats(AGX_ORIN)
    assert reading.rails_mw == {
        "VDD_GPU_SOC": 2340,
        "VDD_CPU_CV": 390,
        "VIN_SYS_5V0": 4025,
        "NC": 0,
        "VDDQ_VDD2_1V8AO": 301,
    }
    assert reading.total_mw == (2340 + 390 + 4025, "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0")
    # A sensor that is off says -256.
    assert reading.temperatures_c == {
        "CPU": 44.562,
        "Tboard": 32.0,
        "SOC2": 40.093,
        "Tdiode": 33.0,
        "SOC0": 41.093,
        "tj": 44.343,
        "SOC1": 41.25,
    }
    assert (reading.gpu_share, reading.gpu_mhz) == (0.0, 0)


def test_an_orin_nano() -> None:
    reading = parse_tegrastats(ORIN_NANO)
    assert reading.total_mw == (12479, "VDD_IN")
    assert reading.rails_mw["VDD_CPU_GPU_CV"] == 4667
    assert reading.temperatures_c["gpu"] == 53.343
    assert (reading.gpu_share, reading.gpu_mhz) == (0.63, 621)


def test_an_agx_xavier() -> None:
    reading = parse_tegrastats(AGX_XAVIER)
    assert reading.rails_mw == {"GPU": 463, "CPU": 618, "SOC": 2936, "CV": 0, "VDDRQ": 309, "SYS5V": 3306}
    assert reading.total_mw == (7632, "GPU + CPU + SOC + CV + VDDRQ + SYS5V")
    assert "PMIC" not in reading.temperatures_c
    assert reading.temperatures_c["AO"] == 30.0
    assert (reading.gpu_share, reading.gpu_mhz) == (0.0, None)


def test_a_tx2() -> None:
    reading = parse_tegrastats(TX2)
    assert reading.total_mw == (3140, "VDD_IN")
    assert reading.rails_mw["VDD_SYS_DDR"] == 557


def test_a_line_without_power() -> None:
    reading = parse_tegrastats("RAM 100/200MB (lfb 1x4MB) CPU [0%@345,off]")
    assert (reading.rails_mw, reading.temperatures_c, reading.total_mw) == ({}, {}, None)


@pytest.fixture
def jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a Jetson's file system, and a tegrastats on the PATH that repeats one line."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text(
        "# R36 (release), REVISION: 4.0, GCID: 1, BOARD: generic\n"
    )
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, body in {
        "tegrastats": f"while true; do echo '{ORIN_NANO}'; sleep 0.02; done",
        "nvpmodel": "echo 'NV Power Mode: MAXN_SUPER'; echo 2",
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    return tmp_path


def test_it_says_which_jetson_and_mode(jetson: Path) -> None:
    described = describe_jetson(jetson)
    assert described == {
        "jetson": "NVIDIA Jetson Orin Nano Developer Kit, R36 (release), REVISION: 4.0",
        "power mode": "MAXN_SUPER",
    }
    assert describe_jetson(jetson / "elsewhere") is None


def test_the_meter_follows_the_program_and_ends_it(jetson: Path) -> None:
    meter = TegrastatsMeter(interval_ms=20)
    process = meter._process
    assert process is not None
    deadline = time.monotonic() + 30
    while len(meter.curve.at_s) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    meter.close()
    meter.close()
    assert process.poll() is not None
    found = meter.read()
    assert found is not None
    assert found["rails_mw"]["VDD_IN"] == pytest.approx(12479)
    assert found["temperatures_c"]["tj"] == 53.968
    assert (found["gpu_share"], found["gpu_mhz"]) == (pytest.approx(0.63), [621, 621])
    assert meter.curve.scope == "Jetson module (tegrastats: VDD_IN)"
    start, end = meter.curve.at_s[0], meter.curve.at_s[-1]
    assert meter.curve.between([(start, end)]) == pytest.approx(12.479 * (end - start))


def test_without_the_program_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = TegrastatsMeter("tegrastats-of-no-machine")
    assert meter.reason == "tegrastats-of-no-machine is not on the PATH"
    assert meter.read() is None
    meter.close()

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert "cannot be run: no" in (TegrastatsMeter("sh").reason or "")
