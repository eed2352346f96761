from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from cada_edge.benchmarks.bench_compare import (
    differences,
    pair_subjects,
    read_baseline,
    read_record,
    unlike,
)
from cada_edge.benchmarks.bench_gates import judge_baseline, judge_max_p99, raise_failed
from cada_edge.benchmarks.bench_run import SCHEMA
from cada_edge.benchmarks.bench_text import compare_to_dict, compare_to_text
from cada_edge.errors import CheckFailedError, ConfigError


def subject(label: str = "model", *, p50: float = 10.0, p99: float = 12.0) -> dict[str, Any]:
    return {
        "label": label,
        "model": {
            "file": f"{label}.onnx",
            "sha256": "a" * 64,
            "precision": "fp32",
            "base": "revdist",
            "encoder": "resnet18",
            "alignment": "cada",
            "input_hw": [256, 256],
            "engine": "openvino 2026.4.1 CPU",
            "backend": "openvino",
        },
        "latency_ms": {
            "n": 1000,
            "mean": 10.5,
            "p50": p50,
            "p50_interval": [p50 - 0.1, p50 + 0.1],
            "p99": p99,
            "p99_interval": [p99 - 0.5, p99 + 0.5],
            "p95": p50 + 1.0,
            "p95_interval": [p50 + 0.9, p50 + 1.1],
        },
        "p99_samples_needed": 368,
        "images_per_second": 1000 / p50,
        "camera": None,
    }


def record(*subjects: dict[str, Any], **config: Any) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "version": "0.1.0",
        "started_at": "2026-01-01T00:00:00+00:00",
        "interrupted": False,
        "how": "latency mode",
        "config": {"mode": "latency", "batch": 1, "threads": None, "duration_s": 10.0, **config},
        "frames": {"sizes": ["1280x720"], "origin": "drawn"},
        "machine": {
            "cpu": "Fast CPU",
            "cores": 2,
            "cores_installed": 2,
            "board": None,
            "gpus": [],
            "jetson": None,
            "commit": "c" * 40,
            "governor": "performance",
            "system": "Debian",
            "kernel": "Linux 6",
            "python": "CPython 3.11",
            "driver": None,
            "packages": {"numpy": "2.0"},
        },
        "subjects": list(subjects or [subject()]),
    }


def test_the_p99_is_held_against_its_limit() -> None:
    (gate,) = judge_max_p99(record(), 12.0)
    assert gate.passed
    assert gate.what == "p99 12.00 ms (11.50 to 12.50), limit 12 ms"
    gates = judge_max_p99(record(subject("fast"), subject("slow", p99=40.0)), 33.0)
    assert [gate.passed for gate in gates] == [True, False]
    with pytest.raises(CheckFailedError, match=r"1 of 2 gates failed. slow: p99 40.00 ms .*limit 33 ms"):
        raise_failed(gates)
    raise_failed(gates[:1])


def of_cameras(due: int, dropped: int, *, p99: float | None = 12.0) -> dict[str, Any]:
    found = subject(p99=p99 or 12.0)
    found["latency_ms"]["p99"] = p99
    found["latency_ms"]["p99_interval"][1] = None if p99 is None else p99 + 0.5
    found["camera"] = {"due": due, "dropped": dropped, "dropped_share": dropped / due, "late_share": 0.0}
    return record(found, mode="camera")


def test_dropped_frames_never_had_their_verdict() -> None:
    gate = judge_max_p99(of_cameras(1000, 9, p99=20.0), 33.0)[0]
    assert gate.passed
    assert gate.what.endswith("of 1000 frames that were due 0.9 % were dropped")
    gate = judge_max_p99(of_cameras(1000, 11, p99=None), 33.0)[0]
    assert not gate.passed
    assert gate.what.startswith("p99 dropped (11.50 to ?), limit 33 ms")


