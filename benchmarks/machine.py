"""Describe the machine that a figure was measured on, without naming it or its user."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["describe_machine"]

_PACKAGES = (
    "cada-edge",
    "numpy",
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python-headless",
    "opencv-contrib-python",
    "onnxruntime",
    "openvino",
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxscript",
    "matplotlib",
)
"""Packages whose version can move a figure; those that are not installed are left out."""

_GIT_TIMEOUT_S = 10


def describe_machine() -> dict[str, Any]:
    """Describe processor, memory, system, versions and commit; what cannot be found out is None.

    Returns:
        JSON-safe: cpu, architecture, board, cores (usable by this process), cores_installed, governor,
        memory_gib, load_average (runnable processes over the last minute), system, kernel, python, packages
        (name -> version), commit and commit_modified. No host name, user or path is in it.
    """
    commit = _git_commit(Path(__file__).resolve())
    return {
        "cpu": _cpu_model(),
        "architecture": platform.machine() or None,
        "board": _read("/proc/device-tree/model"),
        "cores": _usable_cores(),
        "cores_installed": os.cpu_count(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "memory_gib": _memory_gib(),
        "load_average": _load_average(),
        "system": _system_name(),
        "kernel": _kernel_version(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": _package_versions(),
        "commit": commit,
        "commit_modified": None if commit is None else _is_modified(Path(__file__).resolve().parent),
    }


def _read(path: str) -> str | None:
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The device tree ends its strings with NUL.
    return text.strip("\0 \n\t") or None


def _cpu_model() -> str | None:
    """Name the processor: x86 has its name in cpuinfo, arm mostly the ids of its maker and core alone."""
    fields: dict[str, str] = {}
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip().lower(), value.strip())
    for name in ("model name", "cpu model", "hardware", "uarch"):
        if fields.get(name):
            return fields[name]
    if "cpu part" in fields:
        maker = fields.get("cpu implementer", "unknown")
        return f"{platform.machine()} implementer {maker} part {fields['cpu part']}"
    return platform.processor() or platform.machine() or None


def _usable_cores() -> int | None:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        # Neither macOS nor Windows has it.
        return os.cpu_count()


def _memory_gib() -> float | None:
    try:
        total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    return round(total_bytes / 2**30, 1) if total_bytes > 0 else None


def _load_average() -> float | None:
    try:
        return round(os.getloadavg()[0], 1)
    except (AttributeError, OSError):
        return None


def _system_name() -> str:
    for line in (_read("/etc/os-release") or "").splitlines():
        name, _, value = line.partition("=")
        if name == "PRETTY_NAME":
            return value.strip("\"'")
    # Of macOS and Windows; never platform.platform(), whose end may be a name somebody gave.
    return f"{platform.system()} {_leading_number(platform.release())}".strip() or "unknown"


def _kernel_version() -> str | None:
    """Return the kernel and its number, without the suffix its builder chose."""
    number = _leading_number(platform.release())
    return f"{platform.system()} {number}" if number else None


def _leading_number(text: str) -> str:
    found = re.match(r"\d+(\.\d+)*", text)
    return found[0] if found else ""


def _package_versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _git_commit(file: Path) -> str | None:
    """Return the commit of the checkout that holds a file, None where the file is not tracked."""
    # An environment may lie inside the checkout of something else: only a tracked file speaks for its commit.
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None
    return _git(file.parent, "rev-parse", "HEAD")


def _is_modified(folder: Path) -> bool | None:
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if changes is None else bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    """Run git in a folder and return what it printed; None when it is missing or refuses."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=_GIT_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
