from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from cada_edge.benchmarks.demo_result import DemoResult
from cada_edge.benchmarks.finding import auroc_difference, describe_finding, signed

Vary = Callable[..., DemoResult]


def test_the_finding_names_a_gain(result: DemoResult) -> None:
    main, mixing, alarms = describe_finding(result)
    assert "the mixed I-AUROC rose from 81.6 % to 91.1 %, by 9.5 points (95 % interval +" in main
    assert "chance" not in main
    assert "costs 10.9 points of I-AUROC without alignment and 2.4 with it" in mixing
    assert "reaches 92.2 % mixed" in mixing
    assert "12 of 120 good test parts raise a false alarm without alignment and 3 with it" in alarms
    assert "of 120 defective parts 30 are found without and 93 with it" in alarms


def test_the_finding_turns_when_cada_loses(result: DemoResult, vary: Vary) -> None:
    lost = vary(
        result,
        "evaluation",
        none=result.variants["cada"].evaluation,
        cada=result.variants["none"].evaluation,
    )
    lost = vary(lost, "scores", none=result.variants["cada"].scores, cada=result.variants["none"].scores)
    main = describe_finding(lost)[0]
    assert "fell from 91.1 % to 81.6 %, by 9.5 points (95 % interval −" in main
    assert main.endswith("alignment made it worse.")


def test_a_gain_that_may_be_chance_says_so(result: DemoResult, vary: Vary) -> None:
    rng = np.random.default_rng(1)
    blind = rng.random((2, len(result.categories))).astype(np.float32)
    main = describe_finding(vary(result, "scores", none=blind[0], cada=blind[1]))[0]
    assert "this may be chance" in main


def test_no_change_is_called_none(result: DemoResult, vary: Vary) -> None:
    same = vary(result, "evaluation", cada=result.variants["none"].evaluation)
    assert "stayed at 81.6 %" in describe_finding(same)[0]


def test_without_i_auroc_the_finding_gives_the_reason(result: DemoResult, vary: Vary) -> None:
    measured = result.variants["cada"].evaluation
    lacking = dataclasses.replace(
        measured, mixed={**measured.mixed, "i_auroc": None}, reasons={"mixed.i_auroc": "no defects"}
    )
    sentences = describe_finding(vary(result, "evaluation", cada=lacking))
    assert sentences[0].endswith("the mixed I-AUROC is not known: no defects.")
    assert len(sentences) == 2


def test_the_interval_is_delongs() -> None:
    anomalous = np.array([True, True, False, False])
    first = np.array([2.0, 0.0, 1.0, 1.0], np.float32)
    second = np.array([2.0, 2.0, 1.0, 1.0], np.float32)
    low, high = auroc_difference(first, second, anomalous=anomalous) or (0.0, 0.0)
    # By hand: the positives win (0, 1) more of the negatives, variance 1/2 over 2 images; the negatives all
    # lose 1/2 more of the positives, variance 0.
    assert (low + high) / 2 == pytest.approx(50.0)
    assert (high - low) / 2 == pytest.approx(100 * 1.959964 * 0.5)


def test_one_image_of_a_class_gives_no_interval() -> None:
    scores = np.arange(3, dtype=np.float32)
    assert auroc_difference(scores, scores, anomalous=np.array([True, False, False])) is None


def test_a_rounded_zero_has_no_sign() -> None:
    assert (signed(-0.04, 1), signed(0.6, 1), signed(-3.0, 0)) == ("0.0", "+0.6", "−3")
