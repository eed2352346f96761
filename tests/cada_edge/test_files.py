"""Files written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from cada_edge.errors import OutputError
from cada_edge.files import atomic_path, sha256_file, write_atomic


def _names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_sha256_is_that_of_the_whole_file(tmp_path: Path, size: int) -> None:
    data = bytes(index % 251 for index in range(1024)) * (size // 1024 + 1)
    (tmp_path / "file").write_bytes(data[:size])
    assert sha256_file(tmp_path / "file") == hashlib.sha256(data[:size]).hexdigest()


def test_write_makes_folders_and_returns_the_path(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "model.onnx"
    assert write_atomic(path, b"\x00\xff") == path
    assert path.read_bytes() == b"\x00\xff"
    assert _names(path.parent) == ["model.onnx"]


def test_write_takes_a_text_path_and_replaces_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(b"a longer old content")
    assert write_atomic(str(path), b"new") == path
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("name", ["größe 模型 🔩.onnx", "with space.json", "-leading-dash", "x" * 200])
def test_write_takes_unusual_names(tmp_path: Path, name: str) -> None:
    write_atomic(tmp_path / name, b"content")
    assert _names(tmp_path) == [name]


def test_write_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_atomic("bare.json", b"content")
    assert _names(tmp_path) == ["bare.json"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_the_umask_allows(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        path = write_atomic(tmp_path / "model.onnx", b"content")
        assert os.umask(umask) == umask  # write_atomic left it as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_the_umask_of_other_threads_is_never_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def set_umask(mask: int) -> int:
        raise AssertionError("files of other threads would get it")

    monkeypatch.setattr("cada_edge.files.os.umask", set_umask)
    write_atomic(tmp_path / "model.onnx", b"content")


def _fail_with(code: int) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_full_disk_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    # Many file systems say that they are full when the data is flushed, not when it is written.
    monkeypatch.setattr("cada_edge.files.os.fsync", _fail_with(errno.ENOSPC))
    wanted = r"Cannot write .*model\.onnx: No space left on device\. Choose a folder .* nothing was changed"
    with pytest.raises(OutputError, match=wanted):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["model.onnx"]


def test_a_write_that_stops_half_way_leaves_the_old_file_and_no_other(
    tmp_path: Path, small_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with (
        small_disk(100_000),
        pytest.raises(OutputError, match=r"Cannot write .*model\.onnx: File too large"),
    ):
        write_atomic(path, bytes(1_000_000))
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["model.onnx"]


def test_a_failed_rename_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    monkeypatch.setattr(Path, "replace", _fail_with(errno.EIO))
    with pytest.raises(OutputError, match="Input/output error") as caught:
        write_atomic(path, b"new")
    assert isinstance(caught.value.__cause__, OSError)
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["model.onnx"]


def test_a_read_only_file_system_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Simulated: root, as in a container, may write into a folder without the write permission.
    monkeypatch.setattr("cada_edge.files.os.open", _fail_with(errno.EROFS))
    with pytest.raises(OutputError, match=r"Read-only file system\. .*nothing was changed"):
        write_atomic(tmp_path / "model.onnx", b"new")
    assert _names(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="the system has no such permissions")
def test_a_folder_without_write_permission_is_named() -> None:
    # Not pytest's folder: below root's own no other user finds anything.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # root, as in a container, ignores permissions
        try:
            with pytest.raises(OutputError, match="Permission denied"):
                write_atomic(folder / "model.onnx", b"new")
        finally:
            if user == 0:
                os.seteuid(0)
            folder.chmod(0o755)
        assert _names(folder) == []


def test_a_file_where_a_folder_is_wanted_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"a file")
    with pytest.raises(OutputError, match=r"Cannot write .*out.model\.onnx: (File exists|Not a directory)"):
        write_atomic(tmp_path / "out" / "model.onnx", b"new")
    assert (tmp_path / "out").read_bytes() == b"a file"


def test_a_folder_where_the_file_is_wanted_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(OutputError, match=r"Cannot write .*model\.onnx: Is a directory"):
        write_atomic(tmp_path / "model.onnx", b"new")
    assert _names(tmp_path) == ["model.onnx"]


def test_a_block_gets_a_file_beside_the_path(tmp_path: Path) -> None:
    path = tmp_path / "out" / "model.onnx"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent  # a rename across file systems would be a copy
        assert not path.exists()
        temporary.write_bytes(b"content")
    assert path.read_bytes() == b"content"
    assert _names(path.parent) == ["model.onnx"]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_failed_block_leaves_the_old_file_and_no_other(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def fill(temporary: Path) -> None:
        temporary.write_bytes(b"half of the")
        raise error

    with pytest.raises(error), atomic_path(path) as temporary:
        fill(temporary)
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["model.onnx"]
