from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    roc_auc_score,
)

from cada_edge.errors import ConfigError, ImageReadError, InputError
from cada_edge.runtime.aupro import RegionScores, aupro
from cada_edge.runtime.datasets import Sample
from cada_edge.runtime.evaluate import Evaluation, evaluate
from cada_edge.runtime.images import write_image
from cada_edge.runtime.masks import resize_mask
from cada_edge.runtime.score_runs import ScoreRuns

SIZE = (24, 16)
Prediction = tuple[float, np.ndarray | None]


@dataclasses.dataclass
class Line:
    """A mixed line whose kinds' scores lie in different ranges."""

    samples: list[Sample]
    predictions: list[Prediction]
    masks: list[np.ndarray]
    """At the size of the maps."""

    def of(self, category: str | None) -> list[int]:
        return [at for at, sample in enumerate(self.samples) if category in (None, sample.category)]

    def maps(self, category: str | None) -> np.ndarray:
        found = [self.predictions[at][1] for at in self.of(category)]
        return np.stack([anomaly_map for anomaly_map in found if anomaly_map is not None])


@pytest.fixture
def line(tmp_path: Path) -> Line:
    rng = np.random.default_rng(0)
    line = Line([], [], [])
    for number in range(24):
        category = ["bolt", "cap", "pad"][number % 3]
        offset = {"bolt": 0.0, "cap": 2.0, "pad": 0.7}[category]
        anomalous = number % 2 == 1
        mask = np.zeros((61, 40), np.uint8)
        if anomalous:
            mask[10 + number : 14 + 2 * number, 5:21] = 255
        path = tmp_path / f"{number:03d}_mask.png"
        write_image(path, mask)
        line.samples.append(
            Sample(
                image=tmp_path / f"{number:03d}.png",
                category=category,
                split="test",
                anomalous=anomalous,
                defect="scratch" if anomalous else "good",
                mask=path if anomalous else None,
                relative=f"{category}/{number:03d}.png",
            )
        )
        line.masks.append(resize_mask(mask, SIZE))
        anomaly_map = (offset + rng.normal(0, 1, SIZE) + line.masks[-1]).astype(np.float32)
        line.predictions.append((float(np.round(offset + anomalous + rng.normal(), 1)), anomaly_map))
    return line


def measure(line: Line, **options: Any) -> Evaluation:
    given: dict[str, Any] = {"threshold": 1.5, "map_hw": SIZE, **options}
    return evaluate(line.samples, iter(line.predictions), **given)


def by_references(line: Line, category: str | None) -> dict[str, float]:
    """Compute the figures of some images by scikit-learn, and AUPRO by its own tested function."""
    indices = line.of(category)
    labels = [line.samples[at].anomalous for at in indices]
    scores = [line.predictions[at][0] for at in indices]
    maps, masks = line.maps(category), np.stack([line.masks[at] for at in indices])
    regions = RegionScores()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        regions.append(anomaly_map, mask)
    overlap = aupro([regions], [ScoreRuns.of(maps[masks == 0])])
    assert overlap is not None
    return {
        "i_auroc": 100 * roc_auc_score(labels, scores),
        "i_ap": 100 * average_precision_score(labels, scores),
        "p_auroc": 100 * roc_auc_score(masks.ravel(), maps.ravel()),
        "p_ap": 100 * average_precision_score(masks.ravel(), maps.ravel()),
        "aupro": 100 * overlap,
    }


def missing_figures(data: dict[str, Any], where: str = "") -> list[str]:
    paths: list[str] = []
    for key, value in data.items():
        if isinstance(value, dict) and key != "protocol":
            paths += missing_figures(value, f"{where}{key}.")
        elif value is None:
            paths.append(where + key)
    return paths


def test_mixed_averaged_and_per_kind_equal_their_references(line: Line) -> None:
    evaluation = measure(line)
    assert evaluation.mixed == pytest.approx(by_references(line, None), abs=1e-7)
    kinds = {kind: by_references(line, kind) for kind in ("bolt", "cap", "pad")}
    for kind, wanted in kinds.items():
        figures = dict(evaluation.per_kind[kind])
        assert {key: figures[key] for key in wanted} == pytest.approx(wanted, abs=1e-7)
    means = {key: np.mean([kinds[kind][key] for kind in kinds]) for key in kinds["bolt"]}
    assert evaluation.averaged == pytest.approx(means, abs=1e-7)
    assert set(evaluation.averaged_over.values()) == {3}
    assert evaluation.reasons == {}


