from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore

from cada_edge.trainer.shared_norm import SharedBatchNorm2d, share_batch_norm


@pytest.fixture
def one_process() -> Iterator[None]:
    """A group of one, in which sharing changes nothing; test_torchrun.py has the group of two."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class _Subclass(nn.BatchNorm2d):
    """Stands for timm's, which activates as well."""


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    frozen = nn.BatchNorm2d(3).eval()
    network = nn.Sequential(
        nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm2d(3)), _Subclass(3)
    )
    network.train()
    network.add_module("frozen", frozen)
    return network


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_layers_in_training_are_exchanged_and_no_name_changes(device: str) -> None:
    network = _network()
    names, weight = list(network.state_dict()), network[1].weight
    share_batch_norm(network, torch.device(device))
    kind = SharedBatchNorm2d if device == "cpu" else nn.SyncBatchNorm
    inner = network[2]
    assert isinstance(inner, nn.Sequential)
    assert [type(network[1]), type(inner[0])] == [kind, kind]
    assert type(network[3]) is _Subclass
    assert type(network.get_submodule("frozen")) is nn.BatchNorm2d
    assert list(network.state_dict()) == names
    assert network[1].weight is weight


@pytest.mark.parametrize("momentum", [0.1, None])
def test_alone_it_is_torchs_own(one_process: None, momentum: float | None) -> None:
    torch.manual_seed(1)
    own = nn.BatchNorm2d(4, momentum=momentum)
    nn.init.normal_(own.weight)
    nn.init.normal_(own.bias)
    shared = SharedBatchNorm2d(4, momentum=momentum)
    shared.load_state_dict(own.state_dict())
    for _ in range(2):
        # A mean far from zero: a variance by E[x^2] - E[x]^2 would lose its digits here.
        x = (torch.randn(3, 4, 5, 6) * 0.1 + 1000).requires_grad_()
        y = x.detach().clone().requires_grad_()
        wanted, found = own(x), shared(y)
        assert torch.allclose(wanted, found, atol=2e-3)
        torch.manual_seed(2)
        direction = torch.randn_like(wanted)
        wanted.backward(direction)
        found.backward(direction)
        assert x.grad is not None
        assert y.grad is not None
        assert torch.allclose(x.grad, y.grad, rtol=1e-2, atol=2e-2)
    for name, value in own.state_dict().items():
        assert torch.allclose(value, shared.state_dict()[name], rtol=1e-3), name
    shared.load_state_dict(own.state_dict())
    assert torch.equal(own.eval()(x), shared.eval()(x))
    assert shared.train()(torch.ones(2, 4, 1, 1, dtype=torch.bfloat16)).dtype == torch.bfloat16
