"""Train another aligner on a base that is trained already: the long part of a run is shared.

The aligner learns from the frozen base's features, so a base serves any number of aligners. The result is
that of a whole run with the same configuration, to the bit on the CPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from cada_edge.errors import CheckpointError
from cada_edge.files import sha256_file
from cada_edge.runtime.datasets import DatasetIndex, fingerprint
from cada_edge.trainer.align import check_categories, collect_statistics, fit_aligner
from cada_edge.trainer.checkpoint import load_checkpoint, save_checkpoint
from cada_edge.trainer.config import AlignerConfig
from cada_edge.trainer.data import decode
from cada_edge.trainer.feature_cache import FeatureCache
from cada_edge.trainer.fit import TrainResult, calibrate_on, choose_device, split_images
from cada_edge.trainer.run_folder import CHECKPOINT, STATE, claim_run_folder

__all__ = ["discard_features", "realign"]


def realign(
    base_run: str | Path,
    run: str | Path,
    index: DatasetIndex,
    *,
    alignment: str,
    aligner: AlignerConfig,
    device: str = "auto",
    overwrite: bool = False,
    progress: Callable[[str, int, int, float], None] | None = None,
) -> TrainResult:
    """Train an aligner on the base of a finished run, and set the threshold for it.

    The base's features stay in its run folder for the next aligner: see `discard_features`.

    Args:
        base_run: Folder of the finished run, of any alignment.
        run: Folder to write the new checkpoint to; not the base's.
        index: The data set that the base was trained on.
        alignment: As `cada_edge.trainer.config.TrainConfig.alignment`.
        aligner: The regressor.
        device: 'auto', 'cpu', 'cuda' or 'cuda:N'.
        overwrite: Replace the checkpoint of an earlier run.
        progress: Called with the stage's name, what is done, how many there are, and the loss.

    Returns:
        Where the checkpoint is and what the threshold is worth.

    Raises:
        ConfigError: An impossible configuration, or no such device.
        DatasetError: 'class-predicted' on images of a single category.
        CheckpointError: The base's run is not finished or damaged, or was trained on other images.
        OutputError: The run folder cannot be written, is in use, or holds an earlier run's files.
        TrainingError: The loss is not finite.
    """
    base_run, run = Path(base_run), Path(run)
    _require_finished(base_run)
    chosen = choose_device(device)
    report = progress or (lambda stage, done, total, loss: None)
    base = load_checkpoint(base_run / CHECKPOINT)
    config = dataclasses.replace(base.config, alignment=alignment, aligner=aligner, device=device)
    training, held_out = split_images(index, config)
    if fingerprint(training) != base.data_fingerprint:
        raise CheckpointError(
            f"The base in {base_run} was trained on other images than {index.root} holds; "
            "wanted the same data set, unchanged. Pass the one that it was trained on, or train a new base."
        )
    categories = [sample.category for sample in training]
    check_categories(config, categories)
    with claim_run_folder(run, resume=False, overwrite=overwrite):
        model = base.model.to(chosen).eval()
        model.regressor, model.alignment = None, alignment
        cache = FeatureCache(base_run, sha256_file(base_run / STATE))
        statistics = cache.load()
        if statistics is None:
            # Decoding a data set takes minutes, and is of no use to the aligners after the first.
            frames = decode(training, config.size, resize_name=config.resize, spill=run / "decoded.npy")
            statistics = collect_statistics(model, frames, cache=cache, device=chosen, report=report)
            del frames
        # Of this run, or of one that was killed.
        (run / "decoded.npy").unlink(missing_ok=True)
        table = fit_aligner(model, statistics, categories, config, device=chosen, report=report)
        threshold, calibration, warning = calibrate_on(
            model, decode(held_out, config.size, resize_name=config.resize), held_out, config, chosen
        )
        save_checkpoint(
            run / CHECKPOINT,
            dataclasses.replace(
                base,
                model=model.cpu().eval(),
                config=config,
                class_table=table,
                threshold=threshold,
                calibration=calibration,
            ),
        )
    return TrainResult(run / CHECKPOINT, len(training), len(held_out), threshold, warning)


def discard_features(base_run: str | Path) -> None:
    """Remove the features that `realign` keeps beside a base; harmless without any."""
    FeatureCache(Path(base_run), "").delete()


def _require_finished(base_run: Path) -> None:
    missing = [name for name in (CHECKPOINT, STATE) if not (base_run / name).is_file()]
    if missing:
        raise CheckpointError(
            f"The run folder {base_run} lacks {' and '.join(missing)}; wanted a finished run. "
            "Finish it with: cada-edge train --resume"
        )
