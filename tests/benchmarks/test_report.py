from __future__ import annotations

import base64
import dataclasses
import html
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cada_edge.benchmarks import report_figures
from cada_edge.benchmarks.demo_result import VARIANTS, DemoResult
from cada_edge.benchmarks.finding import count_verdicts, describe_finding
from cada_edge.benchmarks.report import write_report
from cada_edge.errors import MissingExtraError, OutputError
from cada_edge.runtime.images import read_image

Vary = Callable[..., DemoResult]

PNG_START = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures blank, for tests of the text: drawing takes most of a report's time."""
    monkeypatch.setattr(report_figures, "to_png", lambda drawing: PNG_START)


def written(result: DemoResult) -> str:
    return write_report(result).read_text(encoding="utf-8")


def visible(page: str) -> str:
    """Return the page's text as a reader sees it, on one line."""
    body = page[page.index("<body>") :]
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", body)))


@pytest.mark.usefixtures("undrawn")
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


@pytest.mark.usefixtures("undrawn")
def test_latencies_are_the_percentiles_of_the_stream(result: DemoResult) -> None:
    text = visible(written(dataclasses.replace(result, latency_ms=np.arange(1.0, 102.0))))
    assert "p50 51.0 ms, p90 91.0 ms, p99 100 ms, slowest 101 ms, over 101 frames" in text


@pytest.mark.usefixtures("undrawn")
def test_percentiles_that_few_frames_cannot_show_are_left_out(result: DemoResult) -> None:
    text = visible(written(dataclasses.replace(result, latency_ms=np.arange(1.0, 12.0))))
    assert "p50 6.00 ms, p90 10.0 ms, slowest 11.0 ms, over 11 frames" in text
    assert "Not given: p99 (needs 100 frames)." in text


@pytest.mark.usefixtures("undrawn")
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


@pytest.mark.usefixtures("undrawn")
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


@pytest.mark.usefixtures("undrawn")
def test_few_images_get_no_decimals(result: DemoResult, vary: Vary) -> None:
    keep = np.r_[0:20, 40:60]
    few = dataclasses.replace(
        vary(result, "scores", **{name: result.variants[name].scores[keep] for name in VARIANTS}),
        categories=tuple(result.categories[index] for index in keep),
        anomalous=result.anomalous[keep],
    )
    assert "from 82 % to 91 %, by 10 points" in describe_finding(few)[0]
    assert "none 82 91 89 33 78" in visible(written(few))


@pytest.mark.usefixtures("undrawn")
def test_a_missing_metric_is_a_dash_with_its_reason(result: DemoResult, vary: Vary) -> None:
    measured = result.variants["none"].evaluation
    lacking = dataclasses.replace(
        measured,
        mixed={**measured.mixed, "p_ap": None},
        averaged={**measured.averaged, "p_ap": None},
        reasons={"mixed.p_ap": "masks <are> missing", "averaged.p_ap": "masks <are> missing"},
    )
    text = visible(written(vary(result, "evaluation", none=lacking)))
    assert "none 81.6 91.2 88.8 – 77.8" in text
    assert "cada against none +9.5 0.0 0.0 – 0.0" in text
    assert "–: none mixed.p ap, none averaged.p ap: masks <are> missing" in text


@pytest.mark.usefixtures("undrawn")
def test_without_a_threshold_the_verdicts_are_dashes(result: DemoResult, vary: Vary) -> None:
    per_kind = result.variants["none"].evaluation.per_kind
    undecided = {kind: figures.copy() for kind, figures in per_kind.items()}
    for verdicts in undecided.values():
        verdicts["false_alarms"] = verdicts["detected"] = None
    silent = dataclasses.replace(
        result.variants["none"].evaluation, per_kind=undecided, reasons={"threshold": "none was given"}
    )
    text = visible(written(vary(result, "evaluation", none=silent)))
    assert "all kinds 120 – 3 6" in text
    assert "none: – none was given" in text
    assert count_verdicts(silent, "detected") is None


@pytest.mark.usefixtures("undrawn")
def test_a_loss_is_on_the_page_as_well(result: DemoResult, vary: Vary) -> None:
    lost = vary(
        result,
        "evaluation",
        none=result.variants["cada"].evaluation,
        cada=result.variants["none"].evaluation,
    )
    text = visible(written(lost))
    assert "alignment made it worse." in text
    assert "cada against none −9.5" in text
    assert "rose" not in text


@pytest.mark.usefixtures("undrawn")
def test_the_scale_of_the_heat_maps_is_named(result: DemoResult) -> None:
    assert "averaged over the good examples below (0.100 and 0.200)" in visible(written(result))
    text = visible(written(dataclasses.replace(result, average_range=(0.3, 0.7))))
    assert "averaged over the training images (0.300 and 0.700)" in text


@pytest.mark.usefixtures("undrawn")
def test_examples_carry_their_verdict(result: DemoResult) -> None:
    text = visible(written(result))
    # 0.432 is under the threshold of 1.2, 1.2345 over it.
    assert "scratch <deep> 0.432 missed 1.23 found" in text
    assert "good 0.432 passed 1.23 false alarm" in text


@pytest.mark.usefixtures("undrawn")
def test_a_run_without_examples_is_reported_as_well(result: DemoResult) -> None:
    assert "No examples were recorded." in written(dataclasses.replace(result, examples=()))


def test_without_matplotlib_the_error_says_what_to_install(
    result: DemoResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.setitem(sys.modules, module, None)
    for module in ("report_figures", "heat_maps", "plots"):
        monkeypatch.delitem(sys.modules, f"cada_edge.benchmarks.{module}", raising=False)
    with pytest.raises(MissingExtraError, match=r"report needs the package 'matplotlib'.*cada-edge\[train\]"):
        write_report(result)


@pytest.mark.usefixtures("undrawn")
def test_a_folder_that_cannot_be_made_is_an_output_error(result: DemoResult, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match="Choose a folder"):
        write_report(dataclasses.replace(result, report=tmp_path / "taken" / "report.html"))
