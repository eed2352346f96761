"""What holds for every test: system packages that may be missing, GPUs that may be missing, no windows.

A test marked ``@pytest.mark.needs_system("ffmpeg")`` skips where that command is not on the PATH, and the
skipped ones are listed at the end. A test that finds out only while it runs calls the fixture:
``require_system("gst-launch-1.0", package="gstreamer1.0-tools")``. With CADA_EDGE_REQUIRE_ALL=1, as in
.ci/run, such a skip is a failure; so is every other one, but those that a machine without a GPU, or a release
without a checkout, cannot do without. An environment without torch may lack further packages.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

# Reports are drawn on machines without a display.
os.environ.setdefault("MPLBACKEND", "Agg")

try:
    import hypothesis
except ImportError:  # an environment that runs a part of the tests
    pass
else:
    # A shared machine stalls now and then: the deadline of 200 ms for each example would fail at random.
    hypothesis.settings.register_profile("cada-edge", deadline=None, database=None)
    hypothesis.settings.load_profile("cada-edge")

_REASON = "the command {command!r} is missing: apt-get install {package}"
_REASON_PATTERN = re.compile(r"the command '.+' is missing: apt-get install (?P<package>[\w.+-]+)")


_MAY_SKIP = re.compile(
    r"no CUDA device|this machine has a (GPU|driver)|says what happens without a GPU|no git checkout"
)
"""Reasons that hold on some machine in any case."""


def _require_system(command: str, *, package: str | None = None) -> None:
    if shutil.which(command) is not None:
        return
    reason = _REASON.format(command=command, package=package or command)
    if os.environ.get("CADA_EDGE_REQUIRE_ALL") == "1":
        pytest.fail(f"{reason} (CADA_EDGE_REQUIRE_ALL=1 forbids the skip)", pytrace=False)
    pytest.skip(reason)


def _has_cuda_device() -> bool:
    # The device nodes of a PC's and of a Jetson's driver: asking torch would load it for every run.
    return any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu"))


@pytest.fixture(scope="session")
def require_system() -> Callable[..., None]:
    """Skip the test unless a command is there: ``require_system(command, package=command)``."""
    return _require_system


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs_system"):
        _require_system(*mark.args, **mark.kwargs)
    if item.get_closest_marker("gpu") is not None and not _has_cuda_device():
        pytest.skip("no CUDA device")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Forbid skips of tests where everything must run."""
    outcome: Any = yield
    _forbid_skip(outcome.get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """Likewise those of whole modules."""
    outcome: Any = yield
    _forbid_skip(outcome.get_result())


def _forbid_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get("CADA_EDGE_REQUIRE_ALL") != "1" or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if find_spec("torch") is not None and _MAY_SKIP.search(reason) is None:
        report.outcome = "failed"
        report.longrepr = f"{reason} (CADA_EDGE_REQUIRE_ALL=1 forbids the skip)"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the tests that skipped for want of a system package, by package."""
    waiting: dict[str, list[str]] = defaultdict(list)
    for report in terminalreporter.stats.get("skipped", []):
        found = _REASON_PATTERN.search(str(report.longrepr))
        if found:
            waiting[found["package"]].append(report.nodeid)
    if not waiting:
        return
    terminalreporter.section("skipped: a system package is missing")
    for package, tests in sorted(waiting.items()):
        terminalreporter.line(f"apt-get install {package}")
        for test in sorted(tests):
            terminalreporter.line(f"    {test}")


@pytest.fixture
def small_disk() -> Callable[[int], AbstractContextManager[None]]:
    """Give a block in which no file grows beyond a size: a real refusal, as a full disk's.

    Used as ``with small_disk(bytes):``. A block and not the whole test, since the limit also holds for the
    file that pytest's report may go to.
    """

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        old = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)

    return limited
