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


_IMPORTS = """
import pytest

def test_needs_a_package():
    pytest.importorskip("no_such_package", reason="pip install no-such-package")

@pytest.mark.gpu
def test_on_a_gpu():
    pass

@pytest.mark.xfail
def test_known():
    assert False
"""


def _run(folder: Path, *, require_all: bool, tests: str = "") -> subprocess.CompletedProcess[str]:
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    (folder / "pytest.ini").write_text(_CONFIG)
    present = shutil.which("sh") or sys.executable
    (folder / "test_needs.py").write_text(tests or _TESTS.format(present=present))
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


def test_other_skips_fail_there_too_but_those_for_want_of_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="an environment without it may lack other packages")
    if any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu")):
        pytest.skip("this machine has a GPU")
    run = _run(tmp_path, require_all=True, tests=_IMPORTS)
    assert "pip install no-such-package (CADA_EDGE_REQUIRE_ALL=1 forbids the skip)" in run.stdout
    assert "1 failed, 1 skipped, 1 xfailed" in run.stdout.splitlines()[-1]
    module = "import pytest\npytest.importorskip('no_such_package', reason='pip install no-such-package')\n"
    run = _run(tmp_path, require_all=True, tests=module)
    assert "pip install no-such-package (CADA_EDGE_REQUIRE_ALL=1 forbids the skip)" in run.stdout
    assert "1 error" in run.stdout.splitlines()[-1]
    run = _run(tmp_path, require_all=False, tests=_IMPORTS)
    assert "2 skipped, 1 xfailed" in run.stdout.splitlines()[-1]
