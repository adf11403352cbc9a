"""Prints the tables of this page from results.csv: means over seeds, and ours over others, paired by seed, with 95 % t-intervals."""

import csv
import statistics
from collections import defaultdict
from pathlib import Path

OURS = "reconstruction, swap, lsq, hidden + stream"
T95 = {2: 12.706, 3: 4.303}  # two-sided, by the number of pairs


def cells() -> dict[tuple, dict[str, dict]]:
    """{(network, budget, epochs, pruner): {seed: row}}; streams were cut wherever nothing was walked from unit to unit."""
    found = defaultdict(dict)
    for row in csv.DictReader((Path(__file__).parent / "results.csv").open()):
        units = "hidden" if row["mode"] == "sequential" else "hidden + stream"
        second = "second pass" if row.get("second_pass") in ("True", "true") else ""
        pruner = ", ".join(word for word in (row["selector"], row["engine"], row["refit"], units, second) if word)
        found[row["model"].rpartition(":")[2], row["budget_target"], row["epochs"], pruner][row["seed"]] = row
    return found


def interval(differences: list[float]) -> str:
    mean = statistics.mean(differences)
    if len(differences) not in T95:
        return f"{mean:+.2f} (n = {len(differences)})"
    half = T95[len(differences)] * statistics.stdev(differences) / len(differences) ** 0.5
    return f"{mean:+.2f} ({mean - half:.2f} to {mean + half:.2f})"


def main() -> None:
    found = cells()
    for key, rows in sorted(found.items()):
        means = [statistics.mean(float(row[name]) for row in rows.values()) for name in ("top1_selected", "top1_recalibrated", "top1")]
        print(*key[:3], f"n = {len(rows)}", "untrained / BN re-estimated / tuned: " + " / ".join(f"{mean:.2f}" for mean in means), key[3], sep="  ")
    print()
    for ours, rows in sorted(found.items()):
        for other, theirs in sorted(found.items()):
            same = sorted(set(rows) & set(theirs))
            if ours[:3] == other[:3] and ours != other and ours[3].startswith(OURS) and same:
                pairs = {name: [float(rows[seed][name]) - float(theirs[seed][name]) for seed in same] for name in ("top1_selected", "top1")}
                words = [f"untrained {interval(pairs['top1_selected'])}", f"tuned {interval(pairs['top1'])}"]
                print(*ours[:3], ours[3], "OVER", other[3], *words, sep="  ")


if __name__ == "__main__":
    main()
