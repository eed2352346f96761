from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cada_edge.errors import CheckpointError, ConfigError, DatasetError, MissingExtraError, OutputError
from cada_edge.runtime.datasets import index_dataset
from cada_edge.runtime.holdout import split_holdout
from cada_edge.trainer.base_step import learning_rate_factor
from cada_edge.trainer.checkpoint import Checkpoint, load_checkpoint, load_tensors
from cada_edge.trainer.config import TrainConfig
from cada_edge.trainer.fit import choose_device, fit, score_frames
from cada_edge.trainer.run_log import read_log


def _weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return checkpoint.model.state_dict()


def _assert_same(first: Checkpoint, second: Checkpoint) -> None:
    a, b = _weights(first), _weights(second)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert first.threshold == second.threshold
    assert first.model.floor == second.model.floor


@pytest.fixture(scope="module")
def whole_run(tiny_line: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption, of `tiny_config`'s values."""
    from cada_edge.trainer.config import AlignerConfig

    config = TrainConfig(
        encoder="mobilenetv3_small_050",
        encoder_weights="random",
        size=64,
        iterations=4,
        batch_size=4,
        aligner=AlignerConfig(iterations=6, batch_size=4),
        device="cpu",
        save_every=2,
    )
    run = tmp_path_factory.mktemp("runs") / "whole"
    fit(index_dataset(tiny_line), run, config)
    return run


def test_a_run_leaves_one_checkpoint_and_no_caches(whole_run: Path) -> None:
    assert sorted(path.name for path in whole_run.iterdir()) == ["checkpoint.pt", "log.jsonl", "state.pt"]


def test_checkpoint_holds_what_export_and_evaluation_need(whole_run: Path, tiny_line: Path) -> None:
    checkpoint = load_checkpoint(whole_run / "checkpoint.pt")
    index = index_dataset(tiny_line)
    training, held_out = split_holdout(index.train, fraction=0.1, seed=0)
    assert len(training) + len(held_out) == 24
    assert sorted(checkpoint.class_table) == list(index.categories)
    assert checkpoint.calibration is not None
    assert checkpoint.calibration.images == len(held_out)
    assert not checkpoint.model.training
    assert checkpoint.reference_frames.shape[1:] == (64, 64, 3)
    assert sorted(set(checkpoint.reference_labels.tolist())) == [0, 1]
    assert checkpoint.encoder_fingerprint == "random"
    assert checkpoint.versions["torch"]


def test_threshold_is_the_highest_held_out_score_when_there_are_too_few(
    whole_run: Path, tiny_line: Path
) -> None:
    from cada_edge.trainer.data import decode

    checkpoint = load_checkpoint(whole_run / "checkpoint.pt")
    _, held_out = split_holdout(index_dataset(tiny_line).train, fraction=0.1, seed=0)
    scores = score_frames(checkpoint.model, decode(held_out, 64), torch.device("cpu"))
    assert checkpoint.threshold == pytest.approx(float(scores.max()), abs=1e-6)


def test_a_killed_run_resumes_to_the_same_bits(
    whole_run: Path, tiny_line: Path, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    """Kill -9 a run in the middle of an iteration, resume it, and compare every weight."""
    script = (
        "import os, signal, sys\n"
        "from cada_edge.runtime.datasets import index_dataset\n"
        "from cada_edge.trainer.config import from_dict\n"
        "from cada_edge.trainer.fit import fit\n"
        "def stop(stage, done, total, loss):\n"
        "    if stage == 'base' and done == 3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        f"fit(index_dataset({str(tiny_line)!r}), {str(tmp_path / 'run')!r}, "
        f"from_dict({tiny_config.to_dict()!r}), progress=stop)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    state = load_tensors(tmp_path / "run" / "state.pt", kind="training state")
    assert state["iteration"] == 2
    fit(index_dataset(tiny_line), tmp_path / "run", tiny_config, resume=True)
    _assert_same(
        load_checkpoint(tmp_path / "run" / "checkpoint.pt"), load_checkpoint(whole_run / "checkpoint.pt")
    )
    curves = [
        [(row["stage"], row["iteration"], row["loss"]) for row in read_log(log) if row["row"] == "step"]
        for log in (tmp_path / "run" / "log.jsonl", whole_run / "log.jsonl")
    ]
    assert curves[0] == curves[1]
    assert [(stage, iteration) for stage, iteration, _ in curves[0]] == [("base", 4), ("aligner", 6)]


def test_the_logs_header_says_what_was_trained_on_what(whole_run: Path, tiny_line: Path) -> None:
    checkpoint = load_checkpoint(whole_run / "checkpoint.pt")
    header, *_, last = read_log(whole_run / "log.jsonl")
    assert header["config"] == checkpoint.config.to_dict()
    assert header["data_fingerprint"] == checkpoint.data_fingerprint
    assert header["encoder_sha256"] == checkpoint.encoder_fingerprint == "random"
    assert header["device"] == {"type": "cpu", "name": None, "processes": 1}
    assert header["versions"]["torch"] == checkpoint.versions["torch"]
    training, held_out = split_holdout(index_dataset(tiny_line).train, fraction=0.1, seed=0)
    assert (header["training_images"], header["held_out_images"]) == (len(training), len(held_out))
    assert (last["row"], last["threshold"]) == ("finished", checkpoint.threshold)


def test_tensorboard_comes_with_an_extra(
    tiny_line: Path, tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(tiny_config, iterations=1)
    fit(index_dataset(tiny_line), tmp_path / "run", config, tensorboard=True)
    assert len(list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents.*"))) == 1
    monkeypatch.setattr("cada_edge.trainer.fit.find_spec", lambda name: None)
    wanted = r"TensorBoard logging needs the package 'tensorboard'.* pip install 'cada-edge\[tensorboard\]'"
    with pytest.raises(MissingExtraError, match=wanted):
        fit(index_dataset(tiny_line), tmp_path / "other", config, tensorboard=True)
    assert not (tmp_path / "other").exists()


def test_cached_and_uncached_encoder_features_give_the_same_loss(
    tiny_line: Path, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    losses: dict[str, list[float]] = {}
    for mode in ("on", "off"):
        seen = losses.setdefault(mode, [])

        def keep(stage: str, done: int, total: int, loss: float, seen: list[float] = seen) -> None:
            if stage == "base":
                seen.append(loss)

        fit(
            index_dataset(tiny_line),
            tmp_path / mode,
            dataclasses.replace(tiny_config, cache_features=mode, iterations=2),
            progress=keep,
        )
    # Only the first: AdamW's first step is the gradient's sign, which turns rounding into full steps.
    assert losses["on"][0] == pytest.approx(losses["off"][0], rel=1e-5)
    assert losses["on"][1] == pytest.approx(losses["off"][1], rel=1e-2)


def test_resume_refuses_another_configuration_and_other_data(
    whole_run: Path, tiny_line: Path, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    (tmp_path / "state.pt").write_bytes((whole_run / "state.pt").read_bytes())
    with pytest.raises(CheckpointError, match=r"another configuration \(learning_rate 0.002 -> 0.5\)"):
        fit(
            index_dataset(tiny_line),
            tmp_path,
            dataclasses.replace(tiny_config, learning_rate=0.5),
            resume=True,
        )
    state = load_tensors(tmp_path / "state.pt", kind="training state")
    torch.save({**state, "data_fingerprint": "other"}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="trained on other images"):
        fit(index_dataset(tiny_line), tmp_path, tiny_config, resume=True)


def test_recipe_paper_holds_out_nothing_and_has_no_threshold(
    tiny_line: Path, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    result = fit(
        index_dataset(tiny_line), tmp_path, dataclasses.replace(tiny_config, recipe="paper", iterations=1)
    )
    assert (result.training_images, result.held_out_images, result.threshold) == (24, 0, None)
    assert result.warning is not None
    assert "cada-edge calibrate" in result.warning


def test_class_labels_change_nothing_but_the_class_table(
    whole_run: Path, tiny_line: Path, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    index = index_dataset(tiny_line)
    renamed = dataclasses.replace(
        index, samples=tuple(dataclasses.replace(sample, category="part") for sample in index.samples)
    )
    fit(renamed, tmp_path, tiny_config)
    checkpoint = load_checkpoint(tmp_path / "checkpoint.pt")
    _assert_same(checkpoint, load_checkpoint(whole_run / "checkpoint.pt"))
    assert list(checkpoint.class_table) == ["part"]


def test_one_training_image_is_refused(tiny_line: Path, tiny_config: TrainConfig, tmp_path: Path) -> None:
    index = index_dataset(tiny_line)
    one = dataclasses.replace(index, samples=index.train[:1])
    with pytest.raises(DatasetError, match="1"):
        fit(one, tmp_path, tiny_config)


def test_a_run_folder_that_is_a_file_is_refused(
    tiny_line: Path, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    (tmp_path / "run").write_text("taken")
    with pytest.raises(OutputError, match=r"run folder .* cannot be written"):
        fit(index_dataset(tiny_line), tmp_path / "run", tiny_config)


@pytest.mark.parametrize("mark", ["training", "test"])
def test_a_damaged_image_is_named_before_training_wherever_it_is_needed(
    tiny_line: Path, tiny_config: TrainConfig, tmp_path: Path, mark: str
) -> None:
    index = index_dataset(tiny_line)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG no image")
    wanted = next(s for s in index.samples if (s.split == "train" if mark == "training" else s.anomalous))
    samples = tuple(
        dataclasses.replace(sample, image=broken) if sample == wanted else sample for sample in index.samples
    )
    stages: list[str] = []
    with pytest.raises(DatasetError, match=r"cannot be read, 1 in all: .*broken\.png\. Wanted whole images"):
        fit(
            dataclasses.replace(index, samples=samples),
            tmp_path / "run",
            tiny_config,
            progress=lambda stage, done, total, loss: stages.append(stage),
        )
    assert stages == []
    assert list((tmp_path / "run").iterdir()) == []


def test_a_damaged_mask_does_not_keep_from_training(
    tiny_line: Path, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    index = index_dataset(tiny_line)
    broken = tmp_path / "mask.png"
    broken.write_bytes(b"no mask")
    samples = tuple(dataclasses.replace(s, mask=broken if s.mask else None) for s in index.samples)
    config = dataclasses.replace(tiny_config, iterations=1)
    assert fit(dataclasses.replace(index, samples=samples), tmp_path / "run", config).checkpoint.is_file()


class _StoppedError(Exception):
    """Ends a run in its middle, as a person would."""


def _stop_at(iteration: int) -> Callable[[str, int, int, float], None]:
    def stop(stage: str, done: int, total: int, loss: float) -> None:
        if stage == "base" and done == iteration:
            raise _StoppedError

    return stop


def test_a_full_disk_while_saving_keeps_the_last_state(
    tiny_line: Path, tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(_StoppedError):
        fit(index_dataset(tiny_line), tmp_path, tiny_config, progress=_stop_at(3))
    state = (tmp_path / "state.pt").read_bytes()

    def full(content: object, path: Path) -> None:
        Path(path).write_bytes(b"part")
        raise OSError(28, "No space left on device")

    # A disk cannot be filled in a test; the failure is injected where torch writes.
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="No space left on device"):
        fit(index_dataset(tiny_line), tmp_path, tiny_config, resume=True)
    assert (tmp_path / "state.pt").read_bytes() == state
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "state.pt"]


@pytest.mark.parametrize("name", ["state.pt", "checkpoint.pt"])
def test_an_earlier_run_is_not_overwritten_by_accident(
    tiny_line: Path, tiny_config: TrainConfig, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"hours of training")
    wanted = rf"holds {name} of an earlier run; wanted an empty folder\. Pass --resume .*--overwrite .*--out"
    with pytest.raises(OutputError, match=wanted):
        fit(index_dataset(tiny_line), tmp_path, tiny_config)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"hours of training"


def test_overwrite_starts_again_and_leaves_nothing_of_the_earlier_run(
    whole_run: Path, tiny_line: Path, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    (tmp_path / "tensorboard").mkdir()
    for name in ("state.pt", "checkpoint.pt", "log.jsonl", "tensorboard/events.out.tfevents.1.host"):
        (tmp_path / name).write_bytes(b"of an earlier run")
    with pytest.raises(_StoppedError):
        fit(index_dataset(tiny_line), tmp_path, tiny_config, overwrite=True, progress=_stop_at(1))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["log.jsonl", "tensorboard"]
    assert [row["row"] for row in read_log(tmp_path / "log.jsonl")] == ["header", "stopped"]
    fit(index_dataset(tiny_line), tmp_path, tiny_config, overwrite=True)
    _assert_same(load_checkpoint(tmp_path / "checkpoint.pt"), load_checkpoint(whole_run / "checkpoint.pt"))
    fit(index_dataset(tiny_line), tmp_path, tiny_config, resume=True)
    _assert_same(load_checkpoint(tmp_path / "checkpoint.pt"), load_checkpoint(whole_run / "checkpoint.pt"))


def test_resume_and_overwrite_exclude_each_other(
    tiny_line: Path, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"came together; wanted one of them\. Pass --resume .*--overwrite"):
        fit(index_dataset(tiny_line), tmp_path, tiny_config, resume=True, overwrite=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_run_in_the_same_folder_is_refused(
    tiny_line: Path, tiny_config: TrainConfig, tmp_path: Path, resume: bool
) -> None:
    refused: list[str] = []

    def second(stage: str, done: int, total: int, loss: float) -> None:
        if stage == "base" and done == 1:
            wanted = r"in use by another run; wanted one run in a folder\. Wait .*--out"
            with pytest.raises(OutputError, match=wanted):
                fit(index_dataset(tiny_line), tmp_path, tiny_config, resume=resume, overwrite=not resume)
            refused.append(stage)

    fit(index_dataset(tiny_line), tmp_path, tiny_config, progress=second)
    assert refused == ["base"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "log.jsonl", "state.pt"]


@pytest.mark.parametrize(("factor", "warns"), [(0.04, True), (0.06, False), (19, False), (21, True)])
def test_the_maps_scale_is_logged_and_a_beta_far_from_it_warned_of(
    whole_run: Path,
    tiny_line: Path,
    tiny_config: TrainConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    factor: float,
    warns: bool,
) -> None:
    table = load_checkpoint(whole_run / "checkpoint.pt").class_table
    training, _ = split_holdout(index_dataset(tiny_line).train, fraction=0.1, seed=0)
    # The table has each kind's means over its own images.
    mean, maximum = np.mean([table[sample.category] for sample in training], axis=0)
    aligner = dataclasses.replace(tiny_config.aligner, beta=factor * float(maximum))
    with caplog.at_level("INFO", logger="cada_edge.trainer.align"):
        fit(index_dataset(tiny_line), tmp_path, dataclasses.replace(tiny_config, aligner=aligner))
    assert f"mean u_img {mean:.4g} and mean g_img {maximum:.4g} over {len(training)} training" in caplog.text
    wanted = f"is {maximum:.4g} on average; wanted a beta from {maximum / 20:.4g} to {maximum * 20:.4g}. Set"
    assert (wanted in caplog.text) == warns


def test_frames_are_scored_without_tf32(whole_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The threshold comes from these scores, and the exported file knows no TF32."""
    model = load_checkpoint(whole_run / "checkpoint.pt").model
    seen: list[bool] = []
    model.register_forward_pre_hook(lambda module, frames: seen.append(torch.backends.cudnn.allow_tf32))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    score_frames(model, np.zeros((33, 64, 64, 3), np.uint8), torch.device("cpu"))
    assert seen == [False, False]
    assert torch.backends.cudnn.allow_tf32


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(ConfigError, match="device 'gpu' came; wanted auto, cpu, cuda"):
        choose_device("gpu")
    with pytest.raises(ConfigError, match="CUDA device"):
        choose_device("cuda:99")


@pytest.mark.parametrize(
    ("schedule", "iteration", "factor"),
    [
        ("constant", 0, 1.0),
        ("constant", 99, 1.0),
        ("cosine", 0, 0.2),
        ("cosine", 5, 1.0),
        ("cosine", 100, 0.0),
    ],
)
def test_learning_rate(schedule: str, iteration: int, factor: float) -> None:
    assert learning_rate_factor(schedule, iteration, 100) == pytest.approx(factor)
    assert np.isfinite(factor)


@pytest.mark.gpu
def test_training_on_cuda_gives_a_checkpoint_that_runs_on_the_cpu(
    tiny_line: Path, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    for cache in ("on", "off"):
        # Without the cache the loader's thread pins frames; with it, features.
        config = dataclasses.replace(tiny_config, device="cuda", cache_features=cache, compile=cache == "off")
        fit(index_dataset(tiny_line), tmp_path / cache, config)
        assert read_log(tmp_path / cache / "log.jsonl")[0]["device"]["name"] == torch.cuda.get_device_name()
        fit(index_dataset(tiny_line), tmp_path / cache, config, resume=True)
        model = load_checkpoint(tmp_path / cache / "checkpoint.pt").model
        scores = score_frames(model, np.zeros((2, 64, 64, 3), np.uint8), torch.device("cpu"))
        assert np.isfinite(scores).all()
