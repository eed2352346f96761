from __future__ import annotations

import base64
import dataclasses
import html
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cada_edge.benchmarks.demo_result import VARIANTS, DemoResult, Example, VariantResult
from cada_edge.benchmarks.finding import auroc_difference, count_verdicts, describe_finding, signed
from cada_edge.benchmarks.heat_maps import strip_of_example, unaligned_range
from cada_edge.benchmarks.plots import order_kinds
from cada_edge.benchmarks.report import write_report
from cada_edge.errors import MissingExtraError, OutputError
from cada_edge.manifest import Parity
from cada_edge.runtime.evaluation import METRICS, Evaluation, Figures, KindFigures
from cada_edge.runtime.images import read_image

KINDS = ("screw <M3>", "Dichtung äöü", "螺丝 & $nut$")
PER_CLASS = 40
SIZE = 32
PNG_START = b"\x89PNG\r\n\x1a\n"


def figures(i_auroc: float | None, *, p_ap: float | None = 33.37) -> Figures:
    return {"i_auroc": i_auroc, "i_ap": 91.23, "p_auroc": 88.81, "p_ap": p_ap, "aupro": 77.77}


def evaluation(mixed: Figures, averaged: Figures, verdicts: tuple[int, int], **changes: Any) -> Evaluation:
    false_alarms, detected = verdicts
    kind: dict[str, Any] = {
        **averaged,
        "images": 2 * PER_CLASS,
        "normal_images": PER_CLASS,
        "anomalous_images": PER_CLASS,
        "false_alarms": false_alarms,
        "detected": detected,
        "false_positive_rate": 100 * false_alarms / PER_CLASS,
        "true_positive_rate": 100 * detected / PER_CLASS,
    }
    complete: dict[str, Any] = {
        "mixed": mixed,
        "averaged": averaged,
        "averaged_over": dict.fromkeys(METRICS, len(KINDS)),
        "per_kind": {name: KindFigures(**kind) for name in KINDS},  # type: ignore[typeddict-item]
        "images": 2 * PER_CLASS * len(KINDS),
        "threshold": 0.5,
        "false_positive_rate": kind["false_positive_rate"],
        "true_positive_rate": kind["true_positive_rate"],
        "protocol": {"images": "some-resize", "masks": "pil-bilinear>0", "threshold": 0.5},
        "reasons": {},
        **changes,
    }
    return Evaluation(**complete)


def example(kind: str, defect: str) -> Example:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    if defect != "good":
        mask[8:16, 8:16] = 1
    heat = np.linspace(0, 2, SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)
    return Example(
        frame=np.full((SIZE, SIZE, 3), (10, 120, 200), np.uint8),
        mask=mask,
        category=kind,
        defect=defect,
        maps={"none": heat * 0.1, "cada": heat, "class-aware": heat},
        scores={"none": 0.4321, "cada": 1.2345, "class-aware": 1.0},
    )


@pytest.fixture
def result(tmp_path: Path) -> DemoResult:
    """Three kinds of 40 good and 40 defective parts; alignment gains 9.5 points."""
    rng = np.random.default_rng(0)
    categories = tuple(kind for kind in KINDS for _ in range(2 * PER_CLASS))
    anomalous = np.tile(np.arange(2 * PER_CLASS) >= PER_CLASS, len(KINDS))
    noise = rng.normal(1.0, 0.1, len(categories)).astype(np.float32)
    levels = np.repeat(np.array([3.0, 1.0, 2.0], np.float32), 2 * PER_CLASS)
    aligned = np.asarray(noise + 0.4 * anomalous, np.float32)
    measured = {
        "none": (
            evaluation(figures(81.64), figures(92.5), (4, 10)),
            np.asarray(aligned * levels, np.float32),
        ),
        "cada": (evaluation(figures(91.14), figures(93.5), (1, 31)), aligned),
        "class-aware": (evaluation(figures(92.2), figures(93.6), (2, 32)), aligned),
    }
    return DemoResult(
        variants={name: VariantResult(*measured[name], threshold=1.2) for name in VARIANTS},
        categories=categories,
        anomalous=anomalous,
        examples=tuple(example(kind, defect) for kind in KINDS for defect in ("scratch <deep>", "good")),
        latency_ms=rng.gamma(20.0, 0.5, 200),
        backend="engine 1.2 CPU",
        parity=Parity(12, 3.2e-6, 1.1e-4, 1e-4, "engine 1.2 CPU", None, "fewer than 100 images"),
        threshold=1.2,
        settings={"size": 128, "seed": 7, "encoder": "resnet18", "threads": None},
        seconds={"draw": 3.21, "train": 125.0, "total": 128.21},
        machine={"cpu": "Fast CPU", "cores": 2, "packages": {"numpy": "2.0"}, "governor": None},
        line=tmp_path / "demo" / "line",
        checkpoint=tmp_path / "demo" / "run" / "checkpoint.pt",
        model=tmp_path / "demo" / "model.onnx",
        report=tmp_path / "demo" / "report.html",
        notes=("40 images promise <2.5 %",),
    )


