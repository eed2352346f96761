from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cada_edge.errors import InputError, OutputError
from cada_edge.runtime.map_files import MapFolder


def test_images_that_differ_in_the_extension_have_each_their_map(tmp_path: Path) -> None:
    folder = MapFolder(tmp_path / "maps")
    maps = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    names = ["a/000.png", "a/000.bmp", "b/000.png"]
    files = [folder.write(name, anomaly_map) for name, anomaly_map in zip(names, maps, strict=True)]
    assert [file.relative_to(tmp_path / "maps").as_posix() for file in files] == [
        "a/000.png.npy",
        "a/000.bmp.npy",
        "b/000.png.npy",
    ]
    for file, anomaly_map in zip(files, maps, strict=True):
        found = np.load(file)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, anomaly_map)


def test_an_empty_folder_is_taken_and_one_with_files_refused(tmp_path: Path) -> None:
    MapFolder(tmp_path).write("a.png", np.zeros((2, 2), np.float32))
    with pytest.raises(OutputError, match=r"which holds a\.png\.npy; wanted a new or an empty.*Name an"):
        MapFolder(tmp_path)
    with pytest.raises(OutputError, match="which holds no folder, but a file; wanted a new or an empty"):
        MapFolder(tmp_path / "a.png.npy")


@pytest.mark.parametrize("relative", ["../a.png", "b/../../a.png", "/etc/a.png"])
def test_a_path_out_of_the_folder_is_refused(relative: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.png' came .* wanted one below the data set's root\. Move"):
        MapFolder(tmp_path / "maps").write(relative, np.zeros((2, 2), np.float32))
    assert list(tmp_path.iterdir()) == []
