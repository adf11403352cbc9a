"""States in words: one line for a run, one for a group, times and shares as people read them."""

from collections import Counter

ORDER = ("running", "failed", "stopped", "done", "pending")


def printable(text: str) -> str:
    """`text` with nothing in it that moves a cursor: what a file holds may come from anywhere."""
    return "".join(char if char.isprintable() or char == "\t" else ascii(char)[1:-1] for char in text)


def duration(seconds: float) -> str:
    """Two parts at most: 12 s, 3 min 20 s, 1 h 05 min, 2 d 3 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def percent(share: float | None) -> str:
    """Rounded down: 100 % is said of what is done only."""
    return "" if share is None else f"{int(100 * share + 1e-9)} %"


def describe(status: dict) -> str:
    """One line for a run or a group."""
    return printable(_of_group(status) if "runs" in status else _of_run(status))


def _of_run(status: dict) -> str:
    parts = [f"{status['run']}: {status['state']}"]
    if status["state"] == "done":
        return ", ".join(parts + accuracies(status))
    parts += [f"{name} {status[name]}" for name in ("stage", "unit", "step") if status[name] is not None]
    if status["stage"] and status["progress"] is not None:
        parts.append(f"{percent(status['progress'])} of it")
    if status["eta_seconds"] is not None:
        parts.append(f"{duration(status['eta_seconds'])} left of it")
    if status["workers"] > 1:
        parts.append(f"{status['workers']} workers")
    return ", ".join(parts + job_of(status)) + (f": {status['error']}" if status.get("error") else "")


def job_of(status: dict) -> list[str]:
    """The cluster job behind it, with where it stands when that was asked."""
    job = status.get("job")
    if not job:
        return []
    standing = f" is {job['state']}" + (f" ({job['reason']})" if job["reason"] else "") if "state" in job else ""
    return [f"{job['launcher']} job {job['id']}{standing}"]


def accuracies(status: dict) -> list[str]:
    """What came out, in percent."""
    named = (("untrained", status.get("top1_untrained")), ("top-1", status.get("top1")))
    return [f"{name} {value:.2f} %" for name, value in named if value is not None]


def _of_group(status: dict) -> str:
    parts = [f"{status['run']}: {status['state']}", counts(status["runs"])]
    if status["state"] != "done" and status["progress"] is not None:
        parts.append(percent(status["progress"]))
    if status["state"] == "running" and status["eta_seconds"] is not None:
        parts.append(f"about {duration(status['eta_seconds'])} left")
    return ", ".join(parts + job_of(status))


def counts(runs: list[dict]) -> str:
    """3 of 18 runs done, 2 running, 13 pending."""
    found = Counter(run["state"] for run in runs)
    others = [f"{found[state]} {state}" for state in ORDER if found[state] and state != "done"]
    return ", ".join([f"{found['done']} of {len(runs)} runs done", *others])


def size(count: int) -> str:
    """Bytes as people read them."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def describe_cleaning(cleaned, dry_run: bool) -> list[str]:
    """What went, or would go, with its size; last the sum."""
    gone = cleaned.stages | cleaned.leftovers
    lines = [f"{'would remove' if dry_run else 'removed'} {path}  {size(held)}" for path, held in gone.items()]
    kinds = [f"{len(found)} {name}" for name, found in (("stages", cleaned.stages), ("leftovers", cleaned.leftovers)) if found]
    what = f"{size(sum(gone.values()))}: {', '.join(kinds)}" if kinds else "nothing: every stage that is there may be needed"
    return [printable(line) for line in (*lines, f"{'would free' if dry_run else 'freed'} {what}")]
