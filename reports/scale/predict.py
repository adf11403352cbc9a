"""How long a full search of ImageNet takes on 1 to 1,024 GPUs, from measured costs of blocks, answers and choices.

Measured: costs.json (measure.py), coordinator.json and data.json (`gfs bench coordinator|data --json`); scaling.json (`gfs bench scaling
--json`), where it lies there, is shown beside them. Assumed, since neither a GPU nor a
second machine was at hand: assumed.json. usage: predict.py [--gpu-in-cores N]   prints the tables, and with no option writes them
into README.md beside this file.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
BEGIN, END = "<!-- tables made by predict.py -->\n", "<!-- end of tables -->\n"
COLUMNS = ("search", "GPUs", "minutes, default block", "minutes, best block", "best block", "blocks", "GPUs at work", "longest part, minutes")
COLUMNS += ("coordinator at work", "sent / received per step or unit", "answers waiting", "held by a GPU's worker")
MINUTE, GB, MB = 60.0, 1e9, 1e6
SIZES = ((GB, "GB"), (MB, "MB"), (1e3, "kB"), (1.0, "bytes"))


@dataclass(frozen=True)
class Machine:
    """Seconds and bytes per second of one coordinator and one worker; `core` = seconds of a GPU for a second of a core."""

    core: float
    image: float  # reading and decoding one image, on one core of the worker's own
    answers: dict[int, float]  # a small answer, from question to sum, by the number of workers
    commit: float
    unit_commit: float
    add: float  # bytes of Gram answers added per second
    link: float  # bytes per second into the coordinator's node
    question: float  # bytes


@dataclass(frozen=True)
class Search:
    """What a whole search takes: minutes, and which share of them the parts have (they overlap); the largest figures on the way."""

    minutes: float
    block: int  # its size: candidates or images
    blocks: int  # of one asking, at most
    busy: int  # workers that have something to do, at most
    parts: dict[str, float]  # minutes
    traffic: float  # bytes into the coordinator, per step or unit at most
    waiting: float  # bytes of answers that wait for their turn, at most
    held: float  # bytes of activations that a worker holds, at most

    @property
    def load(self) -> float:
        """Share of the time in which the coordinator itself is at work."""
        return sum(self.parts.get(name, 0.0) for name in ("answers", "adding", "choosing", "commits")) / self.minutes


def load(name: str):
    return json.loads((HERE / name).read_text())


def machine(rows: list[dict], data: list[dict], assumed: dict) -> Machine:
    found = {row["name"]: row for row in rows + data}
    rate, gram = found["answers_per_second"], found["gram_answers_per_second"]["detail"]["mb_170"]
    own, given = rate["detail"]["exhaustive"], rate["detail"]["given_out_per_second"]
    calls = rate["detail"]["ray_calls_per_second"]
    answers = {w: 1 / own["answers_per_second"] + 1 / given[str(w)] + 1 / calls for w in assumed["workers"]}
    image = 1 / found["scoring_stream"]["ours"]
    add = gram["answers_per_second"] * gram["bytes"]
    commit = own["commit_ms"] / 1000
    return Machine(1 / assumed["gpu_in_cores"], image, answers, commit, own["unit_commit_ms"] / 1000, add, assumed["link_bytes_per_second"], own["largest_question_bytes"])


def kept(unit: dict, assumed: dict) -> int:
    return max(1, math.ceil(assumed["kept_share"] * unit["width"]))


def loss(network: dict, m: Machine, workers: int, assumed: dict, sampled: int | None, block: int) -> Search:
    """One pick for each neuron that is kept, the fewest there can be; every worker reads the step's batch and what lies before the unit."""
    batch, parts, minutes, largest, most = assumed["step_batch"], dict.fromkeys(("reading", "prefix", "candidates", "answers", "commits"), 0.0), 0.0, 0, 0
    for unit in network["units"].values():
        tried, steps = min(unit["width"], sampled or unit["width"]), kept(unit, assumed)
        blocks = math.ceil(tried / block)
        turns = math.ceil(blocks / workers)
        one = {
            "reading": batch * m.image,
            "prefix": batch * unit["prefix_seconds_per_image"] * m.core,
            "candidates": min(turns * block, tried) * batch * unit["candidate_seconds_per_image"] * m.core,
            "answers": blocks * m.answers[workers],
            "commits": m.commit,
        }
        minutes += steps * (max(one["reading"] + one["prefix"] + one["candidates"], one["answers"]) + one["commits"]) / MINUTE
        parts = {name: value + steps * one[name] / MINUTE for name, value in parts.items()}
        largest, most = max(largest, blocks), max(most, 8 * tried)
    return Search(minutes, block, largest, min(workers, largest), parts, most, min(2 * workers, largest) * 8 * block, 0.0)


