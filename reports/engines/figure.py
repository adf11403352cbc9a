"""Draws engines.svg and prints the tables of README.md from units.csv, top1.csv, results.csv and ../first-table/results.csv.

usage: figure.py
"""

import csv
import itertools
import statistics
from pathlib import Path

from pipeline.report.canvas import colour, draw, legend, marker, standalone
from pipeline.report.spread import spread_of

HERE = Path(__file__).parent
NETWORKS = {"mobilenetv2_28": "MobileNetV2", "resnet_28": "ResNet"}
ENGINES, SHARES = ("forward", "backward", "swap", "l1"), (0.5, 0.25, 0.15)
WAYS = [(mode, allocation) for mode in ("sequential", "independent") for allocation in ("marginal", "uniform")]


def rows_of(path: str) -> list[dict]:
    with open(HERE / path, newline="") as file:
        return list(csv.DictReader(file))


def top1s() -> dict:
    """{(network, mode, allocation, share, engine, seed): test top-1}."""
    found = {}
    for row in rows_of("results.csv") + rows_of("../first-table/results.csv"):
        engine = {"reconstruction": row["engine"], "l1": "l1"}.get(row["selector"])
        if engine and row["refit"] == "lsq" and row["arm"] == "none":
            where = (row["model"].split(":")[1], row["mode"], row["allocation"], float(row["budget_target"]), engine, int(row["seed"]))
            found[where] = float(row["top1"])
    for row in rows_of("top1.csv"):
        where = (row["network"], row["mode"], row["allocation"], float(row["share"]), row["engine"], int(row["seed"]))
        found[where] = float(row["top1"])
    return found


def compared(found: dict, network, mode, allocation, share, engine):
    """(top-1 of each seed measured, its difference to forward on the same seed)."""
    seeds = sorted(where[-1] for where in found if where[:-1] == (network, mode, allocation, share, engine))
    values = [found[network, mode, allocation, share, engine, seed] for seed in seeds]
    return values, [round(a - found[network, mode, allocation, share, "forward", seed], 6) for a, seed in zip(values, seeds)]


def error_of(rows, network, share, engine) -> float:
    """Mean error(S) / T' of all units."""
    return statistics.fmean(float(r["error"]) for r in rows if r["engine"] == engine and r["part"] == "whole" and picked(r, network, share))


def above_optimum(rows, network, share, engine) -> list[float]:
    """error(S) / error of the best set, less 1, of every small unit and cut."""
    best = {(r["unit"], r["part"]): float(r["error"]) for r in rows if r["engine"] == "optimum" and picked(r, network, share)}
    mine = [r for r in rows if r["engine"] == engine and picked(r, network, share) and (r["unit"], r["part"]) in best]
    return [float(r["error"]) / best[r["unit"], r["part"]] - 1 for r in mine]


def picked(row, network, share) -> bool:
    return (row["network"], float(row["share"])) == (network, share)


def print_tables(rows, found) -> None:
    for network in NETWORKS:
        for share in SHARES:
            whole = [r for r in rows if picked(r, network, share) and r["part"] == "whole"]
            cells = [f"{network} {share:.0%}"]
            for engine in ENGINES:
                mine = [r for r in whole if r["engine"] == engine]
                seconds = sum(float(r["seconds"]) for r in mine)
                over = above_optimum(rows, network, share, engine)
                hits = sum(value < 1e-9 for value in over)
                cells.append(f"{error_of(rows, network, share, engine):.4f}, {seconds:.2f} s, +{statistics.fmean(over):.2%} {hits}/{len(over)}")
            print(" | ".join(cells))
            bounds = [r for r in rows if picked(r, network, share) and r["engine"] in ENGINES[:3] and r["attained"]]
            for engine in ENGINES[:3]:
                mine = [r for r in bounds if r["engine"] == engine]
                least = min(mine, key=lambda r: float(r["attained"]))
                mean = [statistics.fmean(float(r[key]) for r in mine) for key in ("guarantee", "attained")]
                print(f"    {engine}: promised {mean[0]:.3f}, attained {mean[1]:.4f}; worst attained {float(least['attained']):.4f}")
    for network in NETWORKS:
        for (mode, allocation), share in itertools.product(WAYS, SHARES):
            cells = [f"{network} {mode} {allocation} {share:.0%}"]
            for engine in ENGINES:
                values, apart = compared(found, network, mode, allocation, share, engine)
                if values:
                    interval = "({:.2f} to {:.2f})".format(*spread_of(apart).interval) if len(apart) > 1 else ""
                    cells.append(f"{engine} {statistics.fmean(values):.2f} {statistics.fmean(apart):+.2f} {interval} n={len(values)}")
            print(" | ".join(cells))


def paint(rows, found, figure, axes) -> None:
    """A column a network; rows: error on all units less forward's, error above the optimum's, test top-1 less forward's."""
    for column, (network, name) in enumerate(NETWORKS.items()):
        for number, engine in enumerate(ENGINES[:3]):
            at = [place + (number - 1) * 0.25 for place in range(3)]
            over = [100 * statistics.fmean(above_optimum(rows, network, share, engine)) for share in SHARES]
            axes[column].bar(at, [100 * error_of(rows, network, share, engine) for share in SHARES], width=0.22, color=colour(number))
            axes[2 + column].bar(at, over, width=0.22, color=colour(number))
            for place, share in zip(at, SHARES):
                apart = compared(found, network, "sequential", "marginal", share, engine)[1]
                drawn = {"color": colour(number), "marker": marker(number), "linestyle": "none"}
                axes[4 + column].plot([place] * len(apart), apart, **drawn)
        axes[column].set_title(f"{name}: error(S) / T', mean of all units, in %")
        axes[2 + column].set_title(f"{name}: error above the optimum's, in %")
        axes[4 + column].set_title(f"{name}: test top-1 less forward's, in points")
        for row, left in ((0, "neurons"), (2, "neurons, units and cuts of at most 16"), (4, "prunable MACs, untrained, sequential, marginal")):
            axes[row + column].set_xticks(range(3), [f"{share:.0%}" for share in SHARES])
            axes[row + column].set_xlabel(f"left of the {left}")
    legend(figure, list(ENGINES[:3]))


def main() -> None:
    rows, found = rows_of("units.csv"), top1s()
    print_tables(rows, found)
    title = "Forward, backward and swap: accuracy, and error beside the optimum"
    svg = draw(lambda figure, axes: paint(rows, found, figure, axes), 3, 2, 7.6, "engines", title)
    (HERE / "engines.svg").write_text(standalone(svg))


if __name__ == "__main__":
    main()
