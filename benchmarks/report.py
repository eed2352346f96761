"""Write what a demo run measured as one HTML file, for an engineer who decides whether to try this."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cada_edge.benchmarks.demo_result import DemoResult
from cada_edge.benchmarks.finding import describe_finding, significant
from cada_edge.benchmarks.report_page import definitions, document, escape, paragraph, section
from cada_edge.benchmarks.report_tables import metrics_section, verdicts_section
from cada_edge.errors import MissingExtraError
from cada_edge.files import write_atomic

__all__ = ["write_report"]


def write_report(result: DemoResult) -> Path:
    """Write the report to `result.report`, and its figures as PNG files to `figures/` beside it.

    The HTML file holds everything itself: no script, no font and no image comes from elsewhere.

    Args:
        result: What was measured.

    Returns:
        Path of the HTML file.

    Raises:
        OutputError: The folder or the disk does not take it.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from cada_edge.benchmarks.report_figures import heat_maps_section, latency_section, scores_section
    except ImportError as error:
        if not (error.name or "").startswith("matplotlib"):
            raise
        raise MissingExtraError("The report", "matplotlib", "train") from error
    figures = result.report.parent / "figures"
    body = [
        _summary(result),
        metrics_section(result),
        scores_section(result, figures),
        verdicts_section(result),
        heat_maps_section(result, figures),
        latency_section(result, figures),
        _export_section(result),
        _provenance_section(result),
    ]
    return write_atomic(result.report, document("cada-edge demo report", body).encode())


def _summary(result: DemoResult) -> str:
    main, *others = describe_finding(result)
    kinds = len(set(result.categories))
    seed = f" (seed {result.settings['seed']})" if "seed" in result.settings else ""
    once = f"Every figure here is one number of one run{seed}; how far it moves with the seed is not known."
    notes = "".join(f"<li>{escape(note)}</li>" for note in (once, *result.notes))
    return (
        f"<header>\n<h1>cada-edge demo: one model and one threshold for {kinds} kinds of parts</h1>\n"
        f"{paragraph(main, style='lead')}\n{paragraph(' '.join(others)) if others else ''}\n"
        f'<ul class="small">{notes}</ul>\n</header>'
    )


def _export_section(result: DemoResult) -> str:
    parity = result.parity
    values: dict[str, Any] = {
        "largest score difference": f"{parity.max_score_difference:.1e} (limit {parity.score_limit:.0e})",
        "largest pixel difference": f"{parity.max_map_difference:.1e}",
        "frames compared": parity.images,
        "engine": parity.backend,
        "AUROC drift": parity.auroc_drift_reason
        if parity.auroc_drift is None
        else f"{parity.auroc_drift:.2g} points",
        "threshold in the manifest": significant(result.threshold),
    }
    return section(
        "The exported file against PyTorch",
        paragraph(
            "The one file holds the whole way from frame to aligned score. Its export replayed these frames "
            "through it and through PyTorch; over the limit, there would be no file."
        ),
        definitions(values),
    )


def _provenance_section(result: DemoResult) -> str:
    files = {
        name: _relative(path, result.report.parent)
        for name, path in (
            ("parts", result.line),
            ("checkpoint", result.checkpoint),
            ("model", result.model),
            ("figures", result.report.parent / "figures"),
        )
    }
    seconds = {stage: _duration(value) for stage, value in result.seconds.items()}
    return section(
        "How it was made",
        '<div class="columns">'
        f"<div><h3>Settings</h3>{definitions(result.settings)}</div>"
        f"<div><h3>Wall time</h3>{definitions(seconds)}</div>"
        f"<div><h3>Machine</h3>{definitions(result.machine)}</div>"
        f"<div><h3>Files, from this page's folder</h3>{definitions(files)}</div>"
        "</div>",
    )


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        # On another drive.
        return path.name


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
