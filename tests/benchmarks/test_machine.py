from __future__ import annotations

import getpass
import json
import os
import platform
import socket
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cada_edge.benchmarks import machine
from cada_edge.benchmarks.machine import describe_machine


def test_it_is_plain_json_and_names_what_figures_depend_on() -> None:
    described = describe_machine()
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert described["cpu"]
    assert 1 <= described["cores"] <= described["cores_installed"]
    assert described["python"] == f"{platform.python_implementation()} {platform.python_version()}"
    assert described["packages"]["numpy"] == np.__version__


def test_no_host_user_or_folder_is_named() -> None:
    text = json.dumps(describe_machine())
    # A host or user may have a name that is a word of its own, as 'linux': then nothing can be told.
    names = {socket.gethostname(), getpass.getuser(), str(Path.home()), str(Path(__file__).parent)}
    for name in names:
        if len(name) > 5:
            assert name not in text


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no processor affinity")
def test_cores_are_those_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 3})
    assert describe_machine()["cores"] == 3


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz\n\nmodel name\t: Other", "Fast CPU @ 3 GHz"),
        (
            "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n",
            "aarch64 implementer 0x41 part 0xd42",
        ),
        ("processor : 0\nHardware : BCM2835\n", "BCM2835"),
        ("", "aarch64"),
        (None, "aarch64"),
    ],
)
def test_processors_are_named_as_far_as_they_are_known(
    cpuinfo: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_read", lambda path: cpuinfo if path == "/proc/cpuinfo" else None)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert describe_machine()["cpu"] == expected


def test_a_system_that_tells_nothing_is_described_by_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: Any, **options: Any) -> Any:
        raise OSError("not here")

    for name in ("sched_getaffinity", "sysconf", "getloadavg"):
        monkeypatch.setattr(os, name, unknown, raising=False)
    monkeypatch.setattr(machine, "_read", lambda path: None)
    monkeypatch.setattr(subprocess, "run", unknown)
    monkeypatch.setattr(platform, "system", lambda: "Plan 9")
    monkeypatch.setattr(platform, "release", lambda: "of-bob")
    described = describe_machine()
    missing = {name for name, value in described.items() if value is None}
    assert missing == {
        "board",
        "governor",
        "memory_gib",
        "load_average",
        "kernel",
        "commit",
        "commit_modified",
    }
    assert described["cores"] == os.cpu_count()
    assert described["system"] == "Plan 9"


def test_the_kernels_free_suffix_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "release", lambda: "6.1.0-27-built-by-bob")
    assert describe_machine()["kernel"] == "Linux 6.1.0"


def test_a_device_trees_name_comes_without_its_nul(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"Orin Nano Developer Kit\0")
    assert machine._read(str(tmp_path / "model")) == "Orin Nano Developer Kit"


@pytest.mark.needs_system("git")
def test_only_a_tracked_file_speaks_for_its_checkouts_commit(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", *identity, "-C", str(tmp_path), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    tracked, untracked = tmp_path / "tracked.py", tmp_path / "untracked.py"
    tracked.write_text("a")
    untracked.write_text("a")
    git("add", "tracked.py")
    git("commit", "--quiet", "--no-verify", "--message", "one")
    assert machine._git_commit(tracked) == git("rev-parse", "HEAD")
    assert machine._git_commit(untracked) is None
    assert machine._is_modified(tmp_path) is False
    tracked.write_text("b")
    assert machine._is_modified(tmp_path) is True