def with_evaluations(result: DemoResult, **evaluations: Evaluation) -> DemoResult:
    variants = {
        name: dataclasses.replace(variant, evaluation=evaluations.get(name, variant.evaluation))
        for name, variant in result.variants.items()
    }
    return dataclasses.replace(result, variants=variants)


def with_scores(result: DemoResult, **scores: Any) -> DemoResult:
    variants = {
        name: dataclasses.replace(variant, scores=scores.get(name, variant.scores))
        for name, variant in result.variants.items()
    }
    return dataclasses.replace(result, variants=variants)


def written(result: DemoResult) -> str:
    return write_report(result).read_text(encoding="utf-8")


def visible(page: str) -> str:
    """Return the page's text as a reader sees it, on one line."""
    body = page[page.index("<body>") :]
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", body)))


def test_every_figure_is_on_the_page(result: DemoResult) -> None:
    text = visible(written(result))
    assert "none 81.6 91.2 88.8 33.4 77.8" in text
    assert "cada 91.1" in text
    assert "class-aware 92.2" in text
    assert "cada against none +9.5" in text
    assert "Protocol: images: some-resize; masks: pil-bilinear>0." in text
    assert "on 240 test images (120 good, 120 defective)" in text
    # 4 false alarms of each of three kinds, then of 120 in all.
    assert "all kinds 120 12 3 6" in text
    assert "none: 10.0 % (95 % interval 5.3–16.8 %)" in text
    assert "over 200 frames after warm-up, from frame to detection, on engine 1.2 CPU." in text
    assert "3.2e-06 (limit 1e-04)" in text
    assert "fewer than 100 images" in text
    assert "train 2 min 05 s" in text
    assert "run/checkpoint.pt" in text
    assert "numpy 2.0" in text
    assert "governor –" in text
    assert "40 images promise <2.5 %" in text
    assert "one number of one run (seed 7)" in text


def test_latencies_are_the_percentiles_of_the_stream(result: DemoResult) -> None:
    text = visible(written(dataclasses.replace(result, latency_ms=np.arange(1.0, 102.0))))
    assert "p50 51.0 ms, p90 91.0 ms, p99 100 ms, slowest 101 ms, over 101 frames" in text


def test_percentiles_that_few_frames_cannot_show_are_left_out(result: DemoResult) -> None:
    text = visible(written(dataclasses.replace(result, latency_ms=np.arange(1.0, 12.0))))
    assert "p50 6.00 ms, p90 10.0 ms, slowest 11.0 ms, over 11 frames" in text
    assert "Not given: p99 (needs 100 frames)." in text


def test_an_empty_stream_is_said_to_be_empty(result: DemoResult) -> None:
    assert "No frame was streamed" in written(dataclasses.replace(result, latency_ms=np.empty(0)))


def test_the_page_needs_nothing_from_elsewhere(result: DemoResult) -> None:
    page = written(result)
    assert not re.search(r"https?://", page)
    assert "<script" not in page
    assert "@import" not in page
    assert "@font-face" not in page
    sources = re.findall(r'(?:src|srcset|href)="([^"]*)"', page)
    assert len(sources) == 3 * 2 + len(result.examples)
    for source in sources:
        start, _, data = source.partition(",")
        assert start == "data:image/png;base64"
        assert base64.b64decode(data, validate=True).startswith(PNG_START)


def test_nothing_of_the_machines_folders_is_on_the_page(result: DemoResult, tmp_path: Path) -> None:
    assert str(tmp_path) not in written(result)


def test_the_figures_lie_beside_the_page_and_show_something(result: DemoResult) -> None:
    written(result)
    folder = result.report.parent / "figures"
    assert {file.name for file in folder.iterdir()} == {
        "scores-none.png",
        "scores-cada.png",
        "examples.png",
        "latency.png",
    }
    for file in folder.iterdir():
        image = read_image(file)
        assert min(image.shape[:2]) > 200
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20


def test_writing_twice_gives_the_same_bytes(result: DemoResult) -> None:
    assert written(result) == written(result)


