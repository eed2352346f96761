from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from cada_edge.trainer.config import TrainConfig
from cada_edge.trainer.model import TrainedModel, build_model, exact_fp32


def _flags() -> tuple[bool, bool]:
    return bool(torch.backends.cuda.matmul.allow_tf32), bool(torch.backends.cudnn.allow_tf32)


@pytest.fixture
def tf32() -> Iterator[None]:
    """Switch TF32 on, as torch does for convolutions and users do for products."""
    before = _flags()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.usefixtures("tf32")
def test_exact_fp32_switches_tf32_and_autocast_off_and_restores_both() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        with exact_fp32():
            assert _flags() == (False, False)
            assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == torch.float32
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == torch.bfloat16
    assert _flags() == (True, True)
    with pytest.raises(KeyError), exact_fp32():
        raise KeyError
    assert _flags() == (True, True)


@pytest.mark.usefixtures("tf32")
def test_scores_and_statistics_are_computed_without_tf32(tiny_config: TrainConfig) -> None:
    model: TrainedModel = build_model(tiny_config, encoder_weights="random")[0].eval()
    seen: list[tuple[bool, bool]] = []
    model.base.register_forward_hook(lambda *_: seen.append(_flags()))
    frames = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    model.score_variants(frames, ["none"], {}, ["nut"])
    for _ in model.raw_batches(iter([frames, frames])):
        assert _flags() == (True, True)  # the caller's own work keeps its settings
    assert seen == [(False, False)] * 3
