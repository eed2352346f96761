"""What docs/training.md shows exists: options, files of a run, and the numbers of the divergence rule."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cada_edge.cli import main

DOC = Path(__file__).parent.parent / "docs" / "training.md"
OF_TORCHRUN = {"--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-endpoint"}


def test_every_option_that_is_shown_exists() -> None:
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", DOC.read_text(encoding="utf-8")))
    known = {flag for parameter in main.commands["train"].params for flag in parameter.opts}
    assert shown - OF_TORCHRUN <= known
    assert {"--compile", "--tensorboard", "--log-every", "--resume"} <= shown


def test_the_files_and_numbers_are_the_codes() -> None:
    pytest.importorskip("torch", reason="training needs it: pip install 'cada-edge[train]'")
    from cada_edge.trainer import divergence, run_folder

    text = " ".join(DOC.read_text(encoding="utf-8").split())
    for name in (run_folder.CHECKPOINT, run_folder.STATE, run_folder.LOG, f"{run_folder.TENSORBOARD}/"):
        assert f"| `{name}` |" in text
    watch = divergence.LossWatch
    assert f"for {watch.patience} iterations in a row" in text
    assert f"Nothing is said before {2 * watch.patience} iterations" in text
