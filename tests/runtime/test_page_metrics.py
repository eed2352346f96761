"""The text format of Prometheus, judged by its own parser."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cada_edge.runtime.detection import Detection
from cada_edge.runtime.page_gate import Request
from cada_edge.runtime.page_metrics import render_metrics
from cada_edge.runtime.page_relay import Relay
from cada_edge.runtime.page_routes import Routes
from cada_edge.runtime.page_state import PageState
from cada_edge.runtime.source_base import Frame
from cada_edge.runtime.stream_events import make_event

ODD = 'cam "left"\\line\n2'


@pytest.fixture
def state() -> dict[str, Any]:
    """A state with every figure, of a source whose name must be escaped."""
    page = PageState()
    for index, score in enumerate((0.5, 1.5)):
        page.put(
            Detection(score=score, raw_score=score, threshold=1.0),
            Frame(np.zeros((2, 2, 3), np.uint8), index, ODD, time.time(), time.monotonic()),
        )
    page.tell(make_event("lost", "quiet", "no route"))
    found = page.snapshot()
    found["sources"][0]["counts"] = {
        "captured": 9, "delivered": 4, "dropped": 3, "corrupt": 2, "waiting": 0, "source_gaps": 7
    }  # fmt: skip
    found["latency_ms"] = {"p50": 10.0, "p95": 20.0, "p99": 30.0, "max": 40.0}
    found["refused"] = 1
    found["model"] = {"threshold": 1.0, "sha256": "ab", "version": "1.2.3"}
    return found


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_parser_reads_every_figure(state: dict[str, Any]) -> None:
    found = samples(render_metrics(state))
    cam = (("source", ODD),)
    assert found["cada_edge_inspected_frames_total", cam] == 2
    assert found["cada_edge_anomalous_frames_total", cam] == 1
    for name, value in (("captured", 9), ("delivered", 4), ("dropped", 3), ("corrupt", 2)):
        assert found[f"cada_edge_{name}_frames_total", cam] == value
    assert found["cada_edge_waiting_frames", cam] == 0
    assert found["cada_edge_source_gaps_total", cam] == 7
    assert found["cada_edge_source_up", cam] == 1
    assert found["cada_edge_source_up", (("source", "quiet"),)] == 0
    assert found["cada_edge_score", cam] == 1.5
    assert found["cada_edge_threshold", ()] == 1
    assert found["cada_edge_running", ()] == 1
    assert found["cada_edge_latency_seconds", (("quantile", "0.99"),)] == pytest.approx(0.03)
    assert found["cada_edge_latency_seconds_count", ()] == 2
    assert found["cada_edge_events_total", (("kind", "lost"),)] == 1
    assert found["cada_edge_info", (("model_sha256", "ab"), ("version", "1.2.3"))] == 1
    # What is not known has no sample: no frame of the quiet source was seen, nobody counts its frames.
    assert ("cada_edge_source_frame_age_seconds", (("source", "quiet"),)) not in found
    assert ("cada_edge_captured_frames_total", (("source", "quiet"),)) not in found


def test_each_metric_has_its_help_and_type_once(state: dict[str, Any]) -> None:
    text = render_metrics(state)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert all(family.documentation.endswith(".") for family in families.values())
    assert families["cada_edge_captured_frames"].type == "counter"
    assert families["cada_edge_score"].type == "gauge"
    assert families["cada_edge_latency_seconds"].type == "summary"
    helps = [line.split()[2] for line in text.splitlines() if line.startswith("# HELP")]
    types = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert helps == types == sorted(set(helps), key=helps.index)
    assert text.endswith("\n")


def test_labels_are_escaped(state: dict[str, Any]) -> None:
    assert r'{source="cam \"left\"\\line\n2"} 2.0' in render_metrics(state)


def test_a_name_that_is_no_text_costs_no_figures(state: dict[str, Any]) -> None:
    state["sources"][0]["name"] = "cam\udcff"

    class RelayDouble:
        async def state(self) -> dict[str, Any]:
            return state

    routes = Routes(cast(Relay, RelayDouble()), {})
    response = asyncio.run(routes.answer(Request("GET", "/metrics")))
    assert response.status == 200
    assert b'source="cam?"' in response.body


def test_no_answer_of_the_inspection_gives_no_figures() -> None:
    assert samples(render_metrics({})) == {}
