"""The plain fields of every finished `untrained` run as CSV, and the means over seeds as a Markdown table.

usage: collect.py RUNS_DIR   writes results.csv beside this file and prints the table
"""

import csv
import json
import statistics
import sys
from pathlib import Path

rows = [json.loads(path.read_text()) for path in sorted(Path(sys.argv[1]).glob("untrained-*/result.json"))]
rows.sort(key=lambda row: (-row["budget_target"], row["selector"], row["refit"], row["seed"]))
plain = [name for name, value in rows[0].items() if not isinstance(value, (dict, list))]
with open(Path(__file__).with_name("results.csv"), "w", newline="") as file:
    writer = csv.DictWriter(file, plain, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)

print("| budget | selector | refit | untrained | BN re-estimated | seeds |\n|---|---|---|---|---|---|")
for budget, selector, refit in sorted({(-r["budget_target"], r["selector"], r["refit"]) for r in rows}):
    cell = [r for r in rows if (-r["budget_target"], r["selector"], r["refit"]) == (budget, selector, refit)]
    shown = []
    for name in ("top1_selected", "top1_recalibrated"):
        values = [r[name] for r in cell]
        shown.append(f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})")
    print(f"| {-budget:.0%} | {selector} | {refit} | {shown[0]} | {shown[1]} | {len(cell)} |")
