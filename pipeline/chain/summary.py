"""The readable end of a run, and the min-max table of budgets."""

from pathlib import Path

from pipeline.config.files import read_json


def summarise(folder: Path, row: dict) -> str:
    """Accuracies, cost, the table of units, what was left whole and why, and where everything lies."""
    stages = folder.parent / "stages"
    done = stages / f"search-{row['stages']['search']}" / "done.json"
    search = read_json(done)["facts"] if done.exists() else {"explained_share": {}, "left": {}}  # stages may be cleaned away
    units = read_json(folder / "arch.json")["units"]
    lines = [
        f"{row['model']} on {row['dataset']}, pruned by {_pruner(row)}",
        f"budget {row['budget_kind']} {row['budget_target']:g}" + (f" (note: {row['note']})" if row["note"] else ""),
        "",
        *_accuracies(row),
        "",
        f"{'':<22}{'dense':>14}{'pruned':>14}{'share':>9}",
        *(_cost(label, row[f"{key}_dense"], row[key]) for label, key in (("MACs", "macs"), ("MACs with BN", "macs_bn"), ("parameters", "params"))),
        *(_latency(entry) for entry in row["latency"] or []),
        "",
        f"{'unit':<26}{'neurons':>9}{'kept':>7}{'share':>8}{'f(S)/f(all)':>13}",
        *(_unit(name, unit, search["explained_share"].get(name)) for name, unit in units.items()),
    ]
    if raw := search.get("raw_widths"):
        lines += ["widths before rounding: " + ", ".join(f"{name} {kept}" for name, kept in raw.items())]
    if any(share is not None for share in search["explained_share"].values()):
        lines += ["guarantee: no set of that size explains more than 1 / (f(S)/f(all)) times what this one does (of the re-fit's quadratic)"]
    lines += ["", "left whole:", *(f"  {name}: {reason}" for name, reason in search["left"].items())]
    lines += ["", f"selection {row['select_seconds']:.1f} s on {row['select_images']} images; training {row['train_seconds']:.1f} s"]
    places = {"network": "model.safetensors, arch.json", "result": "result.json", "log": "log.txt, metrics.jsonl"}
    lines += [f"{label:<9}{folder}/{{{names}}}" for label, names in places.items()]
    lines += [f"{'journal':<9}{stages}/search-{row['stages']['search']}/journal.jsonl"]
    return "\n".join(lines)


def _accuracies(row) -> list[str]:
    rows = [("dense", row["top1_dense"]), ("selected, untrained", row["top1_selected"]), ("  with BN re-estimated", row["top1_recalibrated"])]
    if row["arm"] != "none":
        rows.append((f"{row['arm']}, {row['epochs']} epoch(s)", row["top1"]))
    return [f"{'test top-1 (%)':<28}", *(f"  {label:<26}{'not run' if value is None else f'{value:6.2f}'}" for label, value in rows)]


def _cost(label, dense, pruned) -> str:
    return f"{label:<22}{dense:>14,}{pruned:>14,}{pruned / dense:>9.1%}"


def _latency(entry) -> str:
    label = f"ms, batch {entry['batch']}, {entry['threads']} thread"
    return f"{label:<22}{entry['ms_dense']:>14.3f}{entry['ms']:>14.3f}{entry['ms'] / entry['ms_dense']:>9.1%}"


def _unit(name, unit, share) -> str:
    kept, width = len(unit["kept"]), unit["width"]
    return f"{name:<26}{width:>9}{kept:>7}{kept / width:>8.1%}{'' if share is None else f'{share:.4f}':>13}"


def budget_table(rows) -> str:
    """The min-max table of budgets."""
    head = f"{'budget':<16}{'smallest':>14}{'largest':>14}{'smallest share':>16}"
    return "\n".join([head, *(f"{kind:<16}{_amount(low):>14}{_amount(high):>14}{share:>16.2%}" for kind, low, high, share in rows)])


def _amount(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def summarise_group(folder: Path, group: dict) -> str:
    """A line per run of a group, then where the report lies."""
    head = f"{'run':<28}{'pruner':<52}{'budget':>22}  {'arm':<14}{'untrained':>10}{'top-1':>8}{'MACs':>14}"
    lines = [head, *(_row(folder.parent / run["run"], run) for run in group["runs"]), ""]
    return "\n".join([*lines, f"{'report':<9}{folder}/report/{{report.html, report.md, results.csv}}"])


def _pruner(row: dict) -> str:
    if row.get("as_shipped"):
        return f"{row['selector']}, as shipped"
    words = [str(row[name]) for name in ("selector", "engine", "mode", "refit", "allocation") if row[name]]
    return ", ".join([*words, "second pass"] if row.get("second_pass") else words)


def _row(run: Path, entry: dict) -> str:
    if entry["state"] != "done":
        return f"{entry['run']:<28}{entry['state']}{': ' + entry['error'] if entry['error'] else ''}"
    row = read_json(run / "result.json")
    budget = f"{row['budget_kind']} {row['budget_target']:g}"
    return f"{entry['run']:<28}{_pruner(row):<52}{budget:>22}  {row['arm']:<14}{row['top1_selected']:>10.2f}{row['top1']:>8.2f}{row['macs']:>14,}"
