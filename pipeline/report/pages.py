"""The pages: one context, three templates; each format escapes every name by itself."""

import base64
import hashlib
from dataclasses import dataclass

import jinja2
from markupsafe import Markup

from pipeline.report import canvas, overview
from pipeline.report.comparison import differences, ours_of, role_of
from pipeline.report.escape import fenced, latex, markdown, printable
from pipeline.report.figures import Figure
from pipeline.report.runs import Collection
from pipeline.report.spread import Spread
from pipeline.report.table import Cell, Section
from pipeline.report.variants import amount, arm_of, budget_name, budget_of, count, pruner_of


@dataclass(frozen=True)
class Content:
    """All that a page shows."""

    title: str
    collection: Collection
    sections: list[tuple[Section, list[Figure]]]


def html_page(content: Content) -> str:
    """Self-contained: a policy that allows nothing but its own style and script, by their digests."""
    environment = _environment(autoescape=True, finalize=lambda value: value if isinstance(value, Markup) else printable(str(value)))
    style = f"{_sheet()}{_source('report.css')}"
    script = _source("report.js")
    policy = f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    return environment.get_template("report.html.j2").render(
        _context(content), style=Markup(style), script=Markup(script), policy=policy, inline=lambda figure: Markup(figure.svg)
    )


def markdown_page(content: Content) -> str:
    environment = _environment(finalize=lambda value: value if isinstance(value, Markup) else markdown(value))
    return environment.get_template("report.md.j2").render(_context(content), fenced=lambda lines: Markup(fenced("\n".join(lines))))


def latex_tables(content: Content) -> str:
    environment = _environment(finalize=lambda value: value if isinstance(value, Markup) else latex(value))
    return environment.get_template("tables.tex.j2").render(_context(content))


def _environment(**options) -> jinja2.Environment:
    loader = jinja2.PackageLoader("pipeline.report")
    layout = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    return jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, **layout, **options)


def _context(content: Content) -> dict:
    collection = content.collection
    sections = [section for section, _ in content.sections]
    return {
        "title": content.title, "collection": collection, "sections": content.sections, "several_splits": len({s.split for s in sections}) > 1,
        "gaps": overview.gaps(collection, sections), "commands": overview.commands(collection), "environment": overview.environment(collection.done),
        "spending": overview.spending, "notes": overview.notes, "caution": overview.caution, "number": overview.number, "moments": moments,
        "value": value, "detail": detail, "best": best, "amount": amount, "count": count, "arm_of": arm_of, "pruner_of": pruner_of,
        "budget_of": budget_of, "budget_name": budget_name, "raw": Markup,
        "differences": differences, "ours_of": ours_of, "role_of": role_of, "signed": signed,
    }  # fmt: skip


def moments(section: Section, row) -> list[Cell]:
    """The accuracy cells of a row: untrained, after batch-norm re-estimation, after each arm."""
    return [row.untrained(), row.recalibrated(), *(row.arm(arm) for arm in section.arms)]


def value(cell: Cell) -> str:
    """A cell's mean with its spread, or why there is none."""
    spread = cell.spread
    if spread is None:
        return cell.reason
    return f"{spread.mean:.2f}" + (f" ± {spread.deviation:.2f}" if spread.deviation is not None else "")


def detail(cell: Cell) -> list[str]:
    """How many computations, what is missing beside them, and the interval of their mean."""
    spread = cell.spread
    if spread is None:
        return []
    words = [f"n = {spread.n}" + (f", {cell.holes}" if cell.holes else "")]
    return words + (["{:.2f} to {:.2f}".format(*spread.interval)] if spread.interval else [])


def signed(spread: Spread) -> str:
    """A difference with its sign and, where there are several, its interval."""
    interval = " ({:+.2f} to {:+.2f})".format(*spread.interval) if spread.interval else ""
    return f"{spread.mean:+.2f}{interval}"


def best(section: Section, table, place: int) -> float | None:
    """The highest mean of one column, where there are several to compare."""
    spreads = [moments(section, row)[place].spread for row in table.rows]
    means = [round(spread.mean, 2) for spread in spreads if spread]
    return max(means) if len(means) > 1 and min(means) < max(means) else None


def _sheet() -> str:
    """The colours as variables, light, dark by the reader's scheme, and either by the page's own switch."""
    light, dark = canvas.variables(canvas.LIGHT), canvas.variables(canvas.DARK)
    return (
        f":root{{color-scheme:light;{light}}}"
        f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}"
        f":root[data-theme=dark]{{color-scheme:dark;{dark}}}@media print{{:root:root:root{{color-scheme:light;{light}}}}}{canvas.rules()}\n"
    )


def _source(name: str) -> str:
    return jinja2.PackageLoader("pipeline.report").get_source(jinja2.Environment(), name)[0]


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