def test_names_are_escaped_and_in_any_script(result: DemoResult) -> None:
    page = written(result)
    assert "<M3>" not in page
    assert "<deep>" not in page
    assert "screw &lt;M3&gt;" in page
    assert "scratch &lt;deep&gt;" in page
    assert "Dichtung äöü" in page
    assert "螺丝 &amp; $nut$" in page


def test_the_finding_names_a_gain(result: DemoResult) -> None:
    main, mixing, alarms = describe_finding(result)
    assert "the mixed I-AUROC rose from 81.6 % to 91.1 %, by 9.5 points (95 % interval +" in main
    assert "chance" not in main
    assert "costs 10.9 points of I-AUROC without alignment and 2.4 with it" in mixing
    assert "reaches 92.2 % mixed" in mixing
    assert "12 of 120 good test parts raise a false alarm without alignment and 3 with it" in alarms
    assert "of 120 defective parts 30 are found without and 93 with it" in alarms


def test_the_finding_turns_when_cada_loses(result: DemoResult) -> None:
    lost = with_evaluations(
        result,
        none=result.variants["cada"].evaluation,
        cada=result.variants["none"].evaluation,
    )
    lost = with_scores(lost, none=result.variants["cada"].scores, cada=result.variants["none"].scores)
    main = describe_finding(lost)[0]
    assert "fell from 91.1 % to 81.6 %, by 9.5 points (95 % interval −" in main
    assert main.endswith("alignment made it worse.")
    text = visible(written(lost))
    assert main in text
    assert "cada against none −9.5" in text
    assert "rose" not in text


def test_a_gain_that_may_be_chance_says_so(result: DemoResult) -> None:
    rng = np.random.default_rng(1)
    blind = rng.random((2, len(result.categories))).astype(np.float32)
    main = describe_finding(with_scores(result, none=blind[0], cada=blind[1]))[0]
    assert "this may be chance" in main


def test_no_change_is_called_none(result: DemoResult) -> None:
    same = with_evaluations(result, cada=result.variants["none"].evaluation)
    assert "stayed at 81.6 %" in describe_finding(same)[0]


def test_few_images_get_no_decimals(result: DemoResult) -> None:
    keep = np.r_[0:20, 40:60]
    few = dataclasses.replace(
        with_scores(result, **{name: result.variants[name].scores[keep] for name in VARIANTS}),
        categories=tuple(result.categories[index] for index in keep),
        anomalous=result.anomalous[keep],
    )
    assert "from 82 % to 91 %, by 10 points" in describe_finding(few)[0]
    assert "none 82 91 89 33 78" in visible(written(few))


def test_a_missing_metric_is_a_dash_with_its_reason(result: DemoResult) -> None:
    lacking = evaluation(
        figures(81.64, p_ap=None),
        figures(92.5, p_ap=None),
        (4, 10),
        reasons={"mixed.p_ap": "masks <are> missing", "averaged.p_ap": "masks <are> missing"},
    )
    text = visible(written(with_evaluations(result, none=lacking)))
    assert "none 81.6 91.2 88.8 – 77.8" in text
    assert "cada against none +9.5 0.0 0.0 – 0.0" in text
    assert "–: none mixed.p ap, none averaged.p ap: masks <are> missing" in text


def test_without_i_auroc_the_finding_gives_the_reason(result: DemoResult) -> None:
    lacking = evaluation(figures(None), figures(None), (4, 10), reasons={"mixed.i_auroc": "no defects"})
    sentences = describe_finding(with_evaluations(result, cada=lacking))
    assert sentences[0].endswith("the mixed I-AUROC is not known: no defects.")
    assert len(sentences) == 2


def test_without_a_threshold_the_verdicts_are_dashes(result: DemoResult) -> None:
    per_kind = result.variants["none"].evaluation.per_kind
    undecided = {kind: per_kind[kind].copy() for kind in KINDS}
    for verdicts in undecided.values():
        verdicts["false_alarms"] = verdicts["detected"] = None
    silent = dataclasses.replace(
        result.variants["none"].evaluation, per_kind=undecided, reasons={"threshold": "none was given"}
    )
    text = visible(written(with_evaluations(result, none=silent)))
    assert "all kinds 120 – 3 6" in text
    assert "none: – none was given" in text
    assert count_verdicts(silent, "detected") is None


