"""Accuracy over MACs by role: ours, peers with our re-fit, peers with their original weights, peers as shipped."""

from matplotlib.lines import Line2D

from pipeline.report import canvas
from pipeline.report.comparison import ROLES, role_of
from pipeline.report.escape import printable
from pipeline.report.figures import Figure
from pipeline.report.figures.accuracy import line_of
from pipeline.report.table import Row, Section
from pipeline.report.variants import value_of

DASHES = {"marginal": "-", "global": (0, (1, 1.5))}  # uniform and as shipped: dashed


def draw_comparison(section: Section, name: str) -> Figure:
    """A row of panels per moment, a panel per role, ours in grey behind the peers."""
    title = "Ours beside the peers"
    roles = {role: [pruner for pruner in section.pruners if role_of(pruner) == role] for role in ROLES}
    roles = {role: pruners for role, pruners in roles.items() if pruners}
    if ROLES[0] not in roles or len(roles) < 2:
        return Figure(name, title, "Missing: it needs a run of ours (reconstruction with a re-fit) and one of a peer.")
    moments = {"untrained": Row.untrained} | {label: (lambda row, arm=arm: row.arm(arm)) for arm, label in section.arms.items()}
    selectors = list(dict.fromkeys(value_of(pruner, "prune.selector") for pruner in section.pruners))
    lines = {moment: {pruner: line_of(section, pruner, cell) for pruner in section.pruners} for moment, cell in moments.items()}

    def paint(figure, axes):
        for place, (moment, role) in enumerate((moment, role) for moment in moments for role in roles):
            axis = axes[place]
            axis.axhline(section.dense["top1_dense"], color=canvas.LIGHT["muted"], linestyle=(0, (4, 3)), linewidth=1)
            behind = [] if role == ROLES[0] else roles[ROLES[0]]
            for pruner in (*behind, *roles[role]):
                number = selectors.index(value_of(pruner, "prune.selector"))
                dashes = DASHES.get(value_of(pruner, "prune.allocation"), (0, (4, 2)))
                if points := lines[moment][pruner]:
                    x, y, spread = zip(*points)
                    if pruner in behind:
                        axis.plot(x, y, color=canvas.LIGHT["muted"], linestyle=dashes, linewidth=1, zorder=1)
                        continue
                    style = {"color": canvas.colour(number), "marker": canvas.marker(number), "linestyle": dashes, "zorder": 2}
                    axis.errorbar(x, y, yerr=[value or 0 for value in spread] if any(spread) else None, **style)
            if place < len(roles):
                axis.set_title(role)
            if place % len(roles) == 0:
                axis.set_ylabel(f"{printable(moment)}: test top-1, %")
            if place >= len(roles) * (len(moments) - 1):
                axis.set_xlabel("MACs, % of dense")
        handles = [Line2D([], [], color=canvas.colour(n), marker=canvas.marker(n)) for n in range(len(selectors))]
        figure.legend(handles, [printable(str(selector)) for selector in selectors], loc="outside upper left", ncols=min(6, len(selectors)))

    caption = "Solid: widths by measured curves; dotted: by the pruner's own scores; dashed: uniform or the library's own. Grey: ours. Means."
    drawn = canvas.draw(paint, len(moments), len(roles), 2.6 * len(moments) + 0.5, name, title, sharex=True, sharey="row")
    return Figure(name, title, caption, drawn)
