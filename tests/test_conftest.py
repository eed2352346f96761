"""A missing system package: a skip that is listed, and a failure where everything must run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_TESTS = """
import pytest

@pytest.mark.needs_system("no-such-command", package="no-such-package")
def test_marked():
    pass

def test_finds_out_later(require_system):
    require_system("no-such-tool")

@pytest.mark.needs_system("{present}")
def test_present():
    pass
"""

_CONFIG = "[pytest]\nmarkers =\n    needs_system(command, package): see conftest\n    gpu: see conftest\n"


def _run(folder: Path, *, require_all: bool) -> subprocess.CompletedProcess[str]:
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    (folder / "pytest.ini").write_text(_CONFIG)
    present = shutil.which("sh") or sys.executable
    (folder / "test_needs.py").write_text(_TESTS.format(present=present))
    environment = {name: value for name, value in os.environ.items() if name[:5] not in ("PYTES", "CADA_")}
    if require_all:
        environment["CADA_EDGE_REQUIRE_ALL"] = "1"
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_missing_package_skips_and_is_listed_by_package(tmp_path: Path) -> None:
    run = _run(tmp_path, require_all=False)
    assert run.returncode == pytest.ExitCode.OK, run.stdout
    listed = run.stdout.partition("skipped: a system package is missing")[2].split("\n", 1)[1]
    assert listed.startswith(
        "apt-get install no-such-package\n"
        "    test_needs.py::test_marked\n"
        "apt-get install no-such-tool\n"
        "    test_needs.py::test_finds_out_later\n"
    )
    assert "1 passed, 2 skipped" in run.stdout.splitlines()[-1]


def test_a_missing_package_fails_where_everything_must_run(tmp_path: Path) -> None:
    run = _run(tmp_path, require_all=True)
    assert run.returncode == pytest.ExitCode.TESTS_FAILED
    assert "is missing: apt-get install no-such-package (CADA_EDGE_REQUIRE_ALL=1" in run.stdout
    assert "1 failed, 1 passed, 1 error" in run.stdout.splitlines()[-1]
