"""Score a model's predictions against a data set's labels and masks, in one pass over the images.

Memory: two bytes for each pixel of the maps (scores of normal and anomalous pixels, per kind), eight more for
each anomalous pixel (AUPRO), a fixed chunk of at most 200 MiB, and one map at a time: `predictions` may be a
generator, and no map is kept. Beyond a limit the scores of the pixels go to a temporary file; the predictions
are taken once all the same. The mixed figures are computed on the same scores as the kinds' own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import InputError
from cada_edge.runtime.aupro import FPR_LIMIT, RegionScores, aupro
from cada_edge.runtime.evaluation import METRICS, Evaluation, Figures, KindFigures
from cada_edge.runtime.images import read_mask
from cada_edge.runtime.map_files import MapFolder
from cada_edge.runtime.masks import DEFAULT_CONVENTION, require_convention, resize_mask
from cada_edge.runtime.metrics import PixelScores, auroc, average_precision
from cada_edge.runtime.preprocess import RESIZE_NAME
from cada_edge.runtime.score_memory import ScoreMemory

if TYPE_CHECKING:
    from cada_edge.runtime.datasets import Sample

__all__ = ["Evaluation", "evaluate"]

_ABSENT = object()
_NO_THRESHOLD = "no threshold was given"


def evaluate(
    samples: Sequence[Sample],
    predictions: Iterable[tuple[float, NDArray[np.float32] | None]],
    *,
    threshold: float | None,
    map_hw: tuple[int, int],
    mask_convention: str = DEFAULT_CONVENTION,
    protocol: Mapping[str, Any] | None = None,
    pixel: bool = True,
    max_memory_bytes: int | None = None,
    save_maps: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Compute image and pixel metrics, mixed, averaged and per kind, and the verdicts at one threshold.

    Args:
        samples: Images with their labels and masks, at least one.
        predictions: In the same order, each image's score and its anomaly map, float32 (H, W), or None.
        threshold: A score strictly above it is an alarm; None leaves the verdicts out.
        map_hw: Height and width of the maps, in pixels; the masks are brought to it.
        mask_convention: One of `cada_edge.runtime.masks.CONVENTIONS`.
        protocol: More fields for the protocol, or other values for its own, JSON-safe: the images' resize,
            the alignment, the model.
        pixel: Whether to compute pixel metrics; without them no mask is read.
        max_memory_bytes: Memory for the scores of pixels, at least 1 MiB; what is beyond goes to a temporary
            file (see `cada_edge.runtime.score_memory`). None keeps all in memory.
        save_maps: Folder to write each map to as it comes, see `cada_edge.runtime.map_files`; None for none.
        progress: Called after each image with how many are done and how many there are.

    Raises:
        InputError: No sample, more or fewer predictions than samples, a map of another shape, or a NaN or
            infinity in a score or map (the message names the image).
        ConfigError: An unknown mask convention, or too little memory.
        ImageReadError: A mask cannot be read.
        OutputError: The folder for maps holds something already, or a file cannot be written.
    """
    if not samples:
        raise InputError("No image came to evaluate; wanted at least one. Check the data set's test folder.")
    if threshold is not None and not math.isfinite(threshold):
        raise InputError(
            f"The threshold {threshold} came; wanted a finite number, or None. "
            "Set it with: cada-edge calibrate MODEL NORMAL_IMAGES"
        )
    require_convention(mask_convention)
    described = {
        "mixed": "all kinds ranked together",
        "averaged": "mean over kinds",
        "images": RESIZE_NAME,
        "masks": mask_convention,
        "resolution": f"{map_hw[0]}x{map_hw[1]}",
        "average_precision": "step-wise (scikit-learn)",
        "aupro_limit": FPR_LIMIT,
        "threshold": threshold,
        **(protocol or {}),
    }
    folder = None if save_maps is None else MapFolder(save_maps)
    with ScoreMemory(max_memory_bytes) as memory:
        kinds = {name: _Kind(memory) for name in sorted({sample.category for sample in samples})}
        for done, (sample, score, anomaly_map) in enumerate(_paired(samples, predictions), 1):
            kind = kinds[sample.category]
            kind.add_score(sample, score)
            if pixel:
                kind.add_map(sample, anomaly_map, map_hw, mask_convention)
            if folder is not None and anomaly_map is not None:
                folder.write(sample.relative, anomaly_map)
            if progress is not None:
                progress(done, len(samples))
        return _conclude(kinds, threshold, described, pixel=pixel)


