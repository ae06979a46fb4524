"""A report as one HTML page that needs nothing else: no script, no request, and a policy in the page that says so.

The templates escape every value. The pictures are SVG and HTML made here, of a size that a phone can show: a chart
library's (84 MB for the one that was tried, a fifth of a second a chart) shrinks its texts with the picture. Colours
are in `page.css` alone, for light and dark.
"""

import base64
import hashlib
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from prefect_flows.report.facts import Lineage, Node, Report, Sighting, Test

UNKNOWN = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"

# The lineage's boxes, in pixels.
BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y = 162, 40, 44, 16


def to_html(report: Report) -> str:
    """The report as an HTML document."""
    style = files("prefect_flows.report").joinpath("templates/page.css").read_text("utf-8")
    policy = "default-src 'none'; style-src 'sha256-{}'; img-src data:; base-uri 'none'; form-action 'none'"
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            style=Markup(style),  # noqa: S704 - our own file
            policy=policy.format(digest),
            lineage=layout(report.lineage) if report.lineage else None,
            box_width=BOX_WIDTH,
            box_height=BOX_HEIGHT,
            as_number=number,
            as_money=money,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("prefect_flows.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "share": share,
        "money": money,
        "size": size,
        "when": when,
        "change": change,
    }
    return environment


def number(value: float | None) -> str:
    """`1,369,765`, or a dash where it is not known."""
    return UNKNOWN if value is None else f"{value:,}"


def share(value: float | None) -> str:
    """A share as percent, with as many digits as show that it is not nothing."""
    if value is None:
        return UNKNOWN
    if value in (0, 1):
        return f"{value:.0%}"
    return next((text for digits in (1, 2, 3) if float((text := f"{value:.{digits}%}")[:-1])), "<0.001%")


def money(value: float | None) -> str:
    """Dollars: `$1,234`, in millions where they are many."""
    if value is None:
        return UNKNOWN
    sign, value = MINUS if value < 0 else "", abs(value)
    return f"{sign}${value / 1e6:,.2f} m" if value >= 1e6 else f"{sign}${value:,.0f}"


def size(value: int) -> str:
    """Bytes, in the unit that reads best."""
    if value < 1_000:
        return f"{value} bytes"
    return f"{value / 1e6:,.1f} MB" if value >= 1e6 else f"{value / 1e3:,.1f} kB"


def when(value: datetime | None) -> str:
    """A time in UTC."""
    return UNKNOWN if value is None else f"{value:%Y-%m-%d %H:%M:%S} UTC"


def clean(value: Any) -> Any:
    """What a template puts out: text without what only controls a terminal or the direction of text."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in value)


def change(test: Test) -> str:
    """What is different from the run before, in a few words."""
    before: Sighting | None = test.before
    if before is None or test.failing_rows is None:
        return "first result" if before is None else "no result"
    then = f"{before.failing_rows:,} in the run of {before.ran_at:%Y-%m-%d %H:%M}"
    difference = test.failing_rows - before.failing_rows
    if not difference:
        return f"same as {then}"
    return f"{'+' if difference > 0 else MINUS}{abs(difference):,}; {then}"


# --- the picture of the lineage


@dataclass(frozen=True)
class Box:
    """A node at its place, in pixels from the top left."""

    node: Node
    x: int
    y: int


@dataclass(frozen=True)
class Picture:
    """The lineage laid out: boxes, the curves between them as SVG paths, and its size."""

    boxes: list[Box]
    curves: list[str]
    width: int
    height: int


def layout(lineage: Lineage) -> Picture:
    """Place what is made of others to the right of them, each column in an order that keeps the curves apart."""
    parents: dict[str, list[str]] = defaultdict(list)
    nodes = {node.id: node for node in lineage.nodes}
    for parent, child in lineage.edges:
        if parent in nodes and child in nodes:
            parents[child].append(parent)
    depths: dict[str, int] = {}

    def depth(id_: str) -> int:
        if id_ not in depths:
            depths[id_] = 1 + max((depth(parent) for parent in parents[id_]), default=-1)
        return depths[id_]

    columns: dict[int, list[str]] = defaultdict(list)
    for id_ in sorted(nodes):
        columns[depth(id_)].append(id_)
    row: dict[str, float] = {}
    for at in sorted(columns):
        columns[at].sort(key=lambda id_: sum(row[p] for p in parents[id_]) / len(parents[id_]) if parents[id_] else 0)
        row |= {id_: index for index, id_ in enumerate(columns[at])}
    tallest = max((len(ids) for ids in columns.values()), default=0)
    height = tallest * (BOX_HEIGHT + GAP_Y) + GAP_Y
    boxes = {}
    for at, ids in columns.items():
        top = (height - len(ids) * (BOX_HEIGHT + GAP_Y) + GAP_Y) // 2
        for index, id_ in enumerate(ids):
            boxes[id_] = Box(nodes[id_], 8 + at * (BOX_WIDTH + GAP_X), top + index * (BOX_HEIGHT + GAP_Y))
    curves = [_curve(boxes[p], boxes[child]) for child in sorted(nodes) for p in sorted(set(parents[child]))]
    return Picture(list(boxes.values()), curves, 16 + len(columns) * (BOX_WIDTH + GAP_X) - GAP_X, height)


def _curve(start: Box, end: Box) -> str:
    x1, y1, x2, y2 = start.x + BOX_WIDTH, start.y + BOX_HEIGHT // 2, end.x, end.y + BOX_HEIGHT // 2
    bend = GAP_X // 2
    # past a column in between the curve stays level until the last gap
    return f"M{x1} {y1} H{max(x1, x2 - GAP_X)} C{x2 - bend} {y1} {x2 - bend} {y2} {x2} {y2}"
