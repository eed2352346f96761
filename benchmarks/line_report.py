"""Put a study of the procedural line into a table and sentences that follow the numbers, whoever wins.

Everything here is computed from the cells; nothing is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cada_edge.benchmarks.paper import HEADINGS, PaperRow, load_datasets, load_tables

__all__ = ["Cell", "describe_kernels", "describe_noise", "noise_table", "summarise", "table"]

_READINGS = ("mixed", "averaged")

KERNEL_MARGIN = 0.5
"""Points of mixed I-AUROC by which the 3x3 regressor must win, over the seeds, to become the default."""

_PAPER_TABLE, _PAPER_DATASET = 5, "btad"
"""Where the paper compares cada with cada-sigma on training images with anomalies among them."""


@dataclass(frozen=True)
class Cell:
    """One measured figure of each metric."""

    base: str
    """Base method."""
    label: str
    """Of the variant."""
    share: float
    """Of spoiled training images."""
    seed: int
    """Of the line and of the training."""
    mixed: dict[str, float | None]
    """Metric -> figure in %, all kinds together."""
    averaged: dict[str, float | None]
    """Metric -> figure in %, mean over the kinds."""


@dataclass(frozen=True)
class _Pair:
    """One metric of two variants on the same lines."""

    first: tuple[float, ...]
    """In %, one for each seed."""
    second: tuple[float, ...]
    """Beside them, of the other variant."""

    @property
    def gain(self) -> float:
        """Mean of the second less that of the first, in points."""
        return _mean(self.second) - _mean(self.first)

    @property
    def separate(self) -> bool:
        """Whether every seed of one lies above every seed of the other."""
        return min(self.second) > max(self.first) or min(self.first) > max(self.second)

    def describe(self) -> str:
        """Give both means and ranges, and on how many seeds the second is above."""
        wins = sum(after > before for before, after in zip(self.first, self.second, strict=True))
        return (
            f"{_with_range(self.second)} against {_with_range(self.first)}, "
            f"above on {wins} of {len(self.first)} seed{'' if len(self.first) == 1 else 's'}"
        )


def summarise(cells: Sequence[Cell], metric: str, *, mixed: bool = True) -> dict[tuple[str, float, str], str]:
    """Give mean and range over the seeds as text.

    Args:
        cells: What was measured.
        metric: 'i_auroc', 'i_ap', 'p_auroc' or 'p_ap'.
        mixed: All kinds together, or the mean over kinds.

    Returns:
        (base, share, label) -> '91.2 (90.1-92.4)'; '-' where a seed has no figure.
    """
    groups: dict[tuple[str, float, str], list[float | None]] = {}
    for cell in cells:
        value = (cell.mixed if mixed else cell.averaged)[metric]
        groups.setdefault((cell.base, cell.share, cell.label), []).append(value)
    texts = {}
    for key, values in groups.items():
        known = [value for value in values if value is not None]
        texts[key] = _with_range(known) if len(known) == len(values) else "-"
    return texts


def table(cells: Sequence[Cell]) -> str:
    """Write all figures as a Markdown table: mean over the seeds, smallest and largest in brackets."""
    heads = [f"{reading} {name}" for reading in _READINGS for name in HEADINGS.values()]
    rows = [f"| base | spoiled | alignment | {' | '.join(heads)} |", "|" + "---|" * (3 + len(heads))]
    columns = [
        summarise(cells, metric, mixed=reading == "mixed") for reading in _READINGS for metric in HEADINGS
    ]
    for base, share, label in dict.fromkeys((cell.base, cell.share, cell.label) for cell in cells):
        figures = " | ".join(column[(base, share, label)] for column in columns)
        rows.append(f"| {base} | {_percent(share)} | {label} | {figures} |")
    return "\n".join(rows)


def noise_table(cells: Sequence[Cell]) -> str:
    """Set what cada-sigma gains over cada, mixed, beside the paper's rows on noisy BTAD, as Markdown.

    Empty without a share on which both were measured.
    """
    rows = []
    for base, share in _places(cells):
        pairs = {metric: _pair(cells, base, share, metric, "cada", "cada-sigma") for metric in HEADINGS}
        if any(pairs.values()):
            gains = [_points(pair.gain) if pair else "-" for pair in pairs.values()]
            rows.append([f"here, {base}, {_percent(share)} spoiled: cada-sigma less cada", *gains])
    if not rows:
        return ""
    paper = _paper_rows()
    printed = {
        label: [f"{_paper_figure(row, metric):.1f}" for metric in HEADINGS] for label, row in paper.items()
    }
    gains = [
        _points(_paper_figure(paper["cada-sigma"], metric) - _paper_figure(paper["cada"], metric))
        for metric in HEADINGS
    ]
    title = f"paper, Table {_PAPER_TABLE}, {load_datasets()[_PAPER_DATASET].title}"
    body = [
        *([f"{title}: RevDist, {label}", *figures] for label, figures in printed.items()),
        [f"{title}: cada-sigma less cada", *gains],
        *rows,
    ]
    lines = ["| mixed | " + " | ".join(HEADINGS.values()) + " |", "|---|" + "---|" * len(HEADINGS)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in body)])


def describe_noise(cells: Sequence[Cell]) -> list[str]:
    """Say, for each base and metric, at which share of spoiled images cada-sigma overtakes cada.

    Means over the seeds decide; how far the seeds' ranges lie apart is said beside them.

    Args:
        cells: Of the study 'noise'.

    Returns:
        Sentences; none where no share has both.
    """
    sentences = []
    for base in dict.fromkeys(cell.base for cell in cells):
        for metric, heading in HEADINGS.items():
            pairs = {
                share: pair
                for name, share in _places(cells)
                if name == base and (pair := _pair(cells, base, share, metric, "cada", "cada-sigma"))
            }
            if pairs:
                sentences.append(f"{base}, mixed {heading}: {_overtaking(dict(sorted(pairs.items())))}.")
    return sentences


def _overtaking(pairs: dict[float, _Pair]) -> str:
    """Say where cada-sigma's mean is above cada's, and where the ranges have no seed in common.

    Args:
        pairs: Share -> cada and cada-sigma, shares rising.
    """
    least, most = min(pairs), max(pairs)
    ahead = [share for share, pair in pairs.items() if pair.gain > 0]
    if not ahead:
        found = (
            f"cada-sigma overtakes cada at no share up to {_percent(most)}; there {pairs[most].describe()}"
        )
    else:
        first = ahead[0]
        verb = "is ahead of cada already" if first == least else "overtakes cada"
        found = f"cada-sigma {verb} at {_percent(first)}: {pairs[first].describe()}"
        again = [share for share in pairs if share > first and share not in ahead]
        found += f"; it is not ahead at {_listed(again)}" if again else ""
    apart = {
        who: [share for share, pair in pairs.items() if pair.separate and (pair.gain > 0) == above]
        for who, above in (("cada-sigma", True), ("cada", False))
    }
    parts = [f"at {_listed(shares)} with {who} above" for who, shares in apart.items() if shares]
    ranges = f"the ranges separate {' and '.join(parts)}" if parts else "the ranges overlap at every share"
    return f"{found}; {ranges}"


def describe_kernels(cells: Sequence[Cell]) -> list[str]:
    """Say, for each base, whether the 3x3 regressor wins by more than `KERNEL_MARGIN` of mixed I-AUROC.

    Args:
        cells: Of the study 'kernel'.

    Returns:
        Sentences; none where no base has both.
    """
    sentences = []
    for base, share in _places(cells):
        pair = _pair(cells, base, share, "i_auroc", "1x1", "3x3")
        if pair is None:
            continue
        verdict = (
            f"more than {KERNEL_MARGIN}, so 3x3 becomes the default"
            if pair.gain > KERNEL_MARGIN
            else f"not more than {KERNEL_MARGIN}, so 1x1 stays the default"
        )
        ranges = "the ranges separate" if pair.separate else "the ranges overlap"
        sentences.append(
            f"{base}, mixed I-AUROC: 3x3 less 1x1 is {pair.gain:+.2f} points, {verdict}; 3x3 has "
            f"{pair.describe()}; {ranges}."
        )
    return sentences


def _places(cells: Sequence[Cell]) -> list[tuple[str, float]]:
    return list(dict.fromkeys((cell.base, cell.share) for cell in cells))


def _pair(
    cells: Sequence[Cell], base: str, share: float, metric: str, first: str, second: str
) -> _Pair | None:
    """Return one mixed metric of two variants on the seeds that have both; None without any."""
    found: dict[str, dict[int, float]] = {first: {}, second: {}}
    for cell in cells:
        value = cell.mixed[metric]
        if (cell.base, cell.share) == (base, share) and cell.label in found and value is not None:
            found[cell.label][cell.seed] = value
    seeds = sorted(found[first].keys() & found[second].keys())
    if not seeds:
        return None
    return _Pair(tuple(found[first][seed] for seed in seeds), tuple(found[second][seed] for seed in seeds))


def _paper_rows() -> dict[str, PaperRow]:
    """Return the paper's rows on noisy BTAD by their alignment."""
    rows = load_tables()[_PAPER_TABLE].rows
    return {row.method.alignment: row for row in rows if row.method is not None}


def _paper_figure(row: PaperRow, metric: str) -> float:
    return row.figures[_PAPER_DATASET]["mixed"][metric]


def _points(value: float) -> str:
    """Return a difference with its sign; what rounds to nothing has a plus."""
    return f"{round(value, 1) + 0.0:+.1f}"


def _with_range(values: Sequence[float]) -> str:
    return f"{_mean(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _listed(shares: Sequence[float]) -> str:
    return " and ".join(map(_percent, shares))
