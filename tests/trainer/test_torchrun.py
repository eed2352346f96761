"""Two processes under torchrun on the CPU train what one does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cada_edge.runtime.datasets import index_dataset
from cada_edge.trainer.base_method import configure
from cada_edge.trainer.checkpoint import load_checkpoint
from cada_edge.trainer.config import BASES, TrainConfig
from cada_edge.trainer.fit import fit
from cada_edge.trainer.run_log import read_log

# Three processes start up, and on a busy machine that alone may take minutes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ITERATIONS = 6

NOISE = {"revdist": 1e-4, "recontrast": 2e-2}
"""How far the losses of two processes may be from one's, relative.

RevDist's are the same function: rounding, which AdamW's steps enlarge. ReContrast finds its hard positions
among those of a process's own images. A base method that draws random numbers draws others in each process.
"""
RANDOM_NOISE = 0.3

# Runs in each process: trains or resumes each folder's run, then holds the batch statistics of two halves
# against those of the whole.
SCRIPT = """
import json, sys
from pathlib import Path
import torch
from torch import nn
from cada_edge.runtime.datasets import index_dataset
from cada_edge.trainer.config import from_dict
from cada_edge.trainer.fit import fit
from cada_edge.trainer.processes import join, launched_place
from cada_edge.trainer.shared_norm import SharedBatchNorm2d

line, out = index_dataset(sys.argv[1]), Path(sys.argv[2])
place, said = launched_place(), {}
for name, values in json.loads(sys.argv[3]).items():
    result = fit(line, out / name, from_dict(values), resume=True)
    said[name] = [str(result.checkpoint), result.threshold, result.training_images]

with join(place, torch.device("cpu")) as processes:
    torch.manual_seed(0)
    x, direction = torch.randn(2, 6, 3, 5, 4).unbind()
    x[4:] += 3  # the halves differ
    whole, shared = nn.BatchNorm2d(3), SharedBatchNorm2d(3)
    a = x.clone().requires_grad_()
    b = processes.share(x).clone().requires_grad_()
    y = whole(a)
    y.backward(direction)
    z = shared(b)
    z.backward(processes.share(direction))
    close = lambda left, right: bool(torch.allclose(left, right, atol=1e-5))
    said["norm"] = [
        close(processes.share(y), z),
        close(processes.share(a.grad), b.grad),
        close(whole.weight.grad, processes.mean(shared.weight.grad) * 2),
        close(whole.running_mean, shared.running_mean),
        close(whole.running_var, shared.running_var),
    ]
(out / f"said.{place.rank}.json").write_text(json.dumps(said))
"""

# The second process fails where the first one goes on to the first step.
FAILING = """
import os, sys
from cada_edge.runtime.datasets import index_dataset
from cada_edge.trainer import fit as fit_module
from cada_edge.trainer.config import from_dict
import json

if os.environ["RANK"] == "1":
    def build_model(*args, **options):
        raise MemoryError("no room for the model")
    fit_module.build_model = build_model
fit_module.fit(index_dataset(sys.argv[1]), sys.argv[2], from_dict(json.loads(sys.argv[3])))
"""


def _torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)


def _config(base: str) -> TrainConfig:
    return configure(
        {
            "base": base,
            "encoder": "mobilenetv3_small_100" if base == "recontrast" else "resnet18",
            "encoder_weights": "random",
            "size": 64,
            "iterations": ITERATIONS,
            "batch_size": 4,
            "learning_rate": 1e-4,
            "save_every": 2,
            "log_every": 1,
            "device": "cpu",
            "threads": 1,
            "aligner": {"iterations": 6, "batch_size": 4},
        }
    )


def _losses(run: Path) -> list[float]:
    rows = [row for row in read_log(run / "log.jsonl") if row["row"] == "step" and row["stage"] == "base"]
    assert [row["iteration"] for row in rows] == list(range(1, ITERATIONS + 1))
    return [row["loss"] for row in rows]


class _StoppedError(Exception):
    """Ends a run in its middle, as a person would."""


def _stop(stage: str, done: int, total: int, loss: float) -> None:
    if stage == "base" and done == 4:
        raise _StoppedError


@pytest.fixture(scope="module")
def both(tiny_line: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Folder with each base's run of two processes, and what each of them said."""
    out = tmp_path_factory.mktemp("torchrun")
    script = out / "script.py"
    script.write_text(SCRIPT)
    configs = {base: _config(base).to_dict() for base in BASES}
    # One process begins this one and is stopped; two go on from its state of iteration 2.
    with pytest.raises(_StoppedError):
        fit(index_dataset(tiny_line), out / "resumed", _config("revdist"), progress=_stop)
    configs["resumed"] = configs["revdist"]
    done = _torchrun(str(script), str(tiny_line), str(out), json.dumps(configs))
    assert done.returncode == 0, done.stderr
    return out, [json.loads((out / f"said.{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", [*BASES, "resumed"])
def test_two_processes_train_what_one_does(
    name: str, both: tuple[Path, list[dict[str, Any]]], tiny_line: Path, tmp_path: Path
) -> None:
    out, said = both
    base = "revdist" if name == "resumed" else name
    alone = fit(index_dataset(tiny_line), tmp_path, _config(base))
    noise = NOISE.get(base, RANDOM_NOISE)
    assert _losses(out / name) == pytest.approx(_losses(tmp_path), rel=noise)
    # One of each, and nothing of the followers'.
    assert sorted(path.name for path in (out / name).iterdir()) == ["checkpoint.pt", "log.jsonl", "state.pt"]
    kinds = [row["row"] for row in read_log(out / name / "log.jsonl")]
    assert (kinds.count("header"), kinds.count("finished")) == (1, 1)
    assert kinds.count("resumed") == (name == "resumed")
    first, second = load_checkpoint(alone.checkpoint), load_checkpoint(out / name / "checkpoint.pt")
    assert list(first.model.state_dict()) == list(second.model.state_dict())
    assert first.data_fingerprint == second.data_fingerprint
    for category, statistics in first.class_table.items():
        assert second.class_table[category] == pytest.approx(statistics, rel=min(0.3, noise * 10))
    # All processes return the same.
    told = [str(out / name / "checkpoint.pt"), second.threshold, alone.training_images]
    assert said[0][name] == said[1][name] == told


def test_batch_statistics_are_those_of_the_whole_batch(both: tuple[Path, list[dict[str, Any]]]) -> None:
    for said in both[1]:
        assert said["norm"] == [True] * 5


def test_an_error_in_one_process_ends_all_with_its_message(tiny_line: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(FAILING)
    values = json.dumps(_config("revdist").to_dict())
    done = _torchrun(str(script), str(tiny_line), str(tmp_path / "run"), values)
    assert done.returncode != 0
    assert "MemoryError: no room for the model" in done.stderr
    assert not (tmp_path / "run" / "state.pt").exists()


def test_the_command_line_refuses_a_batch_that_cannot_be_shared(tiny_line: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = _torchrun("-m", "cada_edge", "train", str(tiny_line), "--out", str(out), "--batch-size", "5")
    assert done.returncode != 0
    assert "error: batch_size 5 came with 2 processes, which share each batch equally" in done.stderr
    assert not out.exists()
