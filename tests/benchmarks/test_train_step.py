from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="the benchmark trains: pip install 'cada-edge[train]'")

from cada_edge.benchmarks.train_step import TrainStepConfig, main, measure

_SMALL = ["--encoder", "resnet18", "--size", "32", "--batch-size", "2", "--images", "4", "--steps", "2"]


@pytest.mark.parametrize("base", ["revdist", "recontrast"])
def test_both_sides_compute_the_same_function(base: str) -> None:
    config = TrainStepConfig(
        base=base, encoder="resnet18", size=32, batch_size=2, images=4, steps=2, rounds=2, device="cpu"
    )
    figures = measure(config)
    assert figures.loss_difference < 1e-4
    assert figures.ratio == pytest.approx(figures.plain_ms / figures.ours_ms)
    assert figures.ours_images_per_s == pytest.approx(2000 / figures.ours_ms)
    assert (figures.ours_memory_mib, figures.plain_memory_mib, figures.device) == (None, None, "cpu")


def test_the_command_prints_a_table_or_json() -> None:
    shown = CliRunner().invoke(main, [*_SMALL, "--rounds", "1", "--device", "cpu"])
    assert shown.exit_code == 0, shown.output
    assert [line.split()[0] for line in shown.output.splitlines()] == ["ours", "plain", "ratio"]
    record = CliRunner().invoke(main, [*_SMALL, "--rounds", "1", "--device", "cpu", "--json"])
    values = json.loads(record.output)
    assert (values["size"], values["compile"], values["device"]) == (32, False, "cpu")
    assert values["machine"]["cores"]


@pytest.mark.gpu
def test_memory_is_told_on_a_gpu() -> None:
    config = TrainStepConfig(
        encoder="resnet18", size=64, batch_size=4, images=8, steps=2, rounds=1, device="cuda"
    )
    figures = measure(config)
    assert figures.ours_memory_mib is not None
    assert figures.plain_memory_mib is not None
    assert min(figures.ours_memory_mib, figures.plain_memory_mib) > 50  # 12 M weights in fp32
    # bf16 has 8 bits of mantissa.
    assert figures.loss_difference < 2e-2
