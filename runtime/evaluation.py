"""What an evaluation found: figures, the protocol they were measured by, and why some are missing.

Two readings of every metric exist in the literature and differ by ten points and more, so both are kept and
always named. *Mixed*: the scores, or pixels, of all kinds of parts ranked together, as one threshold sees
them. *Averaged*: each kind ranked alone, then the mean over the kinds.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, TypedDict

from cada_edge.runtime.dataset_samples import name_some

__all__ = ["METRICS", "Evaluation", "Figures", "KindFigures"]

METRICS = ("i_auroc", "i_ap", "p_auroc", "p_ap", "aupro")
"""Keys of the ranking metrics, in the order of the tables."""

_HEADINGS = {
    "i_auroc": "I-AUROC",
    "i_ap": "I-AP",
    "p_auroc": "P-AUROC",
    "p_ap": "P-AP",
    "aupro": "AUPRO",
    "false_positive_rate": "FPR",
    "true_positive_rate": "TPR",
    "images": "images",
}


class Figures(TypedDict):
    """Ranking metrics of one group of images, in percent; None with an entry in `Evaluation.reasons`."""

    i_auroc: float | None
    i_ap: float | None
    p_auroc: float | None
    p_ap: float | None
    aupro: float | None


class KindFigures(Figures):
    """Figures of one kind of part, its verdicts at the one threshold included."""

    images: int
    normal_images: int
    anomalous_images: int
    false_alarms: int | None
    """Normal images above the threshold."""
    detected: int | None
    """Anomalous images above the threshold."""
    false_positive_rate: float | None
    """False alarms in percent of the normal images."""
    true_positive_rate: float | None
    """Detected in percent of the anomalous images."""


@dataclass(frozen=True)
class Evaluation:
    """The figures of one model on one data set; every figure is in percent."""

    mixed: Figures
    """All kinds ranked together."""
    averaged: Figures
    """Mean over the kinds that have the figure."""
    averaged_over: dict[str, int]
    """For each metric, how many kinds entered its mean."""
    per_kind: dict[str, KindFigures]
    """Each kind alone, by name."""
    images: int
    """Images evaluated."""
    threshold: float | None
    """The one threshold for all kinds; a score strictly above it is an alarm."""
    false_positive_rate: float | None
    """Normal images of all kinds above the threshold."""
    true_positive_rate: float | None
    """Anomalous images of all kinds above the threshold."""
    protocol: dict[str, Any]
    """How it was measured; figures of different protocols do not compare."""
    reasons: dict[str, str]
    """For each figure that is None, by its path in `to_dict` as 'mixed.p_auroc': why."""

    def __repr__(self) -> str:
        """Return the mixed figures on one line."""
        figures = ", ".join(f"{name}={_cell(value)}" for name, value in self.mixed.items())
        return f"Evaluation(mixed: {figures}; {len(self.per_kind)} kinds, {self.images} images)"

    def protocol_line(self) -> str:
        """Return the protocol on one line, to print with the figures."""
        return "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in self.protocol.items())

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, JSON-safe, the protocol as fields and as a line."""
        return {
            "mixed": dict(self.mixed),
            "averaged": dict(self.averaged),
            "averaged_over": dict(self.averaged_over),
            "per_kind": {kind: dict(figures) for kind, figures in self.per_kind.items()},
            "images": self.images,
            "threshold": self.threshold,
            "false_positive_rate": self.false_positive_rate,
            "true_positive_rate": self.true_positive_rate,
            "protocol": copy.deepcopy(self.protocol),
            "protocol_line": self.protocol_line(),
            "reasons": dict(self.reasons),
        }

    def to_text(self) -> str:
        """Return a table for people: a row per kind, averaged, mixed, then the reasons and the protocol."""
        overall = {
            "false_positive_rate": self.false_positive_rate,
            "true_positive_rate": self.true_positive_rate,
            "images": self.images,
        }
        rows = [["in %", *_HEADINGS.values()]]
        rows += [_row(kind, dict(figures)) for kind, figures in self.per_kind.items()]
        rows.append(_row(self._averaged_label(), dict(self.averaged)))
        rows.append(_row("mixed", {**self.mixed, **overall}))
        return "\n".join([*_aligned(rows), *self._reason_lines(), self.protocol_line()])

    def _averaged_label(self) -> str:
        counts = sorted(set(self.averaged_over.values()))
        return f"averaged over {' or '.join(map(str, counts))} of {len(self.per_kind)}"

    def _reason_lines(self) -> list[str]:
        """Group the missing figures by their reason."""
        paths: dict[str, list[str]] = {}
        for path, reason in self.reasons.items():
            paths.setdefault(reason, []).append(path)
        return [f"missing, {reason}: {name_some(names)}" for reason, names in paths.items()]


def _row(label: str, figures: dict[str, Any]) -> list[str]:
    cells = [figures.get(name, "") for name in _HEADINGS]
    return [label, *map(_cell, cells)]


def _cell(value: object) -> str:
    """Return a figure with one decimal, a count or word as it is, '-' for what is missing."""
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for row in rows
    ]