def sequential(network: dict, m: Machine, workers: int, assumed: dict, block: int) -> Search:
    """A walk from unit to unit; images are read once, activations held by the workers."""
    images, units = assumed["calibration_images"], network["units"].values()
    blocks = math.ceil(images / block)
    share = min(images, math.ceil(blocks / workers) * block)  # images of the worker with most blocks
    parts = dict.fromkeys(("reading", "walking", "adding", "choosing", "commits"), 0.0)
    parts["reading"] = share * m.image / MINUTE
    minutes, most, held = parts["reading"], 0.0, 0.0
    for unit in units:
        size = 8 * unit["columns"] * (unit["columns"] + unit["outputs"])
        walking, adding = share * unit["walk_seconds_per_image"] * m.core, blocks * size * max(1 / m.add, 1 / m.link)
        minutes += (max(walking, adding) + unit["choose_seconds"] + m.unit_commit) / MINUTE
        one = {"reading": 0.0, "walking": walking, "adding": adding, "choosing": unit["choose_seconds"], "commits": m.unit_commit}
        parts = {name: value + one[name] / MINUTE for name, value in parts.items()}
        most, held = max(most, size), max(held, share * unit["held_bytes_per_image"])
    return Search(minutes, block, blocks, min(workers, blocks), parts, blocks * most, min(2 * workers, blocks) * most, held)


def independent(network: dict, m: Machine, workers: int, assumed: dict, block: int) -> Search:
    """One pass for all units; then every order, one after the other, in the coordinator."""
    images, size = assumed["calibration_images"], network["gram_dense_answer_bytes"]
    blocks = math.ceil(images / block)
    share = min(images, math.ceil(blocks / workers) * block)
    seconds = {
        "reading": share * m.image,
        "walking": share * network["gram_dense_seconds_per_image"] * m.core,
        "adding": blocks * size * max(1 / m.add, 1 / m.link),
        "choosing": sum(unit["choose_seconds"] for unit in network["units"].values()),
        "commits": len(network["units"]) * m.unit_commit,
    }
    total = max(seconds["reading"] + seconds["walking"], seconds["adding"]) + seconds["choosing"] + seconds["commits"]
    parts = {name: value / MINUTE for name, value in seconds.items()}
    return Search(total / MINUTE, block, blocks, min(workers, blocks), parts, blocks * size, min(2 * workers, blocks) * size, 0.0)


def searches(assumed: dict) -> dict:
    """{name: (function of (network, machine, workers, block), block sizes that may be set)}."""
    few = assumed["sampled_candidates"]
    return {
        "loss, all candidates": (lambda n, m, w, b: loss(n, m, w, assumed, None, b), assumed["block_candidates"]),
        f"loss, {few} candidates": (lambda n, m, w, b: loss(n, m, w, assumed, few, b), assumed["block_candidates"]),
        "reconstruction, sequential": (lambda n, m, w, b: sequential(n, m, w, assumed, b), assumed["block_samples"]),
        "reconstruction, independent": (lambda n, m, w, b: independent(n, m, w, assumed, b), assumed["block_samples"]),
    }


