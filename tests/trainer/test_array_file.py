from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch

from cada_edge.errors import OutputError
from cada_edge.runtime.datasets import index_dataset
from cada_edge.trainer import data
from cada_edge.trainer.array_file import write_rows
from cada_edge.trainer.checkpoint import load_tensors, save_tensors

SmallDisk = Callable[[int], AbstractContextManager[None]]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_parts_become_one_mapped_array(tmp_path: Path, dtype: type[np.generic]) -> None:
    whole = np.arange(7 * 6).reshape(7, 2, 3).astype(dtype)
    mapped = write_rows(tmp_path / "a.npy", iter([whole[:4], whole[4:6], np.asfortranarray(whole[6:])]), 7)
    assert isinstance(mapped, np.memmap)
    assert mapped.dtype == dtype
    np.testing.assert_array_equal(mapped, whole)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), whole)


def test_a_full_disk_is_said_and_leaves_no_file(tmp_path: Path, small_disk: SmallDisk) -> None:
    with (
        small_disk(10_000),
        pytest.raises(OutputError, match=r"Cannot write .*a\.npy: File too large\. Free some space"),
    ):
        write_rows(tmp_path / "a.npy", (np.zeros((10, 500)) for _ in range(10)), 100)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_older_checkpoint(tmp_path: Path, small_disk: SmallDisk) -> None:
    path = tmp_path / "state.pt"
    save_tensors(path, {"weights": torch.arange(3)})
    with (
        small_disk(10_000),
        pytest.raises(OutputError, match=r"Cannot write .*state\.pt.*nothing was changed"),
    ):
        save_tensors(path, {"weights": torch.zeros(100_000)})
    assert load_tensors(path, kind="state")["weights"].tolist() == [0, 1, 2]
    assert [item.name for item in tmp_path.iterdir()] == ["state.pt"]


def test_images_beyond_the_memory_limit_lie_on_disk(
    tiny_line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = index_dataset(tiny_line).train
    in_memory = data.decode(samples, 64)
    monkeypatch.setattr(data, "MEMORY_LIMIT_BYTES", 1000)
    on_disk = data.decode(samples, 64, spill=tmp_path / "decoded.npy")
    assert isinstance(on_disk, np.memmap)
    np.testing.assert_array_equal(on_disk, in_memory)
