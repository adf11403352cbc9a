"""Accuracy over MACs, a line per pruner; and the fine-tune beside the re-init arm of equal epochs."""

import math

from pipeline.report import canvas
from pipeline.report.figures import Figure
from pipeline.report.escape import printable
from pipeline.report.table import Row, Section
from pipeline.report.variants import value_of


def draw_accuracy(section: Section, name: str) -> Figure:
    """A panel per moment: as pruned, after batch-norm re-estimation, after each arm."""
    title = "Accuracy over MACs"
    moments = {"untrained": Row.untrained, "BN re-estimated": Row.recalibrated}
    moments |= {arm_name: (lambda row, arm=arm: row.arm(arm)) for arm, arm_name in section.arms.items()}
    panels = {}
    for moment, cell in moments.items():
        lines = {pruner: line_of(section, pruner, cell) for pruner in section.pruners}
        if any(lines.values()):
            panels[moment] = lines
    rows = math.ceil(len(panels) / 2)

    def paint(figure, axes):
        for axis, (moment, lines) in zip(axes, panels.items()):
            axis.axhline(section.dense["top1_dense"], color=canvas.LIGHT["muted"], linestyle=(0, (4, 3)), linewidth=1)
            for number, points in enumerate(lines.values()):
                if points:
                    x, y, spread = zip(*points)
                    style = {"color": canvas.colour(number), "marker": canvas.marker(number)}
                    axis.errorbar(x, y, yerr=[value or 0 for value in spread] if any(spread) else None, **style)
            axis.set_title(printable(moment))
            axis.set_xlabel("MACs of the whole network, % of dense")
            axis.set_ylabel("test top-1, %")
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        canvas.legend(figure, [printable(label) for label in section.pruners.values()])

    caption = "Each point is the mean over seeds, its bar one sample standard deviation; the dashed line is the dense network."
    height = 2.7 * rows + 0.25 * math.ceil(len(section.pruners) / 4)
    return Figure(name, title, caption, canvas.draw(paint, rows, min(2, len(panels)), height, name, title))


def line_of(section: Section, pruner, cell) -> list[tuple[float, float, float | None]]:
    """(share of MACs, mean, deviation) of each budget, from few MACs to many."""
    points = []
    for table in section.tables:
        for row in table.rows:
            spread = cell(row).spread if row.pruner == pruner else None
            if spread and row.runs:
                points.append((_share(row), spread.mean, spread.deviation))
    return sorted(points)


def _share(row: Row) -> float:
    return 100 * row.cell("macs", "shrink").spread.mean / row.runs[0].row["macs_dense"]


def draw_arms(section: Section, name: str) -> Figure:
    """Fine-tune and re-init joined by a line, where both trained the same epochs."""
    title = "Fine-tune beside re-init"
    pairs = []
    for table in section.tables:
        for number, pruner in enumerate(section.pruners):
            for row in (row for row in table.rows if row.pruner == pruner):
                pairs += [(table, number, section.pruners[pruner], *pair) for pair in _pairs(section, row)]
    if not pairs:
        return Figure(name, title, "Missing: no pruner has both a fine-tune and a re-init arm of equal epochs.")

    def paint(figure, axes):
        (axis,) = axes
        for place, (_, number, _, _, tuned, fresh) in enumerate(pairs):
            colour = canvas.colour(number)
            axis.plot([tuned.mean, fresh.mean], [place, place], color=canvas.LIGHT["grid"], linewidth=3, zorder=1)
            for spread, face in ((tuned, colour), (fresh, canvas.LIGHT["surface"])):
                axis.errorbar(spread.mean, place, xerr=spread.deviation, color=colour, marker="o", markerfacecolor=face, markersize=7, zorder=2)
        axis.set_yticks(range(len(pairs)), [canvas.two_lines(label, f"{table.name}, {epochs}") for table, _, label, epochs, _, _ in pairs])
        axis.set_ylim(len(pairs) - 0.4, -0.6)
        axis.axvline(section.dense["top1_dense"], color=canvas.LIGHT["muted"], linestyle=(0, (4, 3)), linewidth=1)
        axis.set_xlabel("test top-1, %")

    caption = "Filled: fine-tuned from the selected weights. Hollow: the same widths trained from new weights for as many epochs. Dashed: dense."
    return Figure(name, title, caption, canvas.draw(paint, 1, 1, 0.9 + 0.42 * len(pairs), name, title))


def _pairs(section: Section, row: Row):
    """(epochs in words, spread fine-tuned, spread re-initialised) for each number of epochs that has both."""
    arms = [(arm, row.arm(arm).spread) for arm in section.arms]
    for arm, tuned in arms:
        for other, fresh in arms:
            kinds = (value_of(arm, "arm"), value_of(other, "arm"))
            if tuned and fresh and kinds == ("finetune", "reinit-epochs") and _recipe(arm) == _recipe(other):
                yield section.arms[arm].partition(", ")[2], tuned, fresh


def _recipe(arm) -> list:
    return [pair for pair in arm if pair[0] != "arm"]
