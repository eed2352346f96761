from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_edge.trainer.uniad_transformer import (
    Attention,
    DecoderLayer,
    EncoderLayer,
    Transformer,
    neighbour_mask,
)


def _transformer(channels: int = 272, side: int = 14, *, width: int = 256, layers: int = 4) -> Transformer:
    return Transformer(
        channels, side, width=width, heads=8, layers=layers, neighbourhood=7 if side > 7 else 3, dropout=0.1
    )


def _bias(side: int, neighbourhood: int) -> Tensor:
    return torch.zeros(side**2, side**2).masked_fill(neighbour_mask(side, neighbourhood), float("-inf"))


def _as_torchs_own(attention: Attention) -> nn.MultiheadAttention:
    """The same attention as torch's module, with the same weights: an independent reference."""
    width = attention.output.out_features
    reference = nn.MultiheadAttention(width, attention.heads, batch_first=True).eval()
    parts = (attention.query, attention.key, attention.value)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        reference.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        reference.out_proj.load_state_dict(attention.output.state_dict())
    return reference


def _shake(module: nn.Module) -> None:
    """Give every parameter a value of its own: biases begin at 0 and norms at 1, which would hide errors."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)


def test_the_transformer_has_the_size_of_uniads() -> None:
    # Counted in UniAD's public architecture: 272 channels, 14x14 tokens.
    model = _transformer()
    assert sum(parameter.numel() for parameter in model.parameters()) == 7_717_392
    assert sum(parameter.numel() for parameter in model.encoder.parameters()) == 4 * 789_760
    assert sum(parameter.numel() for parameter in model.decoder.parameters()) == 4 * 1_103_616
    assert model.rows.shape == model.columns.shape == (14, 128)
    queries = [item.shape for name, item in model.named_parameters() if name.endswith("queries")]
    assert queries == [(196, 256)] * 4


def test_a_row_of_the_mask_hides_16_to_49_tokens() -> None:
    mask = neighbour_mask(14, 7)
    hidden = mask.sum(1).reshape(14, 14)
    assert (hidden.min().item(), hidden.max().item()) == (16, 49)
    assert hidden[[0, 0, 13, 13], [0, 13, 0, 13]].tolist() == [16] * 4
    assert (hidden[3:11, 3:11] == 49).all()
    assert hidden[0, 7].item() == 28  # 4 rows of 7
    assert hidden.sum().item() == (2 * (4 + 5 + 6) + 8 * 7) ** 2
    assert torch.equal(mask, mask.t())
    assert mask.diagonal().all()


@pytest.mark.parametrize(("side", "neighbourhood"), [(14, 7), (5, 3), (4, 1), (2, 1)])
def test_the_mask_by_counting_steps(side: int, neighbourhood: int) -> None:
    mask = neighbour_mask(side, neighbourhood)
    for one in range(side**2):
        for other in range(side**2):
            down, right = abs(one // side - other // side), abs(one % side - other % side)
            assert mask[one, other].item() == (max(down, right) <= (neighbourhood - 1) // 2)


def test_a_neighbourhood_of_0_hides_nothing() -> None:
    assert not neighbour_mask(4, 0).any()


@pytest.mark.parametrize("queries", [1, 3])
def test_attention_equals_torchs(queries: int) -> None:
    torch.manual_seed(0)
    attention = Attention(32, 8, dropout=0.1).eval()
    _shake(attention)
    query, key, value = torch.randn(queries, 16, 32), torch.randn(3, 16, 32), torch.randn(3, 16, 32)
    hidden = neighbour_mask(4, 3)

    def split(tokens: Tensor) -> Tensor:
        return tokens.reshape(len(tokens), 16, 8, 4).permute(0, 2, 1, 3)

    expected = F.scaled_dot_product_attention(
        split(attention.query(query)).expand(3, -1, -1, -1),
        split(attention.key(key)),
        split(attention.value(value)),
        attn_mask=~hidden,
    )
    expected = attention.output(expected.permute(0, 2, 1, 3).reshape(3, 16, 32))
    model_bias = _transformer(8, 4, width=32, layers=1).bias
    torch.testing.assert_close(attention(query, key, value, model_bias), expected, atol=1e-6, rtol=1e-5)


def test_attention_by_hand() -> None:
    # One head of one channel, two tokens, identity projections: token 0 has the weights softmax(2 * (2, 3)).
    attention = Attention(1, 1, dropout=0.0)
    for project in (attention.query, attention.key, attention.value, attention.output):
        nn.init.ones_(project.weight)
        nn.init.zeros_(project.bias)
    tokens = torch.tensor([[[2.0], [3.0]]])
    seen = attention(tokens, tokens, tokens, torch.zeros(2, 2))
    # (2 e^4 + 3 e^6) / (e^4 + e^6) = 2 + 1 / (1 + e^-2), and token 1: 2 + 1 / (1 + e^-3)
    torch.testing.assert_close(seen.detach(), torch.tensor([[[2.880797], [2.952574]]]), atol=1e-5, rtol=0.0)
    hidden = attention(tokens, tokens, tokens, torch.tensor([[-3e4, 0.0], [0.0, -3e4]]))
    assert hidden.flatten().tolist() == [3.0, 2.0]


def test_the_softmax_stays_in_fp32() -> None:
    attention = Attention(8, 1, dropout=0.0).half()
    seen: list[torch.dtype] = []
    attention.dropout.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    tokens = torch.randn(1, 16, 8).half()
    assert attention(tokens, tokens, tokens, torch.zeros(16, 16).half()).dtype == torch.float16
    assert seen == [torch.float32]


def test_an_encoder_layer_equals_one_of_torchs_parts() -> None:
    torch.manual_seed(0)
    layer = EncoderLayer(32, 8, dropout=0.1).eval()
    _shake(layer)
    tokens, position = torch.randn(2, 16, 32), torch.randn(16, 32)
    hidden = neighbour_mask(4, 3)
    placed = tokens + position
    attended, _ = _as_torchs_own(layer.attention)(placed, placed, tokens, attn_mask=hidden)
    expected = layer.norms[0](tokens + attended)
    first, _, _, last = layer.feed_forward
    expected = layer.norms[1](expected + last(F.relu(first(expected))))
    assert first.out_features == 128
    torch.testing.assert_close(layer(tokens, position, _bias(4, 3)), expected, atol=1e-5, rtol=1e-5)


def test_a_decoder_layer_equals_one_of_torchs_parts() -> None:
    torch.manual_seed(0)
    layer = DecoderLayer(32, 8, tokens=16, dropout=0.1).eval()
    _shake(layer)
    previous, memory, position = torch.randn(2, 16, 32), torch.randn(2, 16, 32), torch.randn(16, 32)
    hidden = neighbour_mask(4, 3)
    queries = layer.queries.expand(2, -1, -1)
    attended, _ = _as_torchs_own(layer.memory_attention)(
        queries + position, memory + position, memory, attn_mask=hidden
    )
    tokens = layer.norms[0](queries + attended)
    attended, _ = _as_torchs_own(layer.previous_attention)(
        tokens + position, previous + position, previous, attn_mask=hidden
    )
    tokens = layer.norms[1](tokens + attended)
    first, _, _, last = layer.feed_forward
    expected = layer.norms[2](tokens + last(F.relu(first(tokens))))
    torch.testing.assert_close(layer(previous, memory, position, _bias(4, 3)), expected, atol=1e-5, rtol=1e-5)


def test_an_encoder_layer_takes_nothing_from_a_neighbour() -> None:
    torch.manual_seed(0)
    layer = EncoderLayer(32, 8, dropout=0.1).eval()
    tokens, position, bias = torch.randn(1, 64, 32), torch.randn(64, 32), _transformer(8, 8, width=32).bias
    query, neighbour, seen = 3 * 8 + 3, 6 * 8 + 6, 7 * 8 + 3  # (3, 3) hides up to (6, 6) and sees (7, 3)
    before = layer(tokens, position, bias)
    for changed, moves in ((neighbour, False), (seen, True)):
        other = tokens.clone()
        other[:, changed] += 100 * torch.randn(32)
        after = layer(other, position, bias)
        assert torch.equal(after[:, query], before[:, query]) is not moves
        assert not torch.equal(after[:, changed], before[:, changed])


@pytest.mark.parametrize("changed", ["memory", "previous"])
def test_a_decoder_layer_takes_nothing_from_the_token_itself_nor_its_neighbours(changed: str) -> None:
    torch.manual_seed(0)
    layer = DecoderLayer(32, 8, tokens=64, dropout=0.1).eval()
    inputs = {"memory": torch.randn(1, 64, 32), "previous": torch.randn(1, 64, 32)}
    position, bias = torch.randn(64, 32), _transformer(8, 8, width=32).bias
    query = 3 * 8 + 3
    hidden = neighbour_mask(8, 7)[query]
    before = layer(**inputs, position=position, bias=bias)
    for rows, moves in ((hidden, False), (~hidden, True)):
        other = inputs[changed].clone()
        other[:, rows] += 100 * torch.randn(int(rows.sum()), 32)
        after = layer(**{**inputs, changed: other}, position=position, bias=bias)
        assert torch.equal(after[:, query], before[:, query]) is not moves


def test_every_attention_of_the_transformer_gets_the_mask() -> None:
    model = _transformer(8, 8, width=32, layers=2).eval()
    seen: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, Attention):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[3]))
    model(torch.randn(1, 64, 8))
    assert len(seen) == 2 + 2 * 2
    assert all(torch.equal(bias < 0, neighbour_mask(8, 7)) for bias in seen)


def test_the_position_holds_the_column_then_the_row() -> None:
    model = _transformer(8, 4, width=32, layers=1)
    captured: list[Tensor] = []
    model.encoder[0].register_forward_pre_hook(lambda _, inputs: captured.append(inputs[1]))
    model(torch.randn(1, 16, 8))
    (position,) = captured
    assert position.shape == (16, 32)
    for row in range(4):
        for column in range(4):
            expected = torch.cat([model.columns[column], model.rows[row]])
            assert torch.equal(position[row * 4 + column], expected)


def test_the_first_decoder_layer_follows_the_encoder() -> None:
    model = _transformer(8, 4, width=32, layers=2).eval()
    captured: list[tuple[Tensor, ...]] = []
    for layer in model.decoder:
        layer.register_forward_pre_hook(lambda _, inputs: captured.append(inputs))
    _, memory = model(torch.randn(2, 16, 8))
    first, second = captured
    assert torch.equal(first[0], memory)
    assert torch.equal(first[1], memory)
    assert torch.equal(second[1], memory)
    assert not torch.equal(second[0], memory)


def test_initial_weights() -> None:
    torch.manual_seed(0)
    model = _transformer()
    attention = next(module for module in model.modules() if isinstance(module, Attention))
    # Glorot's bound sqrt(6 / (inputs + outputs)); query, key and value count as one matrix of 768 rows.
    for linear, bound in (
        (attention.query, (6 / 1024) ** 0.5),
        (attention.output, (6 / 512) ** 0.5),
        (model.input, (6 / 528) ** 0.5),
    ):
        assert 0.99 * bound < linear.weight.abs().max().item() <= bound
        assert not linear.bias.any()
    assert 0 <= model.rows.min().item() < 0.01 < 0.99 < model.rows.max().item() < 1
    queries = dict(model.named_parameters())["decoder.0.queries"]
    assert queries.std().item() == pytest.approx(1, abs=0.02)