def test_a_p99_of_few_samples_says_so() -> None:
    measured = record()
    measured["subjects"][0]["latency_ms"].update(n=33, p99_interval=[11.5, None])
    gate = judge_max_p99(measured, 33.0)[0]
    assert gate.passed
    assert gate.what.endswith("33 samples do not bound it, 368 would")


def test_more_dropped_frames_than_the_baseline_fail() -> None:
    def failed(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
        return [gate.what for gate in judge_baseline(new, old, 0.05) if not gate.passed]

    assert failed(of_cameras(1800, 0), of_cameras(1800, 0)) == []
    # One frame of 1,800 may be chance; 84 are not, although the latencies of the others are as before.
    assert failed(of_cameras(1800, 0), of_cameras(1800, 1)) == []
    (why,) = failed(of_cameras(1800, 0), of_cameras(1800, 84))
    assert why == "dropped 84 of 1800 frames (at least 3.79 %), baseline 0 of 1800 (at most 0.21 %)"
    # A p99 that is a dropped frame now and was none before; and one that was and is.
    assert failed(of_cameras(1800, 10), of_cameras(1800, 19, p99=None))[0].startswith("p99 dropped")
    assert failed(of_cameras(1800, 30, p99=None), of_cameras(1800, 31, p99=None)) == []
    assert len(failed(of_cameras(1800, 30, p99=None), of_cameras(1800, 300, p99=None))) == 1
    assert failed(of_cameras(1800, 30, p99=None), of_cameras(1800, 0)) == []


@pytest.mark.parametrize(
    ("p50", "p99", "passed", "why"),
    [
        (10.0, 12.0, [True, True], ""),
        (10.4, 12.5, [True, True], ""),
        (10.6, 12.0, [False, True], "p50 10.60 ms"),
        (10.0, 12.9, [True, True], "the intervals overlap"),
        (10.0, 13.1, [True, False], "p99 13.10 ms"),
        (5.0, 6.0, [True, True], ""),
    ],
)
def test_the_baseline_must_not_be_undercut(p50: float, p99: float, passed: list[bool], why: str) -> None:
    gates = judge_baseline(record(subject(p50=p50, p99=p99)), record(), 0.05)
    assert [gate.passed for gate in gates] == passed
    assert any(why in gate.what for gate in gates)
    if not all(passed):
        with pytest.raises(CheckFailedError, match=why):
            raise_failed(gates)


def test_with_few_samples_a_lower_percentile_is_judged() -> None:
    old, new = record(), record(subject(p99=30.0))
    before, now = (each["subjects"][0]["latency_ms"] for each in (old, new))
    before["p99_interval"] = [11.0, None]
    before |= {"p95": 11.5, "p95_interval": [11.0, 12.0]}
    now |= {"p95": 11.6, "p95_interval": [11.1, 12.1]}
    assert [gate.passed for gate in judge_baseline(new, old, 0.05)] == [True, True]
    now |= {"p95": 20.0, "p95_interval": [19.0, 21.0]}
    gate = judge_baseline(new, old, 0.05)[1]
    assert not gate.passed
    assert gate.what.startswith("p95 20.00 ms")


def test_what_cannot_be_judged_does_not_pass() -> None:
    old, new = record(), record(subject(p99=30.0))
    for each, value in ((old, 11.0), (new, 20.0)):
        latency = each["subjects"][0]["latency_ms"]
        for name in ("p99", "p95", "p90"):
            latency |= {name: value, f"{name}_interval": [value - 1, None]}
    gate = judge_baseline(new, old, 0.05)[1]
    assert not gate.passed
    assert "too few samples to tell this from chance, measure longer with --duration" in gate.what
    assert judge_baseline(old, new, 0.05)[1].passed


def test_throughput_is_judged_by_its_rate() -> None:
    old, new = (record(mode="throughput") for _ in range(2))
    new["subjects"][0]["images_per_second"] = 94.0
    (gate,) = judge_baseline(new, old, 0.05)
    assert not gate.passed
    assert gate.what == "94.0 images/s, baseline 100.0 (x0.940, at least x0.950)"
    assert judge_baseline(new, old, 0.10)[0].passed


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("config", "mode"), "camera", "mode: latency -> camera"),
        (("config", "batch"), 8, "batch: 1 -> 8"),
        (("config", "threads"), 2, "threads: none -> 2"),
        (("frames", "sizes"), ["640x480"], "frame sizes: 1280x720 -> 640x480"),
        (("machine", "cpu"), "Slow CPU", "processor: Fast CPU -> Slow CPU"),
        (("machine", "gpus"), ["RTX"], "GPUs: none -> RTX"),
        (("machine", "jetson"), {"power mode": "15W"}, "power mode: none -> 15W"),
        (("subjects", 0, "model", "backend"), "onnxruntime", "engine: openvino -> onnxruntime"),
        (("subjects", 0, "model", "input_hw"), [128, 128], "input: 256, 256 -> 128, 128"),
    ],
)
def test_only_like_is_compared_with_like(path: tuple[Any, ...], value: Any, message: str) -> None:
    old, new = record(), record()
    part: Any = new
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    assert message in unlike(old, new)[0]
    with pytest.raises(ConfigError, match=r"baseline is not of the same measurement.*new baseline with"):
        judge_baseline(new, old, 0.05)
    assert f"NOT COMPARABLE: {unlike(old, new)[0]}" in compare_to_text(old, new)


