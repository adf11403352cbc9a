"""The objective along the greedy path, from the journals; and the widths that came out, unit by unit."""

import math

from matplotlib.ticker import MaxNLocator

from pipeline.report import canvas
from pipeline.report.escape import printable
from pipeline.report.figures import Figure
from pipeline.report.table import Row, Section, independent
from pipeline.report.variants import value_of

OBJECTIVE = {"loss": "loss on the step's images", "reconstruction": "error, share of the dense output"}
NAMED_UNITS = 40  # more names do not fit below an axis


def draw_paths(section: Section, prefix: str) -> list[Figure]:
    """A figure per pruner that searches: a panel per unit, a line per budget and seed."""
    figures = []
    for number, (pruner, label) in enumerate(section.pruners.items()):
        paths, reasons = _paths(section, pruner)
        title = f"Objective along the greedy path: {label}"
        if paths:
            figures.append(_draw_path(f"{prefix}-path-{number}", title, paths, value_of(pruner, "prune.selector"), reasons))
        elif set(reasons) - {"its selector does not search"}:
            figures.append(Figure(f"{prefix}-path-{number}", title, f"Missing: {'; '.join(sorted(set(reasons)))}."))
    if not figures:
        figures.append(Figure(f"{prefix}-path", "Objective along the greedy path", "Missing: no pruner here searches, so no journal holds a pick."))
    return figures


def _paths(section: Section, pruner) -> tuple[dict, list[str]]:
    """{budget: a journal's picks each}, once per search; and why some are missing."""
    paths, reasons = {}, []
    for table in section.tables:
        for run in independent([run for row in table.rows if row.pruner == pruner for run in row.runs], "search"):
            if isinstance(run.picks, str):
                reasons.append(run.picks)
            else:
                paths.setdefault(table.name, []).append(run.picks)
    return paths, reasons


def _draw_path(name: str, title: str, paths: dict, selector: str, reasons: list[str]) -> Figure:
    units = list(dict.fromkeys(unit for journals in paths.values() for picks in journals for unit in picks))
    columns = min(len(units), 3 if len(units) <= 9 else 5)
    rows = math.ceil(len(units) / columns)

    def paint(figure, axes):
        for axis, unit in zip(axes, units):
            for number, journals in enumerate(paths.values()):
                for picks in journals:
                    scores = picks.get(unit, [])
                    style = {"color": canvas.colour(number), "marker": "o" if len(scores) == 1 else ""}
                    axis.plot(range(1, len(scores) + 1), scores, alpha=0.85, linewidth=1.3, **style)
            axis.set_title(printable(unit), fontsize=8 if columns < 5 else 6.5, fontweight="normal")
            axis.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
            axis.yaxis.set_major_locator(MaxNLocator(4))
            axis.tick_params(labelsize=7)
        for axis in axes[len(units) :]:
            axis.set_visible(False)
        figure.supxlabel("picks", fontsize=9, color=canvas.LIGHT["muted"])
        figure.supylabel(OBJECTIVE.get(selector, "objective"), fontsize=9, color=canvas.LIGHT["muted"])
        canvas.legend(figure, [printable(budget) for budget in paths])

    caption = "The objective after each choice, lower is better; a line per budget and seed."
    if reasons:
        caption += f" Missing: {'; '.join(sorted(set(reasons)))}."
    return Figure(name, title, caption, canvas.draw(paint, rows, columns, 1.1 + 1.5 * rows, name, title))


def draw_widths(section: Section, name: str) -> Figure:
    """A panel per budget, a line per set of widths; pruners with equal widths share theirs."""
    title = "Widths per unit"
    panels = {table.name: found for table in section.tables if (found := _widths(section, table.rows))}
    if not panels:
        return Figure(name, title, "Missing: no run directory holds an arch.json.")
    units = list(dict.fromkeys(unit for lines in panels.values() for shares, _ in lines for unit in shares))

    def paint(figure, axes):
        for axis, (budget, lines) in zip(axes, panels.items()):
            for number, (shares, pruners) in enumerate(lines):
                places = [units.index(unit) for unit in shares]
                axis.plot(places, [100 * share for share in shares.values()], color=canvas.colour(number), marker=canvas.marker(number),
                          label=printable(pruners), linewidth=1.2)  # fmt: skip
            axis.set_ylim(0, 104)
            axis.set_title(printable(budget))
            axis.set_ylabel("kept, %")
            axis.set_xticks([])
            axis.legend(loc="lower left", fontsize=8, ncols=2)
        _name_units(axes[-1], units)

    return Figure(name, title, _widths_caption(units), canvas.draw(paint, len(panels), 1, 1.9 * len(panels) + 1.2, name, title, sharex=True))


def _name_units(axis, units: list[str]) -> None:
    if len(units) <= NAMED_UNITS:
        axis.set_xticks(range(len(units)), [printable(unit) for unit in units], rotation=60 if len(units) > 6 else 0,
                        ha="right" if len(units) > 6 else "center", fontsize=7)  # fmt: skip
    else:
        axis.set_xticks(range(0, len(units), 10), [str(number) for number in range(0, len(units), 10)])


def _widths_caption(units: list[str]) -> str:
    order = "Units in the network's order" if len(units) <= NAMED_UNITS else f"Units 0 to {len(units) - 1} in the network's order, as in arch.json"
    return f"{order}; kept share of each unit's neurons. Pruners that keep equal widths share a line; over seeds the mean."


def _widths(section: Section, rows: list[Row]) -> list[tuple[dict[str, float], str]]:
    """(mean kept share by unit, the pruners that keep it)."""
    lines: dict[tuple, tuple[dict, list[str]]] = {}
    for row in rows:
        found = [run.units for run in independent(row.runs, "shrink") if run.units]
        if found:
            shares = {name: sum(units.get(name, 0.0) for units in found) / len(found) for name in found[0]}
            lines.setdefault(tuple(shares.items()), (shares, []))[1].append(section.pruners[row.pruner])
    everyone = len(lines) == 1 and len(rows) > 1
    return [(shares, "all pruners" if everyone else ", ".join(pruners)) for shares, pruners in lines.values()]
