from __future__ import annotations

import errno
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cada_edge.errors import ConfigError, OutputError
from cada_edge.runtime.score_memory import SMALLEST_LIMIT, ScoreMemory
from cada_edge.runtime.score_runs import ScoreRuns, count_ranks, ordered_keys


def test_the_largest_go_first_until_half_the_limit_is_held() -> None:
    with ScoreMemory(SMALLEST_LIMIT) as memory:
        small, large = ScoreRuns(memory=memory), ScoreRuns(memory=memory)
        small.append(np.zeros(50_000, np.float32))
        large.append(np.zeros(200_000, np.float32))
        assert memory.stored_bytes == 0
        small.append(np.zeros(15_000, np.float32))
        assert (small.held_bytes, large.held_bytes) == (4 * 65_000, 0)
        assert memory.stored_bytes == 2 * 200_000
        assert len(large) == 200_000


def test_without_a_limit_nothing_is_written() -> None:
    with ScoreMemory() as memory:
        ScoreRuns(memory=memory).append(np.zeros(1_000_000, np.float32))
        assert memory.stored_bytes == 0


def test_a_slice_of_what_was_stored() -> None:
    with ScoreMemory() as memory:
        first = memory.store(np.arange(10, dtype=np.uint16))
        second = memory.store(np.arange(100, 200, dtype=np.uint16))
        assert first[2:5].tolist() == [2, 3, 4]
        assert second[97:200].tolist() == [197, 198, 199]
        assert second[5:5].tolist() == []


def test_too_small_a_limit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"1048575 bytes came; wanted at least 1048576 .*--max-memory 1GiB"):
        ScoreMemory(SMALLEST_LIMIT - 1)


def test_a_full_disk_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk:
        def seek(self, offset: int) -> None: ...

        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None: ...

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: FullDisk())
    with (
        ScoreMemory() as memory,
        pytest.raises(OutputError, match=r"Cannot write 20 bytes .*No space left on device\. Set TMPDIR"),
    ):
        memory.store(np.zeros(10, np.uint16))


def test_a_file_that_was_cut_is_found() -> None:
    with ScoreMemory() as memory:
        stored = memory.store(np.zeros(10, np.uint16))
        assert memory._file is not None
        memory._file.truncate(7)
        with pytest.raises(OutputError, match="ended before its end; wanted all that was written"):
            stored[:]


def test_the_file_goes_with_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    memory = ScoreMemory()
    runs = ScoreRuns(memory=memory)
    runs.append(np.arange(9, dtype=np.float32))
    runs.spill()
    assert count_ranks([runs], ordered_keys(np.array([4.5], np.float32)))[0] == [5]
    memory.close()
    memory.close()
    assert list(tmp_path.iterdir()) == []


PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from cada_edge.runtime import score_runs
from cada_edge.runtime.datasets import Sample
from cada_edge.runtime.evaluate import evaluate
from cada_edge.runtime.images import write_image

# What each of up to four threads merges at once: less than a MiB.
score_runs._WINDOW = 1 << 14
mask = np.zeros((256, 256), np.uint8)
mask[90:120, 80:110] = 255
path = Path(sys.argv[1]) / "mask.png"
write_image(path, mask)

def measure(images, limit):
    samples = [
        Sample(Path("a.png"), f"kind{at % 3}", "test", mask is not None, "", mask, "a.png")
        for at, mask in enumerate([path, None] * (images // 2))
    ]
    rng = np.random.default_rng(0)
    maps = ((float(at % 2), rng.standard_normal((256, 256), dtype=np.float32)) for at in range(images))
    return evaluate(samples, maps, threshold=None, map_hw=(256, 256), max_memory_bytes=limit).mixed

def highest_kib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

limit = int(sys.argv[2]) or None
# Every buffer of a fixed size reaches it here.
measure(60, limit)
before = highest_kib()
mixed = measure(240, limit)
sys.stdout.write(f"{highest_kib() - before} {mixed['p_auroc']!r}")
sys.stdout.write(f" {mixed['p_ap']!r} {mixed['aupro']!r}")
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux has it")
def test_an_evaluation_keeps_to_its_memory(tmp_path: Path) -> None:
    found = {}
    few = 4 * SMALLEST_LIMIT
    for limit in (0, few):
        # In a process of its own: what other tests keep or free is not counted.
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path), str(limit)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        kib, *figures = done.stdout.split()
        found[limit] = int(kib), figures
    # Of 180 images more the runs alone are 22.5 MiB, and the maps 45.
    assert found[0][0] > 22.5 * 1024
    assert found[few][0] < 22.5 * 1024 / 2
    assert found[few][1] == found[0][1]