def _paired(
    samples: Sequence[Sample], predictions: Iterable[tuple[float, NDArray[np.float32] | None]]
) -> Iterator[tuple[Sample, float, NDArray[np.float32] | None]]:
    """Give each image with its score and map.

    Raises:
        InputError: There are fewer predictions, or more.
    """
    remaining = iter(predictions)
    for done, sample in enumerate(samples):
        prediction = next(remaining, _ABSENT)
        if prediction is _ABSENT:
            raise InputError(f"{done} predictions came for {len(samples)} images; wanted one each, in order.")
        score, anomaly_map = cast("tuple[float, NDArray[np.float32] | None]", prediction)
        yield sample, float(score), anomaly_map
    if next(remaining, _ABSENT) is not _ABSENT:
        raise InputError(f"More predictions came than the {len(samples)} images; wanted one each, in order.")


class _Kind:
    """Scores and pixels of one kind of part, growing image by image."""

    def __init__(self, memory: ScoreMemory) -> None:
        self.normal: list[float] = []
        self.anomalous: list[float] = []
        self.pixels = PixelScores(memory=memory)
        self.regions = RegionScores()
        self.without_map = 0
        self.without_mask: list[str] = []

    def add_score(self, sample: Sample, score: float) -> None:
        if not math.isfinite(score):
            raise InputError(
                f"The score of {sample.image} is {score}; wanted a finite number. "
                "Check the model with: cada-edge verify MODEL"
            )
        (self.anomalous if sample.anomalous else self.normal).append(score)

    def add_map(
        self,
        sample: Sample,
        anomaly_map: NDArray[np.float32] | None,
        map_hw: tuple[int, int],
        mask_convention: str,
    ) -> None:
        if sample.anomalous and sample.mask is None:
            self.without_mask.append(sample.relative)
        if anomaly_map is None:
            self.without_map += 1
        if anomaly_map is None or (sample.anomalous and sample.mask is None):
            return
        anomaly_map = np.asarray(anomaly_map, np.float32)
        if anomaly_map.shape != tuple(map_hw):
            raise InputError(
                f"The anomaly map of {sample.image} has the shape {anomaly_map.shape}; "
                f"wanted {tuple(map_hw)}. Give the size of the model's maps as map_hw."
            )
        faulty = anomaly_map.size - int(np.isfinite(anomaly_map).sum())
        if faulty:
            raise InputError(
                f"{faulty} of {anomaly_map.size} pixels in the anomaly map of {sample.image} are NaN or "
                "infinite; wanted finite numbers. Check the model with: cada-edge verify MODEL"
            )
        if not sample.anomalous or sample.mask is None:
            self.pixels.append(anomaly_map, None)
            return
        mask = resize_mask(read_mask(sample.mask), map_hw, mask_convention)
        self.pixels.append(anomaly_map, mask)
        self.regions.append(anomaly_map, mask)


def _conclude(
    kinds: dict[str, _Kind], threshold: float | None, protocol: dict[str, Any], *, pixel: bool
) -> Evaluation:
    reasons = {} if threshold is not None else {"threshold": _NO_THRESHOLD}
    per_kind: dict[str, KindFigures] = {}
    for name, kind in kinds.items():
        figures, figures_missing = _rank([kind], pixel=pixel)
        verdicts, verdicts_missing = _judge([kind], threshold)
        per_kind[name] = cast("KindFigures", {**figures, **verdicts})
        missing = {**figures_missing, **verdicts_missing}
        reasons.update({f"per_kind.{name}.{key}": why for key, why in missing.items()})
    mixed, mixed_missing = _rank(list(kinds.values()), pixel=pixel)
    reasons.update({f"mixed.{key}": why for key, why in mixed_missing.items()})
    averaged, averaged_over = _average(list(per_kind.values()))
    reasons.update({f"averaged.{key}": "no kind has it" for key in METRICS if not averaged_over[key]})
    overall, overall_missing = _judge(list(kinds.values()), threshold)
    rates = ("false_positive_rate", "true_positive_rate")
    reasons.update({key: overall_missing[key] for key in rates if key in overall_missing})
    return Evaluation(
        mixed=mixed,
        averaged=averaged,
        averaged_over=averaged_over,
        per_kind=per_kind,
        images=overall["images"],
        threshold=threshold,
        false_positive_rate=overall["false_positive_rate"],
        true_positive_rate=overall["true_positive_rate"],
        protocol=protocol,
        reasons=reasons,
    )


