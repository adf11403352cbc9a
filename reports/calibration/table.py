"""What each run of the sweep had and reached, as results.csv beside this file, and the table of README.md.

usage: table.py RUN_DIRECTORY...
"""

import csv
import json
import statistics
import sys
from pathlib import Path

from pipeline.config.load import load_config
from pipeline.report.spread import spread_of

COLUMNS = ["network", "seed", "allocation", "calibration_samples", "positions", "ridge", "top1", "top1_recalibrated", "select_seconds", "run"]
USUAL = (2000, None, 1e-2)


def row_of(folder: Path) -> dict:
    config, result = load_config(str(folder / "config.yaml")), json.loads((folder / "result.json").read_text())
    had = [config.prune.allocation, config.prune.calibration_samples, config.scoring.positions, config.prune.ridge]
    reached = [result["top1"], result["top1_recalibrated"], round(result["select_seconds"], 1), result["run"]]
    return dict(zip(COLUMNS, [config.network.model.split(":")[1], config.seed, *had, *reached]))


def print_table(rows: list[dict]) -> None:
    found = {}
    for row in rows:
        case = tuple(row[key] for key in ("calibration_samples", "positions", "ridge"))
        found.setdefault((row["network"], row["allocation"], case), {})[row["seed"]] = row["top1"]
    for (network, allocation, case), top1 in found.items():
        usual = found[network, allocation, USUAL]
        apart = spread_of(round(value - usual[seed], 6) for seed, value in top1.items())
        interval = "({:.2f} to {:.2f})".format(*apart.interval) if apart.interval else ""
        print(network, allocation, *case, f"{statistics.fmean(top1.values()):.2f} {apart.mean:+.2f} {interval} n={apart.n}")


def main(*folders: str) -> None:
    rows = sorted((row_of(Path(folder)) for folder in folders), key=lambda row: [str(row[key]) for key in COLUMNS])
    with open(Path(__file__).with_name("results.csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    print_table(rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