def tables(assumed: dict) -> str:
    costs, m = load("costs.json"), machine(load("coordinator.json"), load("data.json"), assumed)
    found = [measured_table(costs, m)]
    if (HERE / "scaling.json").exists():
        reached = ", ".join(f"{row['name']} {row['ratio']:.2f}" for row in load("scaling.json"))
        found.append(f"Two Ray workers on one machine, as a share of the speed of two bare processes that do the halves: {reached}.")
    for name, network in costs["networks"].items():
        rows = [row for what, given in searches(assumed).items() for row in _rows(what, *given, network, m, assumed)]
        head = "| " + " | ".join(COLUMNS) + " |"
        found.append("\n".join([f"**{name}**, predicted\n", head, "|" + "---|" * len(COLUMNS), *rows]))
    return "\n\n".join(found) + "\n"


def measured_table(costs: dict, m: Machine) -> str:
    lines = ["| measured, one core | " + " | ".join(costs["networks"]) + " |", "|---|" + "---|" * len(costs["networks"])]
    values = {
        "forward pass, ms an image": lambda n: 1000 * n["forward_seconds_per_image"],
        "Gram matrices of all units in one pass, ms an image": lambda n: 1000 * n["gram_dense_seconds_per_image"],
        "the walk, dense and shrunk, ms an image": lambda n: 1000 * _sum(n, "walk_seconds_per_image"),
        "a candidate, ms an image, mean over the units": lambda n: 1000 * _sum(n, "candidate_seconds_per_image") / len(n["units"]),
        "before the unit, ms an image, mean over the units": lambda n: 1000 * _sum(n, "prefix_seconds_per_image") / len(n["units"]),
        "choosing half of every unit and re-fitting, s": lambda n: _sum(n, "choose_seconds"),
        "largest Gram answer of one unit, MB": lambda n: max(8 * u["columns"] * (u["columns"] + u["outputs"]) for u in n["units"].values()) / MB,
        "answer with all units, MB": lambda n: n["gram_dense_answer_bytes"] / MB,
    }
    lines += [f"| {what} | " + " | ".join(f"{value(n):.3g}" for n in costs["networks"].values()) + " |" for what, value in values.items()]
    coordinator = {f"small answer with {w} workers, ms": 1000 * value for w, value in m.answers.items()}
    coordinator |= {"choice, ms": 1000 * m.commit, "committed unit, ms": 1000 * m.unit_commit}
    coordinator |= {"Gram answers added, GB/s": m.add / GB, "image read and decoded, ms": 1000 * m.image}
    return "\n".join(lines) + "\n\nCoordinator and stream: " + "; ".join(f"{what} {value:.3g}" for what, value in coordinator.items()) + "."


def _sum(network: dict, name: str) -> float:
    return sum(unit[name] for unit in network["units"].values())


def _rows(what, function, blocks, network, m, assumed):
    for workers in assumed["workers"]:
        tried = [function(network, m, workers, block) for block in blocks]
        best = min(tried, key=lambda one: one.minutes)
        longest = max(best.parts, key=best.parts.get)
        traffic = f"{_bytes(best.blocks * m.question)} / {_bytes(best.traffic)}"
        cells = [what, workers, f"{tried[0].minutes:.3g}", f"{best.minutes:.3g}", best.block, best.blocks, best.busy]
        cells += [f"{longest} {best.parts[longest]:.3g}", f"{min(best.load, 1):.0%}", traffic, _bytes(best.waiting), _bytes(best.held) if best.held else "-"]
        yield "| " + " | ".join(map(str, cells)) + " |"


def _bytes(value: float) -> str:
    size, name = next((size, name) for size, name in SIZES if value >= size or size == 1.0)
    return f"{value / size:.3g} {name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu-in-cores", type=float, help="how many of the measured cores one GPU is worth; default: assumed.json")
    options, assumed = parser.parse_args(), load("assumed.json")
    assumed |= {"gpu_in_cores": options.gpu_in_cores} if options.gpu_in_cores else {}
    made = tables(assumed)
    if options.gpu_in_cores is None:
        page = (HERE / "README.md").read_text()
        (HERE / "README.md").write_text(page[: page.index(BEGIN)] + BEGIN + "\n" + made + "\n" + page[page.index(END) :])
    print(made)


if __name__ == "__main__":
    main()