def test_verdicts_at_the_one_threshold() -> None:
    samples = [
        Sample(Path(f"{kind}{at}.png"), kind, "test", anomalous, "", None, f"{kind}{at}.png")
        for at, (kind, anomalous) in enumerate(
            [("a", False), ("a", False), ("a", True), ("b", False), ("b", True), ("b", True)]
        )
    ]
    scores = [0.5, 0.9, 0.5, 0.1, 0.6, 0.2]
    evaluation = evaluate(
        samples, [(score, None) for score in scores], threshold=0.5, map_hw=SIZE, pixel=False
    )
    # A score that equals the threshold is no alarm.
    assert evaluation.per_kind["a"]["false_positive_rate"] == 50.0
    assert evaluation.per_kind["a"]["true_positive_rate"] == 0.0
    assert evaluation.per_kind["b"]["false_positive_rate"] == 0.0
    assert evaluation.per_kind["b"]["true_positive_rate"] == 50.0
    assert evaluation.false_positive_rate == pytest.approx(100 / 3)
    assert evaluation.true_positive_rate == pytest.approx(100 / 3)
    first = evaluation.per_kind["a"]
    counts = (first["images"], first["normal_images"], first["anomalous_images"])
    assert (*counts, first["false_alarms"], first["detected"]) == (3, 2, 1, 1, 0)
    assert evaluation.images == 6
    assert evaluation.reasons["mixed.p_auroc"] == "pixel metrics were not asked for"


def test_every_missing_figure_has_a_reason(line: Line) -> None:
    # One kind without anomalies, one without normal images, one with an image that has no mask.
    keep = [
        at
        for at, sample in enumerate(line.samples)
        if (sample.category, sample.anomalous) not in (("bolt", True), ("cap", False))
    ]
    last = next(at for at in keep if line.samples[at].category == "pad" and line.samples[at].anomalous)
    line.samples[last] = dataclasses.replace(line.samples[last], mask=None)
    line = Line([line.samples[at] for at in keep], [line.predictions[at] for at in keep], [])
    evaluation = measure(line, threshold=None)
    assert sorted(missing_figures(evaluation.to_dict())) == sorted(evaluation.reasons)
    reasons = evaluation.reasons
    assert reasons["per_kind.bolt.i_auroc"] == "there are no anomalous images"
    assert reasons["per_kind.bolt.p_ap"] == "there are no anomalous pixels"
    assert reasons["per_kind.cap.i_ap"] == "there are no normal images"
    no_mask = f"no mask for 1 of 4 anomalous images, first {line.samples[keep.index(last)].relative}"
    assert reasons["per_kind.pad.aupro"] == no_mask
    assert reasons["mixed.p_auroc"] == no_mask.replace("of 4", "of 8")
    assert reasons["threshold"] == "no threshold was given"
    assert reasons["false_positive_rate"] == "no threshold was given"
    assert evaluation.averaged_over == {"i_auroc": 1, "i_ap": 1, "p_auroc": 1, "p_ap": 1, "aupro": 1}
    assert evaluation.averaged["i_auroc"] == evaluation.per_kind["pad"]["i_auroc"]
    assert evaluation.averaged["p_auroc"] == evaluation.per_kind["cap"]["p_auroc"]


def test_one_class_only_has_no_ranking_figure_but_false_alarms(line: Line) -> None:
    keep = [at for at, sample in enumerate(line.samples) if not sample.anomalous]
    line = Line([line.samples[at] for at in keep], [line.predictions[at] for at in keep], [])
    evaluation = measure(line)
    assert set(evaluation.mixed.values()) == {None}
    assert set(evaluation.averaged.values()) == {None}
    assert evaluation.false_positive_rate == pytest.approx(
        100 * np.mean([score > 1.5 for score, _ in line.predictions])
    )
    assert evaluation.true_positive_rate is None
    assert evaluation.reasons["true_positive_rate"] == "there are no anomalous images"
    assert evaluation.reasons["averaged.aupro"] == "no kind has it"
    assert sorted(missing_figures(evaluation.to_dict())) == sorted(evaluation.reasons)


