"""Gates: a limit on the p99, and an older record that must not be undercut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cada_edge.benchmarks.bench_compare import pair_subjects, require_like, unlike
from cada_edge.benchmarks.bench_stats import share_interval
from cada_edge.benchmarks.bench_tables import DROPPED
from cada_edge.errors import CheckFailedError

__all__ = ["Gate", "judge_baseline", "judge_max_p99", "raise_failed"]

_TAILS = ("p99", "p95", "p90")
"""Percentiles that stand for the slowest frames; the first is judged that has enough samples."""


@dataclass(frozen=True)
class Gate:
    """One verdict on one figure of one model."""

    label: str
    """Of the model."""
    what: str
    """What was judged, with the figures and the limit."""
    passed: bool
    """Whether it holds."""

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-safe."""
        return asdict(self)


def judge_max_p99(record: Mapping[str, Any], limit_ms: float) -> list[Gate]:
    """Hold each model's p99 against a limit; in camera mode that of all frames that were due.

    A frame that was dropped never had its verdict: it counts as later than any limit.

    Args:
        record: Of `run_bench`.
        limit_ms: Largest p99, in milliseconds.
    """
    gates = []
    for subject in record["subjects"]:
        value = subject["latency_ms"]["p99"]
        low, high = subject["latency_ms"]["p99_interval"]
        text = f"p99 {_value(value)}{_interval(low, high)}, limit {limit_ms:g} ms"
        camera, needed = subject["camera"], subject["p99_samples_needed"]
        count = subject["latency_ms"]["n"]
        if camera is not None:
            count = camera["due"]
            text += f"; of {count} frames that were due {100 * camera['dropped_share']:.1f} % were dropped"
        if count < needed:
            text += f"; {count} samples do not bound it, {needed} would"
        gates.append(Gate(subject["label"], text, value is not None and value <= limit_ms))
    return gates


def judge_baseline(record: Mapping[str, Any], baseline: Mapping[str, Any], tolerance: float) -> list[Gate]:
    """Hold each model against an older record of the same thing on the same machine.

    A percentile fails where it is worse by more than the tolerance and its 95 % interval lies wholly above
    the baseline's: a difference that chance could make is none. Judged are p50 and p99, where that has too
    few samples for an interval p95 or p90; in camera mode the share of dropped frames too, in throughput mode
    the images a second alone.

    Args:
        record: Of `run_bench`.
        baseline: An older one.
        tolerance: Share by which a figure may be worse, as 0.05.

    Raises:
        ConfigError: They do not measure the same thing.
    """
    require_like(unlike(baseline, record))
    gates = []
    for old, new in pair_subjects(baseline, record):
        if record["config"]["mode"] == "throughput":
            gates.append(_judge_rate(old, new, tolerance))
        else:
            gates += [_judge_percentile(old, new, name, tolerance) for name in ("p50", _tail(old, new))]
            if new["camera"] is not None:
                gates.append(_judge_dropped(old, new, tolerance))
    return gates


def _tail(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return the highest percentile whose intervals are known as far as judging takes them."""
    for name in _TAILS:
        low, high = new["latency_ms"][f"{name}_interval"][0], old["latency_ms"][f"{name}_interval"][1]
        if low is not None and high is not None:
            return name
    return _TAILS[-1]


def _judge_rate(old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float) -> Gate:
    before, now = old["images_per_second"], new["images_per_second"]
    text = f"{now:.1f} images/s, baseline {before:.1f} (x{now / before:.3f}, at least x{1 - tolerance:.3f})"
    return Gate(new["label"], text, now >= before * (1 - tolerance))


def _judge_dropped(old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float) -> Gate:
    before, now = old["camera"], new["camera"]
    low, high = (
        share_interval(now["dropped"], now["due"])[0],
        share_interval(before["dropped"], before["due"])[1],
    )
    text = (
        f"dropped {now['dropped']} of {now['due']} frames (at least {100 * low:.2f} %), baseline "
        f"{before['dropped']} of {before['due']} (at most {100 * high:.2f} %)"
    )
    is_over = now["dropped_share"] > before["dropped_share"] * (1 + tolerance)
    if is_over and low <= high:
        return Gate(new["label"], f"{text}: the intervals overlap, so it may be chance", True)
    return Gate(new["label"], text, not is_over)


def _judge_percentile(old: Mapping[str, Any], new: Mapping[str, Any], name: str, tolerance: float) -> Gate:
    before, now = old["latency_ms"][name], new["latency_ms"][name]
    low, high = new["latency_ms"][f"{name}_interval"]
    old_low, old_high = old["latency_ms"][f"{name}_interval"]
    text = (
        f"{name} {_value(now)}{_interval(low, high)}, baseline {_value(before)}{_interval(old_low, old_high)}"
    )
    if now is None or before is None:
        # As long as it was one of them before, only their share tells whether it has become worse.
        return Gate(new["label"], text, now is not None or before is None)
    text += f" (x{now / before:.3f}, at most x{1 + tolerance:.3f})"
    is_over = now > before * (1 + tolerance)
    if is_over and (low is None or old_high is None):
        text += ": too few samples to tell this from chance, measure longer with --duration"
        return Gate(new["label"], text, False)
    if is_over and low <= old_high:
        return Gate(new["label"], f"{text}: the intervals overlap, so it may be chance", True)
    return Gate(new["label"], text, not is_over)


def _value(value: float | None) -> str:
    return DROPPED if value is None else f"{value:.2f} ms"


def _interval(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    return f" ({'?' if low is None else f'{low:.2f}'} to {'?' if high is None else f'{high:.2f}'})"


def raise_failed(gates: list[Gate]) -> None:
    """End with what failed.

    Raises:
        CheckFailedError: A gate did not hold.
    """
    failed = [f"{gate.label}: {gate.what}" for gate in gates if not gate.passed]
    if failed:
        raise CheckFailedError(
            f"{len(failed)} of {len(gates)} gates failed. {'; '.join(failed)}. Look at the report's stages "
            "and warnings for the reason, or set other limits with --max-p99, --baseline and --tolerance."
        )
