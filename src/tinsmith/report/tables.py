"""HTML tables and the text of their cells. What a run wrote is escaped here."""

from __future__ import annotations

import html
import json
import math
from typing import Any

from tinsmith.report.folder import is_number

_MOST_TEXT = 600  # characters of a cell


def escape(text: Any) -> str:
    """Text that a run wrote, harmless in an element and in an attribute."""
    return html.escape(str(text), quote=True)


def cell(value: Any) -> str:
    """A value as escaped text: numbers to four digits, long texts cut."""
    if isinstance(value, bool) or value is None:
        return "–" if value is None else ("true" if value else "false")
    if is_number(value):
        return number(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return escape(text if len(text) <= _MOST_TEXT else text[:_MOST_TEXT] + " …")


def number(value: float) -> str:
    """``0.8743``, ``12,345``, ``0.0003``, ``3.00e-05``."""
    if isinstance(value, int) or not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if size >= 1e-4 or size == 0 else f"{value:.2e}"


def when(started: Any) -> str:
    """``2026-11-20 20:30:41`` of a time in ISO 8601."""
    return str(started or "")[:19].replace("T", " ")


def details(title: str, body: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{body}</details>" if body else ""


def pairs(values: dict[str, Any]) -> str:
    rows = [[f"<code>{escape(key)}</code>", cell(value)] for key, value in values.items()]
    return grid_table([], rows, "text") if rows else ""


def table(rows: list[dict[str, Any]], kind: str = "") -> str:
    """A table of dicts: the columns in the order in which their names come up."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return grid_table(columns, [[cell(row.get(name, "–")) for name in columns] for row in rows], kind)


def grid_table(heads: list[str], rows: list[list[str]], kind: str) -> str:
    """``rows`` hold HTML; ``heads`` and ``kind`` are text."""
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{item}</td>' for item in row)}</tr>" for row in rows)
    top = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f'<div class="scroll"><table class="{kind}">{top}<tbody>{body}</tbody></table></div>'
