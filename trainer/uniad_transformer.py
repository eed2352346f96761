"""UniAD's transformer (NeurIPS 2022): it rebuilds tokens by attention that hides each token's neighbours.

A token that sees itself, or the almost equal ones beside it, can be copied, anomalous or not. So all three
attentions hide the neighbourhood of each query, itself included, and the decoder's queries are learned: what
a token becomes follows from the rest of the image alone.

The attention is written out, with its mask as one constant: the exported graph holds plain products and a
softmax. When the networks compute in half precision, only the `Projection`s do: tokens, learned positions and
queries, layer norms and the softmax stay in fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Attention", "DecoderLayer", "EncoderLayer", "Projection", "Transformer", "neighbour_mask"]

_HIDDEN_SCORE = -3e4
"""Added to the score of a hidden token, whose weight so underflows to exactly 0; float16 can hold it."""


def neighbour_mask(side: int, neighbourhood: int) -> Tensor:
    """Tell which tokens each token hides: those in the square around it, itself included.

    Args:
        side: Tokens a side of the grid.
        neighbourhood: Tokens a side of the square, odd; 0 hides nothing. At the border the square is cut.

    Returns:
        bool (side * side, side * side), row-major positions, True where the row's token hides the column's.
    """
    place = torch.arange(side)
    near = (place[:, None] - place[None, :]).abs() <= neighbourhood // 2
    if neighbourhood == 0:
        near = torch.zeros_like(near)
    # (row, row') and (column, column') -> (row, column, row', column')
    hidden = near[:, None, :, None] & near[None, :, None, :]
    return hidden.reshape(side * side, side * side)


class Projection(nn.Linear):
    """A linear layer that takes its input in the precision of its weights."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Project tokens (..., C_in) to (..., C_out)."""
        return super().forward(tokens.to(self.weight.dtype))


class Attention(nn.Module):
    """Multi-head attention with a bias on its scores."""

    def __init__(self, width: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.query = Projection(width, width)
        self.key = Projection(width, width)
        self.value = Projection(width, width)
        self.output = Projection(width, width)
        self.dropout = nn.Dropout(dropout)

    def _split(self, tokens: Tensor) -> Tensor:
        count, length, width = tokens.shape
        split = tokens.reshape(count, length, self.heads, width // self.heads)
        return split.transpose(1, 2)  # (N, L, C) -> (N, heads, L, d)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Attend.

        Args:
            query: (N, L, C), or (1, L, C) for the same queries in every image.
            key: (N, L, C).
            value: (N, L, C).
            bias: (L, L), added to the scores before the softmax.

        Returns:
            (N, L, C).
        """
        queries, keys, values = (
            self._split(project(tokens))
            for project, tokens in ((self.query, query), (self.key, key), (self.value, value))
        )
        # Scaled before the product, which half precision could not hold otherwise.
        scores = torch.matmul(queries * self.scale, keys.transpose(-1, -2))
        weights = self.dropout((scores.float() + bias.float()).softmax(-1)).to(values.dtype)
        mixed = torch.matmul(weights, values)
        attended: Tensor = self.output(mixed.transpose(1, 2).flatten(2))  # (N, heads, L, d) -> (N, L, C)
        return attended


def _feed_forward(width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        Projection(width, 4 * width), nn.ReLU(), nn.Dropout(dropout), Projection(4 * width, width)
    )


class EncoderLayer(nn.Module):
    """Self-attention, then a feed-forward network, each added to its input and then normalised."""

    def __init__(self, width: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout=dropout)
        self.feed_forward = _feed_forward(width, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, position: Tensor, bias: Tensor) -> Tensor:
        """Encode tokens (N, L, C); position (L, C) is added to queries and keys only."""
        placed = tokens + position
        tokens = self.norms[0](tokens + self.dropout(self.attention(placed, placed, tokens, bias)))
        encoded: Tensor = self.norms[1](tokens + self.dropout(self.feed_forward(tokens)))
        return encoded


class DecoderLayer(nn.Module):
    """Learned queries attend to the encoder's tokens, then to the layer before."""

    def __init__(self, width: int, heads: int, *, tokens: int, dropout: float) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(tokens, width))
        self.memory_attention = Attention(width, heads, dropout=dropout)
        self.previous_attention = Attention(width, heads, dropout=dropout)
        self.feed_forward = _feed_forward(width, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, previous: Tensor, memory: Tensor, position: Tensor, bias: Tensor) -> Tensor:
        """Decode one layer.

        Args:
            previous: What the layer before gave, (N, L, C); the encoder's tokens for the first.
            memory: The encoder's tokens, (N, L, C).
            position: (L, C), added to queries and keys only.
            bias: (L, L), of the scores.

        Returns:
            (N, L, C).
        """
        queries = self.queries[None]  # (L, C) -> (1, L, C)
        attended = self.memory_attention(queries + position, memory + position, memory, bias)
        tokens = self.norms[0](queries + self.dropout(attended))
        attended = self.previous_attention(tokens + position, previous + position, previous, bias)
        tokens = self.norms[1](tokens + self.dropout(attended))
        decoded: Tensor = self.norms[2](tokens + self.dropout(self.feed_forward(tokens)))
        return decoded


class Transformer(nn.Module):
    """Projection, encoder layers, decoder layers, normalisation, projection back."""

    bias: Tensor

    def __init__(
        self,
        channels: int,
        side: int,
        *,
        width: int,
        heads: int,
        layers: int,
        neighbourhood: int,
        dropout: float,
    ) -> None:
        """Build with initial weights as UniAD's public code draws them.

        Args:
            channels: Of the tokens that are rebuilt.
            side: Tokens a side of their grid.
            width: Channels inside, a multiple of heads and of 2.
            heads: Of each attention.
            layers: Of the encoder, and of the decoder.
            neighbourhood: Side of the square that a token hides, in tokens; at most side - 1, so that
                every token sees some.
            dropout: Probability, of attention weights and of what each sublayer adds.
        """
        super().__init__()
        self.input = Projection(channels, width)
        self.rows = nn.Parameter(torch.rand(side, width // 2))
        self.columns = nn.Parameter(torch.rand(side, width // 2))
        self.encoder = nn.ModuleList(EncoderLayer(width, heads, dropout=dropout) for _ in range(layers))
        self.decoder = nn.ModuleList(
            DecoderLayer(width, heads, tokens=side * side, dropout=dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.output = Projection(width, channels)
        bias = neighbour_mask(side, neighbourhood) * _HIDDEN_SCORE
        self.register_buffer("bias", bias, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Attention):
                for project in (module.query, module.key, module.value):
                    # There the three are one matrix of 3C rows, whose Glorot bound is smaller by sqrt(2).
                    nn.init.xavier_uniform_(project.weight, gain=2**-0.5)

    def _position(self) -> Tensor:
        side, half = self.rows.shape
        # The columns' half first: (side, C / 2) -> (side, side, C / 2) twice -> (L, C)
        columns = self.columns[None, :, :].expand(side, side, half)
        rows = self.rows[:, None, :].expand(side, side, half)
        return torch.cat([columns, rows], 2).flatten(0, 1)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Rebuild tokens.

        Args:
            tokens: (N, L, channels), row-major positions.

        Returns:
            The rebuilt tokens (N, L, channels) and the encoder's tokens (N, L, width).
        """
        position = self._position()
        memory = self.input(tokens).to(position.dtype)
        for layer in self.encoder:
            memory = layer(memory, position, self.bias)
        decoded = memory
        for layer in self.decoder:
            decoded = layer(decoded, memory, position, self.bias)
        return self.output(self.norm(decoded)), memory
