from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cada_edge.errors import TrainingError
from cada_edge.trainer.compiling import compiled

CPU = torch.device("cpu")


def _loss(features: tuple[Tensor, ...], *, progress: float = 0.0) -> Tensor:
    """As a base's `loss_on`, with something that anneals as ReContrast's mining does."""
    level = min(1.0, -3.0 + 4.0 * progress / 0.1)
    return sum((feature.tanh() * level).square().mean() for feature in features) + torch.zeros(())


@pytest.mark.slow
@pytest.mark.needs_system("g++")
def test_it_computes_the_same_and_what_anneals_does_not_compile_anew_each_time() -> None:
    import torch._dynamo
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    features = (torch.randn(4, 3), torch.randn(2, 5))
    function = compiled(_loss, CPU)
    for iteration in range(20):
        progress = iteration / 100
        assert torch.allclose(function(features, progress=progress), _loss(features, progress=progress))
    # One for a constant, one for any number, one for the level's end.
    assert counters["stats"]["unique_graphs"] <= 4


def test_a_missing_compiler_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._dynamo
    import torch._inductor.config as inductor

    torch._dynamo.reset()
    monkeypatch.setattr(inductor.cpp, "cxx", (None, "no-such-compiler"))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    function = compiled(lambda x: x.exp().sum(), CPU)
    wanted = (
        r"torch\.compile failed on cpu with torch .*; wanted a C\+\+ compiler .*train without --compile\."
    )
    with pytest.raises(TrainingError, match=wanted):
        function(torch.ones(7))


def test_a_python_that_torch_cannot_compile_for_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(function: object) -> None:
        raise RuntimeError("Dynamo is not supported on Python 3.99+")

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(
        TrainingError, match=r"failed on cuda .*not supported on Python 3\.99.*; wanted Triton"
    ):
        compiled(_loss, torch.device("cuda"))