def _rank(kinds: Sequence[_Kind], *, pixel: bool) -> tuple[Figures, dict[str, str]]:
    """Compute the ranking metrics of the kinds together, and why some are missing."""
    normal = np.asarray([score for kind in kinds for score in kind.normal])
    anomalous = np.asarray([score for kind in kinds for score in kind.anomalous])
    p_auroc = p_ap = regions = None
    if pixel and not any(kind.without_map or kind.without_mask for kind in kinds):
        p_auroc, p_ap = PixelScores.joint_metrics(kind.pixels for kind in kinds)
        regions = aupro([kind.regions for kind in kinds], [kind.pixels.negative for kind in kinds])
    figures = Figures(
        i_auroc=_percent(auroc(anomalous, normal)),
        i_ap=_percent(average_precision(anomalous, normal)),
        p_auroc=_percent(p_auroc),
        p_ap=_percent(p_ap),
        aupro=_percent(regions),
    )
    image_reason = f"there are no {'normal' if anomalous.size else 'anomalous'} images"
    pixel_reason = _pixel_reason(kinds) if pixel else "pixel metrics were not asked for"
    missing = [key for key, value in figures.items() if value is None]
    return figures, {key: image_reason if key.startswith("i_") else pixel_reason for key in missing}


def _pixel_reason(kinds: Sequence[_Kind]) -> str:
    without_map = sum(kind.without_map for kind in kinds)
    without_mask = [name for kind in kinds for name in kind.without_mask]
    if without_map:
        images = sum(len(kind.normal) + len(kind.anomalous) for kind in kinds)
        return f"no anomaly map for {without_map} of {images} images"
    if without_mask:
        anomalous = sum(len(kind.anomalous) for kind in kinds)
        return f"no mask for {len(without_mask)} of {anomalous} anomalous images, first {without_mask[0]}"
    positives = sum(len(kind.pixels.positive) for kind in kinds)
    return f"there are no {'normal' if positives else 'anomalous'} pixels"


def _judge(kinds: Sequence[_Kind], threshold: float | None) -> tuple[dict[str, Any], dict[str, str]]:
    """Count the verdicts of the kinds together, and say why some are missing."""
    normal = [score for kind in kinds for score in kind.normal]
    anomalous = [score for kind in kinds for score in kind.anomalous]
    verdicts: dict[str, Any] = {
        "images": len(normal) + len(anomalous),
        "normal_images": len(normal),
        "anomalous_images": len(anomalous),
    }
    missing = {}
    for count_name, rate_name, class_name, scores in (
        ("false_alarms", "false_positive_rate", "normal", normal),
        ("detected", "true_positive_rate", "anomalous", anomalous),
    ):
        alarms = None if threshold is None else sum(score > threshold for score in scores)
        verdicts[count_name] = alarms
        verdicts[rate_name] = None if alarms is None or not scores else 100 * alarms / len(scores)
        if alarms is None:
            missing[count_name] = missing[rate_name] = _NO_THRESHOLD
        elif not scores:
            missing[rate_name] = f"there are no {class_name} images"
    return verdicts, missing


def _average(kinds: Sequence[KindFigures]) -> tuple[Figures, dict[str, int]]:
    """Take each metric's mean over the kinds that have it, and how many those are."""
    columns = {key: [dict(kind)[key] for kind in kinds] for key in METRICS}
    found = {
        key: [cast("float", value) for value in column if value is not None]
        for key, column in columns.items()
    }
    means = {key: math.fsum(values) / len(values) if values else None for key, values in found.items()}
    return cast("Figures", means), {key: len(values) for key, values in found.items()}


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