def test_a_comparison_names_versions_and_ratios() -> None:
    old, new = record(), record(subject(p50=5.0))
    new["machine"] = {**copy.deepcopy(new["machine"]), "packages": {"numpy": "2.1", "openvino": "2026.5"}}
    new["machine"]["governor"] = "powersave"
    new["subjects"][0]["model"]["sha256"] = "b" * 64
    assert unlike(old, new) == []
    assert differences(old, new) == [
        "governor: performance -> powersave",
        "numpy: 2.0 -> 2.1",
        "openvino: none -> 2026.5",
        "model: sha256: aaaaaaaaaaaa… -> bbbbbbbbbbbb…",
    ]
    found = compare_to_dict(old, new)
    assert found["models"][0]["figures"]["p50 ms"] == {"old": 10.0, "new": 5.0, "ratio": 0.5}
    assert found["models"][0]["figures"]["images/s"]["ratio"] == 2.0
    text = compare_to_text(old, new)
    assert "x0.500" in text
    assert "mode, batch, frame sizes, engine, threads and machine are equal" in text


def test_models_are_paired_by_label() -> None:
    old = record(subject("a", p50=1.0), subject("b", p50=2.0))
    new = record(subject("b", p50=4.0), subject("a", p50=3.0))
    paired = [(a["latency_ms"]["p50"], b["latency_ms"]["p50"]) for a, b in pair_subjects(old, new)]
    assert paired == [(2.0, 4.0), (1.0, 3.0)]
    # One in each are compared whatever they are called: that may be the question.
    assert len(pair_subjects(record(subject("x")), record(subject("y")))) == 1
    with pytest.raises(ConfigError, match="c came, and the other record has a, b; wanted the same models"):
        pair_subjects(old, record(subject("a"), subject("c")))


def test_records_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    with pytest.raises(ConfigError, match=r"old.json cannot be read.*Make one with"):
        read_record(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_record(path)
    contents: list[Any] = [[], {}, {"schema": "cada-edge bench 1"}]
    for content in contents:
        path.write_text(json.dumps(content))
        with pytest.raises(ConfigError, match=r"has the schema .* wanted 'cada-edge bench 2'"):
            read_record(path)
    path.write_text(json.dumps(record()))
    assert read_record(path) == read_baseline(path) == record()
    path.write_text(json.dumps({**record(), "interrupted": True}))
    assert read_record(path)["interrupted"]
    with pytest.raises(ConfigError, match=r"old.json is of a run that was interrupted"):
        read_baseline(path)
