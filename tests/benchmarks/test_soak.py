from __future__ import annotations

import json
import runpy
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cada_edge import Detector
from cada_edge.benchmarks import soak as module
from cada_edge.benchmarks.soak import SoakFigures, main
from cada_edge.runtime.stream_events import StreamCounts

CONFTEST = Path(__file__).parents[1] / "runtime" / "conftest.py"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The runtime tests' tiny model: the run itself is what is soaked, not an engine."""
    path: Path = runpy.run_path(str(CONFTEST))["_write_tiny_model"](tmp_path / "tiny.onnx")
    return path


# In a process of its own: what other tests have left in this one's memory says nothing of a run.
SOAKED = """
import dataclasses, json, sys
from pathlib import Path
from cada_edge.benchmarks.soak import soak

model, folder = map(Path, sys.argv[1:])
figures = soak(model, minutes=2.1, fps=60, frame_hw=(240, 320), cut_every_s=10, folder=folder)
print(json.dumps(dataclasses.asdict(figures)))
"""


@pytest.mark.slow
def test_two_minutes_under_load_grow_by_nothing_and_lose_nothing(model: Path, tmp_path: Path) -> None:
    """Five sources at once, faster than they are inspected; 30 minutes are a command: benchmarks/soak.py."""
    command = [sys.executable, "-c", SOAKED, str(model), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    figures = SoakFigures(**json.loads(done.stdout))
    assert not figures.failures
    assert len(figures.counts) == 5
    assert figures.inspected > 300
    assert figures.looks > 100
    assert figures.reconnects >= 2
    assert len(figures.memory_mib) > 20
    assert figures.counts["newest"]["dropped"] + figures.counts["queue of four"]["dropped"] > 0


def test_every_model_has_rejects(model: Path) -> None:
    with Detector(model, threshold=module._threshold_between(model, (48, 64))) as detector:
        frames = module._frames(1e6, (48, 64), 0)
        verdicts = [detector(next(frames)).is_anomalous for _ in range(21)]
    assert verdicts == [True] + [False] * 19 + [True]


def test_growth_is_from_after_the_warm_up_to_the_end() -> None:
    assert module._growth([10, 50, 100, 100, 101, 99, 100, 100, 103, 103]) == 3
    assert module._growth([5.0]) == 0
    rising = [float(value) for value in range(100)]
    assert module._growth(rising) == 60


def write_record(folder: Path, rows: int, lines: int) -> None:
    connection = sqlite3.connect(folder / "verdicts.db")
    connection.execute("CREATE TABLE verdicts (dropped INTEGER)")
    connection.executemany("INSERT INTO verdicts VALUES (?)", [(1,)] * rows)
    connection.commit()
    connection.close()
    (folder / "verdicts.jsonl").write_text("{}\n" * lines)
    (folder / "rejects").mkdir()
    (folder / "rejects" / "1.reject.jpg").write_bytes(b"0" * 100)


def test_what_must_not_be_is_found(tmp_path: Path) -> None:
    good = StreamCounts(captured=9, delivered=3, dropped=6)
    write_record(tmp_path, 3, 3)
    assert module._check_end({"a": good}, 3, tmp_path) == []
    waiting = StreamCounts(captured=9, delivered=3, dropped=5, waiting=1)
    assert "a: after the end" in module._check_end({"a": waiting}, 3, tmp_path)[0]
    assert module._check_end({"a": good}, 2, tmp_path) == ["3 taken, 2 inspected, 3 rows, 3 lines"]
    blocked = module._check_end({"every frame": good}, 3, tmp_path)
    assert blocked == ["every frame: 6 frames were dropped before the end"]
    silent = StreamCounts(captured=6, dropped=6)
    assert "b: no frame was inspected" in module._check_end({"a": good, "b": silent}, 3, tmp_path)
    few = StreamCounts(captured=4, delivered=3, dropped=1)
    assert module._check_end({"a": few}, 3, tmp_path) == ["the record knows of 3 drops, the sources of fewer"]
    (tmp_path / "rejects" / "2.reject.jpg").write_bytes(b"0" * (3 << 20))
    assert "the rejects are" in module._check_end({"a": good}, 3, tmp_path)[0]


@pytest.mark.parametrize(("failures", "code"), [((), 0), (("memory grew",), 1)])
def test_the_command_prints_a_verdict_and_has_its_exit_code(
    model: Path, monkeypatch: pytest.MonkeyPatch, failures: tuple[str, ...], code: int
) -> None:
    counts = {"a": StreamCounts(captured=2, delivered=2).to_dict()}
    figures = SoakFigures(30.0, 2, counts, 9, 1, (100.0, 101.0), 1.0, failures)
    monkeypatch.setattr(module, "soak", lambda *_, **__: figures)  # the soak itself is the test above
    result = CliRunner().invoke(main, [str(model), "--minutes", "30"])
    assert result.exit_code == code
    assert "a: 2 captured, 2 delivered" in result.stdout
    assert "memory 101 MiB, +1.0 MiB since the warm-up (limit 16)" in result.stdout
    assert result.stdout.splitlines()[-1] == ("failed" if failures else "passed")
    assert ("FAILED: memory grew" in result.stdout) is bool(failures)