def test_predictions_without_maps_give_the_reason(line: Line) -> None:
    line.predictions = [(score, None) for score, _ in line.predictions]
    evaluation = measure(line)
    assert evaluation.mixed["p_auroc"] is None
    assert evaluation.reasons["mixed.p_auroc"] == "no anomaly map for 24 of 24 images"
    assert evaluation.reasons["per_kind.cap.aupro"] == "no anomaly map for 8 of 8 images"
    assert evaluation.mixed["i_auroc"] == pytest.approx(
        100 * roc_auc_score([s.anomalous for s in line.samples], [score for score, _ in line.predictions])
    )


def test_mask_convention_changes_the_pixels_and_is_named(line: Line) -> None:
    default, nearest = measure(line), measure(line, mask_convention="nearest")
    assert nearest.mixed["p_ap"] != default.mixed["p_ap"]
    assert nearest.mixed["i_ap"] == default.mixed["i_ap"]
    assert "masks: pil-bilinear>0;" in default.protocol_line()
    assert "masks: nearest;" in nearest.protocol_line()


def test_protocol_line_names_everything(line: Line) -> None:
    evaluation = measure(line, protocol={"alignment": "cada", "images": "pil-bilinear"})
    assert evaluation.protocol_line() == (
        "mixed: all kinds ranked together; averaged: mean over kinds; images: pil-bilinear; "
        "masks: pil-bilinear>0; resolution: 24x16; average precision: step-wise (scikit-learn); "
        "aupro limit: 0.3; threshold: 1.5; alignment: cada"
    )
    assert measure(line).protocol["images"] == "cv2-area-linear"


def test_to_dict_is_json(line: Line) -> None:
    data = measure(line).to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["per_kind"]["bolt"]["images"] == 8
    assert data["protocol_line"].startswith("mixed: ")


def test_to_text_is_an_aligned_table(line: Line) -> None:
    line.predictions = [(score, None) for score, _ in line.predictions]
    evaluation = measure(line)
    rows = evaluation.to_text().splitlines()
    assert rows[0].split() == [
        "in",
        "%",
        "I-AUROC",
        "I-AP",
        "P-AUROC",
        "P-AP",
        "AUPRO",
        "FPR",
        "TPR",
        "images",
    ]
    mixed = evaluation.mixed
    assert rows[5].split() == [
        "mixed",
        f"{mixed['i_auroc']:.1f}",
        f"{mixed['i_ap']:.1f}",
        "-",
        "-",
        "-",
        f"{evaluation.false_positive_rate:.1f}",
        f"{evaluation.true_positive_rate:.1f}",
        "24",
    ]
    assert [row.split("  ")[0] for row in rows[1:5]] == ["bolt", "cap", "pad", "averaged over 0 or 3 of 3"]
    assert len({len(row) for row in (rows[0], rows[1], rows[5])}) == 1
    assert rows[-1] == evaluation.protocol_line()
    assert rows[6:-1] == [
        "missing, no anomaly map for 8 of 8 images: per_kind.bolt.p_auroc, per_kind.bolt.p_ap, "
        "per_kind.bolt.aupro, per_kind.cap.p_auroc, per_kind.cap.p_ap and 4 more",
        "missing, no anomaly map for 24 of 24 images: mixed.p_auroc, mixed.p_ap, mixed.aupro",
        "missing, no kind has it: averaged.p_auroc, averaged.p_ap, averaged.aupro",
    ]


def test_repr_is_one_line_of_figures(line: Line) -> None:
    evaluation = measure(line)
    assert repr(evaluation).startswith(f"Evaluation(mixed: i_auroc={evaluation.mixed['i_auroc']:.1f}, ")
    assert repr(evaluation).endswith("; 3 kinds, 24 images)")


def test_predictions_are_taken_one_at_a_time(line: Line) -> None:
    alive: list[int] = []

    def predictions() -> Iterator[Prediction]:
        for at, prediction in enumerate(line.predictions):
            alive.append(at)
            yield prediction

    evaluate(line.samples, predictions(), threshold=None, map_hw=SIZE)
    assert alive == list(range(24))


