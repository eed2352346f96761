"""The report's page: one self-contained HTML file for screen, phone and paper, in light and dark."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["definitions", "document", "escape", "figure", "image_source", "paragraph", "section", "table"]

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c2128; --soft: #59636e; --line: #d5d9de;
  --band: #f4f5f7; --bar: #f6d9c9; --found: #cfe0f3; --bad: #b03a06; --normal: #2468b4; --defect: #d9541e; }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #dfe3e8; --soft: #98a2ad;
  --line: #343a42; --band: #1b1f24; --bar: #55301a; --found: #1d3d60; --bad: #ff9455; --normal: #6cb0f5;
  --defect: #ff9455; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 66rem; background: var(--paper);
  color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  -webkit-text-size-adjust: 100%; }
h1 { font-size: 1rem; font-weight: 600; color: var(--soft); margin: 0 0 .75rem; }
h2 { font-size: 1.2rem; font-weight: 650; line-height: 1.3; margin: 3rem 0 .5rem; }
h3 { font-size: 1rem; font-weight: 600; margin: 0 0 .35rem; }
p, ul { max-width: 46rem; margin: .5rem 0; }
ul { padding-left: 1.2rem; }
.lead { font-size: 1.35rem; line-height: 1.4; font-weight: 500; max-width: 50rem; margin: 0 0 1rem; }
.small, figcaption, caption { font-size: .85rem; line-height: 1.45; color: var(--soft); }
.protocol { font-size: .8rem; line-height: 1.45; color: var(--soft); max-width: none; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr));
  gap: 1.5rem 2.5rem; align-items: start; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .4rem; }
th, td { padding: .28rem .5rem; text-align: right; border-bottom: 1px solid var(--line); font-weight: 400; }
th:first-child, td:first-child { text-align: left; padding-left: 0; overflow-wrap: anywhere; }
thead th { color: var(--soft); font-size: .85rem; white-space: nowrap; vertical-align: bottom; }
tbody tr.group th { padding-top: 1rem; font-size: .85rem; color: var(--soft); }
tr.total > *, tr.sum > * { font-weight: 600; }
td.bar { background: linear-gradient(to right, var(--bar) var(--share), transparent var(--share)); }
td.bar.found { background: linear-gradient(to right, var(--found) var(--share), transparent var(--share)); }
table.examples { table-layout: fixed; }
table.examples th, table.examples td { padding: .1rem .15rem .3rem; text-align: left; border: 0;
  overflow-wrap: anywhere; white-space: normal; }
table.examples td.strip { padding: .3rem 0 0; line-height: 0; }
table.examples td { font-size: .8rem; line-height: 1.3; vertical-align: top; }
table.examples tr { break-inside: avoid; }
table.examples tr.strip { break-after: avoid; }
.strip img, figure img { display: block; width: 100%; height: auto; }
.bad { color: var(--bad); font-weight: 600; }
figure { margin: 0; }
.key { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .3em; }
.key.good { background: var(--normal); } .key.defect { background: var(--defect); }
table.verdicts { table-layout: fixed; }
table.verdicts th:first-child { width: 34%; }
table.verdicts thead th { white-space: normal; }
.narrow { max-width: 31rem; }
.ramp { display: inline-block; width: 8rem; height: .7em; border-radius: 2px; margin: 0 .4em; }
dl { display: grid; grid-template-columns: minmax(7rem, auto) 1fr; gap: .15rem 1rem; margin: .5rem 0;
  font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media screen and (max-width: 40rem) { .lead { font-size: 1.15rem; } body { padding-top: 1.5rem; }
  th, td { padding-left: .3rem; padding-right: .3rem; font-size: .9rem; } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; }
  h2 { break-after: avoid; margin-top: 1.5rem; }
  h3, thead { break-after: avoid; } figure, tr { break-inside: avoid; } .scroll { overflow: visible; }
  table.examples td, table.examples th { font-size: 7.5pt; }
  .columns { grid-template-columns: 1fr 1fr; gap: 1rem; }
  td.bar, .key, .ramp { -webkit-print-color-adjust: exact; print-color-adjust: exact; } }
"""


def document(title: str, body: Iterable[str], *, style: str = "") -> str:
    """Return the whole page.

    Args:
        title: Of the browser's tab, not escaped yet.
        body: HTML of the sections.
        style: More rules for the style sheet.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def escape(value: object) -> str:
    """Return a value's text with HTML's own characters escaped, quotes included."""
    return html.escape(str(value), quote=True)


def section(heading: str, *parts: str) -> str:
    """Return a section of HTML parts under a heading that is not escaped yet."""
    return (
        f"<section>\n<h2>{escape(heading)}</h2>\n"
        + "\n".join(part for part in parts if part)
        + "\n</section>"
    )


def paragraph(text: str, *, style: str = "") -> str:
    """Return text that is not escaped yet as a paragraph, in a class of the style sheet."""
    return f'<p class="{style}">{escape(text)}</p>' if style else f"<p>{escape(text)}</p>"


def table(heads: Sequence[str], rows: Iterable[str], *, caption: str = "", style: str = "") -> str:
    """Return a table that scrolls sideways where it does not fit.

    Args:
        heads: Of the columns, not escaped yet.
        rows: HTML of whole rows.
        caption: Above it, not escaped yet.
        style: Class of the style sheet.
    """
    cells = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    named = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table class="{style}">{named}<thead><tr>{cells}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + "\n</tbody></table></div>"
    )


def image_source(png: bytes) -> str:
    """Return an image as an address that carries it whole."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def figure(light: bytes, dark: bytes, *, alternative: str, caption: str = "") -> str:
    """Return a PNG figure in two appearances; paper always gets the light one.

    Args:
        light: PNG on a light ground.
        dark: The same on a dark ground.
        alternative: What it shows, in words, not escaped yet.
        caption: HTML below it.
    """
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return (
        '<figure><picture><source media="screen and (prefers-color-scheme: dark)" '
        f'srcset="{image_source(dark)}">'
        f'<img src="{image_source(light)}" alt="{escape(alternative)}"></picture>{below}</figure>'
    )


def definitions(values: Mapping[str, Any]) -> str:
    """Return names and values as a list, nested ones on one line, None as a dash."""
    items = "".join(
        f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(_plain(value))}</dd>"
        for name, value in values.items()
    )
    return f"<dl>{items}</dl>"


def _plain(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items()) or "–"
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(item) for item in value) or "–"
    return str(value)
