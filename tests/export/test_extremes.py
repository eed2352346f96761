"""Frames that a lamp, a cap or a broken cable gives: in fp16 every base stays finite and within its limit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cada_edge.export.graph import FusedGraph
from cada_edge.export.reference import reference_of, run_torch
from cada_edge.runtime.backend import Outputs, choose_backend
from cada_edge.runtime.parity import Reference, replay
from cada_edge.trainer.checkpoint import Checkpoint, load_checkpoint
from cada_edge.trainer.config import BASES
from cada_edge.trainer.model import exact_fp32

SIDE = 64


def _extremes() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    frames = {"black": np.zeros((SIDE, SIDE, 3), np.uint8), "white": np.full((SIDE, SIDE, 3), 255, np.uint8)}
    for index, colour in enumerate(("blue", "green", "red")):
        frames[colour] = frames["black"].copy()
        frames[colour][..., index] = 255
    frames["noise"] = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    frames["black and white noise"] = (255 * rng.integers(0, 2, (SIDE, SIDE, 1), np.uint8)).repeat(3, 2)
    frames["salt"] = np.where(rng.random((SIDE, SIDE, 1)) < 0.01, np.uint8(255), frames["black"])
    frames["checks"] = (255 * (np.indices((SIDE, SIDE, 1)).sum(0) % 2)).astype(np.uint8).repeat(3, 2)
    frames["half white"] = frames["black"].copy()
    frames["half white"][:, SIDE // 2 :] = 255
    return frames


def _with_extremes(checkpoint: Checkpoint) -> Reference:
    """The checkpoint's reference, whose real frames give the limit, with more extremes."""
    own = reference_of(checkpoint)
    frames = np.stack(list(_extremes().values()))
    score, maps, stats = run_torch(checkpoint.model, frames)
    added = Reference(frames, score, stats, maps.astype(np.float16), np.full(len(frames), -1, np.int8))
    return Reference(
        **{
            item.name: np.concatenate([getattr(own, item.name), getattr(added, item.name)])
            for item in dataclasses.fields(Reference)
        }
    )


@pytest.mark.parametrize("base", list(BASES))
def test_black_white_and_noise_in_half_precision(
    base: str, checkpoint_of: Callable[[str], Path], graph_of: Callable[..., Path]
) -> None:
    checkpoint = load_checkpoint(checkpoint_of(base))
    reference = _with_extremes(checkpoint)
    # Those of every export are among them, at the end of its own frames.
    last = reference.frames[-len(_extremes()) - 3 : -len(_extremes())]
    assert (last[0].max(), last[1].min(), len(np.unique(last[2]))) == (0, 255, 256)
    graph = FusedGraph(checkpoint.model, precision="fp16")

    def by_torch(frames: np.ndarray) -> Outputs:
        """Round after every operator, which a CPU engine may not do."""
        with torch.inference_mode(), exact_fp32():
            score, maps, stats = (output.numpy() for output in graph(torch.from_numpy(frames)))
        return Outputs(score, maps, stats)

    parities = [replay(by_torch, reference, precision="fp16", backend="torch")]
    for name in ("onnxruntime", "openvino"):
        engine = choose_backend(graph_of(base, "fp16"), name, threads=1)
        engine.open()
        parities.append(replay(engine.infer, reference, precision="fp16", backend=name))
        engine.close()
    # It raises beyond a limit and where a value is not finite; that it compared something is left.
    assert all(parity.images == len(reference.frames) for parity in parities)
    assert 0 < parities[0].max_score_difference <= parities[0].score_limit


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_would_be_found(
    value: float, checkpoint_of: Callable[[str], Path]
) -> None:
    from cada_edge.errors import CheckFailedError

    reference = reference_of(load_checkpoint(checkpoint_of("revdist")))

    def spoiled(frames: np.ndarray) -> Outputs:
        maps = np.zeros((len(frames), SIDE, SIDE), np.float32)
        maps[-1, 0, 0] = value
        return Outputs(np.zeros(len(frames), np.float32), maps, np.zeros((len(frames), 2), np.float32))

    with pytest.raises(CheckFailedError, match="gave values that are not finite on the reference frames"):
        replay(spoiled, reference, precision="fp16", backend="spoiled")