def test_progress_counts_the_images(line: Line) -> None:
    steps: list[tuple[int, int]] = []
    measure(line, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(done, 24) for done in range(1, 25)]


def test_maps_are_saved_as_they_come(line: Line, tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    seen: list[int] = []

    def predictions() -> Iterator[Prediction]:
        for prediction in line.predictions:
            seen.append(len(list(folder.rglob("*.npy"))))
            yield prediction

    # A map that is not there, as an image without one has, leaves no file.
    line.predictions[3] = (0.0, None)
    evaluate(line.samples, predictions(), threshold=None, map_hw=SIZE, save_maps=folder)
    assert seen == [0, 1, 2, 3, *range(3, 23)]
    for sample, (_, anomaly_map) in zip(line.samples, line.predictions, strict=True):
        file = folder / f"{sample.relative}.npy"
        assert file.exists() == (anomaly_map is not None)
        if anomaly_map is not None:
            np.testing.assert_array_equal(np.load(file), anomaly_map)


def test_too_little_memory_is_refused_before_the_model_runs(line: Line) -> None:
    def predictions() -> Iterator[Prediction]:
        raise AssertionError("the model ran")
        yield

    with pytest.raises(ConfigError, match=r"limit of 1000 bytes came; wanted at least 1048576 \(1 MiB\)"):
        evaluate(line.samples, predictions(), threshold=None, map_hw=SIZE, max_memory_bytes=1000)


@pytest.mark.parametrize("fault", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_names_the_image(line: Line, fault: float) -> None:
    line.predictions[7] = (fault, line.predictions[7][1])
    with pytest.raises(InputError, match=r"score of .*007\.png is (nan|inf); wanted .* cada-edge verify"):
        measure(line)


@pytest.mark.parametrize("fault", [np.nan, -np.inf])
def test_a_map_with_nan_names_the_image(line: Line, fault: float) -> None:
    anomaly_map = line.predictions[4][1]
    assert anomaly_map is not None
    anomaly_map[3, 5] = fault
    with pytest.raises(InputError, match=r"1 of 384 pixels .*004\.png are NaN .* cada-edge verify"):
        measure(line)


def test_a_map_of_another_shape_names_the_image(line: Line) -> None:
    line.predictions[2] = (0.0, np.zeros((16, 24), np.float32))
    with pytest.raises(InputError, match=r"002\.png has the shape \(16, 24\); wanted \(24, 16\).*map_hw"):
        measure(line)


def test_too_few_and_too_many_predictions_are_refused(line: Line) -> None:
    with pytest.raises(InputError, match="23 predictions came for 24 images; wanted one each, in order"):
        evaluate(line.samples, line.predictions[:-1], threshold=None, map_hw=SIZE)
    with pytest.raises(InputError, match="More predictions came than the 23 images"):
        evaluate(line.samples[:-1], line.predictions, threshold=None, map_hw=SIZE)


def test_no_image_is_refused() -> None:
    with pytest.raises(InputError, match=r"No image came to evaluate; wanted at least one\. Check"):
        evaluate([], [], threshold=None, map_hw=SIZE)


def test_a_threshold_that_is_no_number_is_refused(line: Line) -> None:
    with pytest.raises(InputError, match=r"threshold nan came; wanted a finite number.*cada-edge calibrate"):
        measure(line, threshold=float("nan"))


def test_an_unknown_mask_convention_is_refused_before_the_model_runs(line: Line) -> None:
    def predictions() -> Iterator[Prediction]:
        raise AssertionError("the model ran")
        yield

    with pytest.raises(ConfigError, match="'bilinear' came; wanted one of pil-bilinear>0"):
        evaluate(line.samples, predictions(), threshold=None, map_hw=SIZE, mask_convention="bilinear")


def test_a_damaged_mask_is_named(line: Line) -> None:
    mask = line.samples[1].mask
    assert mask is not None
    mask.write_bytes(b"")
    with pytest.raises(ImageReadError, match=r"001_mask\.png is empty"):
        measure(line)
