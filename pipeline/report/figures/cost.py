"""Latency of the dense and the pruned network, and what search and training cost."""

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from pipeline.report import canvas
from pipeline.report.escape import printable
from pipeline.report.figures import Figure
from pipeline.report.spread import spread_of
from pipeline.report.table import Section, independent
from pipeline.report.variants import amount

MEASURED = ("device", "batch", "dtype", "channels_last", "compile", "threads")


def draw_latency(section: Section, name: str) -> Figure:
    """A panel per way of measuring: hollow dense, filled pruned."""
    title = "Latency"
    panels: dict[tuple, list] = {}
    for table in section.tables:
        for row in table.rows:
            for how, (dense, pruned) in latencies(row.runs).items():
                number = list(section.pruners).index(row.pruner)
                panels.setdefault(how, []).append((canvas.two_lines(section.pruners[row.pruner], table.name), number, dense, pruned))
    if not panels:
        reasons = sorted({run.row["not_run"].get("latency", "no run measured it") for run in section.runs})
        return Figure(name, title, f"Missing: {'; '.join(reasons)}.")
    longest = max(map(len, panels.values()))

    def paint(figure, axes):
        for axis, (how, lines) in zip(axes, panels.items()):
            for place, (_, number, dense, pruned) in enumerate(lines):
                axis.plot([dense.mean, pruned.mean], [place, place], color=canvas.LIGHT["grid"], linewidth=3, zorder=1)
                style = {"color": canvas.colour(number), "marker": "o", "markersize": 7, "zorder": 2}
                for spread, face in ((dense, canvas.LIGHT["surface"]), (pruned, canvas.colour(number))):
                    axis.errorbar(spread.mean, place, xerr=spread.deviation, markerfacecolor=face, **style)
            axis.set_yticks(range(len(lines)), [label for label, *_ in lines])
            axis.set_ylim(longest - 0.4, -0.6)
            axis.set_xlim(left=0)
            axis.set_title(printable(describe(how)))
            axis.set_xlabel("ms per batch, median")

    caption = "Hollow: the dense network, measured beside the pruned one (filled). Bars: sample standard deviation over searches."
    height = (0.9 + 0.42 * longest) * len(panels)
    return Figure(name, title, caption, canvas.draw(paint, len(panels), 1, height, name, title))


def latencies(runs) -> dict[tuple, tuple]:
    """{how it was measured: (dense, pruned) spread in ms}, once per shrunk network."""
    found: dict[tuple, list] = {}
    for run in independent(runs, "untrained", "shrink"):
        for entry in run.row["latency"] or []:
            how = tuple(str(entry.get(name)) for name in MEASURED)
            found.setdefault(how, []).append((entry["ms_dense"], entry["ms"]))
    return {how: tuple(map(spread_of, zip(*values))) for how, values in found.items()}


def describe(how: tuple) -> str:
    device, batch, dtype, channels_last, compiled, threads = how
    words = [device, f"batch {batch}", dtype, f"{threads} thread{'' if threads == '1' else 's'}"]
    return ", ".join(words + ["channels last"] * (channels_last == "True") + ["compiled"] * (compiled == "True"))


def draw_cost(section: Section, name: str) -> Figure:
    """Seconds and MACs of the search and of each arm."""
    title = "Cost of search and training"
    lines = []
    for table in section.tables:
        for row in table.rows:
            if row.runs:
                spent = {"search": [row.cell(f"select_{what}", "search") for what in ("seconds", "macs")]}
                for arm, label in section.arms.items():
                    spent[label] = [row.only(arm).cell(f"train_{what}", "train") for what in ("seconds", "macs")]
                lines.append((canvas.two_lines(section.pruners[row.pruner], table.name), spent))
    parts = ["search", *section.arms.values()]

    def paint(figure, axes):
        for axis, which, unit in zip(axes, (0, 1), ("seconds", "MACs")):
            shown = []
            for number, part in enumerate(parts):
                spreads = [(place, cells[part][which].spread) for place, (_, cells) in enumerate(lines)]
                known = [(spread.mean, place) for place, spread in spreads if spread and spread.mean > 0]
                shown += [mean for mean, _ in known]
                if known:
                    axis.plot(*zip(*known), linestyle="", color=canvas.colour(number), marker=canvas.marker(number), markersize=7)
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
            if shown:  # wide enough for two labels at least
                axis.set_xlim(min(shown) / 2, max(shown) * 2)
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set_title(unit)
            axis.set_ylim(len(lines) - 0.4, -0.6)
        axes[0].set_yticks(range(len(lines)), [label for label, _ in lines])
        canvas.legend(figure, [printable(part) for part in parts])

    caption = "Mean per run, logarithmic; what cost nothing has no point. MACs count a forward pass once, forward and backward three times."
    height = 1.2 + 0.42 * len(lines)
    return Figure(name, title, caption, canvas.draw(paint, 1, 2, height, name, title, sharey=True))