def test_the_interval_is_delongs() -> None:
    # By hand: second ranks all pairs right, first loses two of four; the halves' variances are 1/2 each.
    anomalous = np.array([True, True, False, False])
    first = np.array([2.0, 0.0, 1.0, 1.0], np.float32)
    second = np.array([2.0, 2.0, 1.0, 1.0], np.float32)
    low, high = auroc_difference(first, second, anomalous=anomalous) or (0.0, 0.0)
    # Placements of the positives differ by (0, 1): variance 1/2 over 2; of the negatives by (1/2, 1/2): none.
    assert (low + high) / 2 == pytest.approx(50.0)
    assert (high - low) / 2 == pytest.approx(100 * 1.959964 * 0.5)


def test_one_image_of_a_class_gives_no_interval() -> None:
    scores = np.arange(3, dtype=np.float32)
    assert auroc_difference(scores, scores, anomalous=np.array([True, False, False])) is None


def test_a_rounded_zero_has_no_sign() -> None:
    assert (signed(-0.04, 1), signed(0.6, 1), signed(-3.0, 0)) == ("0.0", "+0.6", "−3")


def test_kinds_are_ordered_by_their_unaligned_normal_median(result: DemoResult) -> None:
    assert order_kinds(result) == [KINDS[1], KINDS[2], KINDS[0]]


def test_heat_maps_share_one_scale(result: DemoResult) -> None:
    shown = example("screw", "good")
    strip = strip_of_example(shown, (0.0, 0.1))
    gap = SIZE // 32
    tiles = [strip[:, column * (SIZE + gap) :][:, :SIZE] for column in range(4)]
    assert strip.shape == (SIZE, 4 * SIZE + 3 * gap, 4)
    # RGB of the BGR frame; a good part has no outline.
    assert np.array_equal(tiles[0][0, 0], (200, 120, 10, 255))
    assert np.array_equal(tiles[0], tiles[1])
    # 0.1 of none and 1 of cada are the same colour, and so is all above.
    assert np.abs(tiles[2].astype(int) - tiles[3]).max() <= 4
    assert len(np.unique(tiles[3][SIZE // 2 + 1 :].reshape(-1, 4), axis=0)) == 1
    assert (strip[:, SIZE : SIZE + gap, 3] == 0).all()


def test_the_outline_surrounds_the_defect_and_leaves_it_open() -> None:
    strip = strip_of_example(example("screw", "scratch"), (0.0, 0.1))
    outlined = strip[:, SIZE + 1 : 2 * SIZE + 1, :3]
    assert (outlined[8:16, 8:16] == (200, 120, 10)).all()
    assert (outlined[7, 8:16] == (255, 235, 59)).all()
    assert (outlined[6, 8:16] == 0).all()


def test_the_unaligned_scale_is_the_training_sets_where_it_is_known(result: DemoResult) -> None:
    low, high = unaligned_range(result)
    assert (low, high) == pytest.approx((0.1, 0.2))
    assert unaligned_range(dataclasses.replace(result, average_range=(0.3, 0.7))) == (0.3, 0.7)
    text = visible(written(dataclasses.replace(result, average_range=(0.3, 0.7))))
    assert "averaged over the training images (0.300 and 0.700)" in text


def test_examples_carry_their_verdict(result: DemoResult) -> None:
    text = visible(written(result))
    # 0.432 is under the threshold of 1.2, 1.2345 over it.
    assert "scratch <deep> 0.432 missed 1.23 found" in text
    assert "good 0.432 passed 1.23 false alarm" in text


def test_a_run_without_examples_is_reported_as_well(result: DemoResult) -> None:
    assert "No examples were recorded." in written(dataclasses.replace(result, examples=()))


def test_far_scores_get_a_logarithmic_end(result: DemoResult) -> None:
    from cada_edge.benchmarks.plots import draw_scores

    far = np.array(result.variants["cada"].scores)
    far[-1] = 900.0
    axes = draw_scores(with_scores(result, cada=far), "cada").axes[0]
    assert axes.get_xscale() == "symlog"
    assert axes.get_xlim()[1] > 900
    assert draw_scores(result, "cada").axes[0].get_xscale() == "linear"


def test_without_matplotlib_the_error_says_what_to_install(
    result: DemoResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.setitem(sys.modules, module, None)
    for module in ("report_figures", "heat_maps", "plots"):
        monkeypatch.delitem(sys.modules, f"cada_edge.benchmarks.{module}", raising=False)
    with pytest.raises(MissingExtraError, match=r"report needs the package 'matplotlib'.*cada-edge\[train\]"):
        write_report(result)


def test_a_folder_that_cannot_be_made_is_an_output_error(result: DemoResult, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match="Choose a folder"):
        write_report(dataclasses.replace(result, report=tmp_path / "taken" / "report.html"))
