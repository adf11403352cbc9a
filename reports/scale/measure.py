"""What a worker and the coordinator pay for each network at 224: seconds of one thread of a CPU core, MACs counted beside them.

Weights and images are random: time does not hang on what they are. CPU seconds of the process, so that other work on the machine
disturbs them little. A walk leaves half of each unit; the steps of the other search are those of the dense network. Every unit is
measured, on few images, few candidates and, of choosing, each shape of unit once.
usage: measure.py [NETWORK...]   writes costs.json beside this file; default: mobilenetv2_100 resnet50
"""

import json
import math
import platform
import sys
import tempfile
import time
from pathlib import Path

import torch

from pipeline.config.rules import resolve_prune
from pipeline.config.settings import Prune, Scoring
from pipeline.data.streams import MemoryStream
from pipeline.networks.cost import count_layers
from pipeline.networks.units import find_units
from pipeline.networks.zoo import blueprint, build
from pipeline.pruners.pruner import dense_quadratics, order_of
from pipeline.search.actor import Actor, Bench
from pipeline.search.question import Commit, Question
from pipeline.selection.quadratic import refit, ridged

IMAGES, STEP_IMAGES, CANDIDATES, POSITIONS = 8, 2, 5, 8


def cpu(function, *given):
    """(CPU seconds, what the function gives)."""
    began = time.process_time()
    found = function(*given)
    return time.process_time() - began, found


def measure(name: str, folder: Path) -> dict:
    torch.manual_seed(0)
    network = build(blueprint(name, 1000, 3, 224, {})).eval()
    units, images = find_units(network), torch.randn(IMAGES, 3, 224, 224)
    labels = torch.randint(1000, (IMAGES,))

    def actor(batch):
        scoring = Scoring(batch=batch, block_samples=batch, block_candidates=CANDIDATES, threads=1, positions=POSITIONS)
        return Actor(Bench(network, units, MemoryStream(images, labels, batch), scoring, folder, torch.device("cpu"), 0))

    walking, stepping = actor(IMAGES), actor(STEP_IMAGES)
    with torch.inference_mode():
        walking.dense(images[:1].contiguous(memory_format=torch.channels_last))
        forward, _ = cpu(walking.dense, images.contiguous(memory_format=torch.channels_last))
    passed, grams = cpu(walking.answer, Question("gram_dense", (), None, 0, (0, IMAGES)))
    layers = count_layers(network, images[:1])
    names = [layer.path for layer in layers]
    quadratics = dense_quadratics(network, units, {key: torch.from_numpy(value) for key, value in grams.sums.items()})
    chosen, found, commits = {}, {}, ()
    for unit in units.units.values():
        walked, _ = cpu(walking.answer, Question("gram", commits, unit.name, 0, (0, IMAGES)))
        commits += (Commit(unit.name, tuple(range(0, unit.width, 2)), None, None),)
        block = tuple(range(min(CANDIDATES, unit.width)))
        first, _ = cpu(stepping.answer, Question("loss", (), unit.name, 0, (0, STEP_IMAGES), block))
        suffix, _ = cpu(stepping.answer, Question("loss", (), unit.name, 0, (0, STEP_IMAGES), block))
        reads = names.index(unit.consumers[0].path)
        shape = unit.width, unit.columns, quadratics[unit.name].weight.shape[0]
        if shape not in chosen:
            chosen[shape] = cpu(_choose, quadratics[unit.name], unit)[0]
        found[unit.name] = {
            "width": unit.width,
            "columns": unit.width * unit.columns,
            "outputs": shape[2],
            "walk_seconds_per_image": walked / IMAGES,
            "held_bytes_per_image": sum(batch[2] for held in walking.walk.held.values() for batch in held.batches) // IMAGES,
            "prefix_seconds_per_image": max(first - suffix, 0.0) / STEP_IMAGES,
            "candidate_seconds_per_image": suffix / STEP_IMAGES / len(block),
            "choose_seconds": chosen[shape],
            "prefix_macs": sum(layer.macs(layer.inputs, layer.outputs) for layer in layers[:reads]),
            "suffix_macs": sum(layer.macs(layer.inputs, layer.outputs) for layer in layers[reads + 1 :]),
        }
        print(f"{name} {unit.name}: {json.dumps(found[unit.name])}", file=sys.stderr, flush=True)
    macs = sum(layer.macs(layer.inputs, layer.outputs) for layer in layers)
    sizes = sum(value.nbytes for value in grams.sums.values())
    whole = {"macs": macs, "forward_seconds_per_image": forward / IMAGES, "gram_dense_seconds_per_image": passed / IMAGES}
    return whole | {"gram_dense_answer_bytes": sizes, "weight_bytes": sum(p.nbytes for p in network.parameters()), "units": found}


def _choose(quadratic, unit) -> None:
    """The order of half the neurons and the re-fit of what reads them, as mode sequential does for each unit."""
    width, prune = max(1, math.ceil(unit.width / 2)), resolve_prune(Prune(selector="reconstruction", allocation="uniform"), "measure", "width")
    kept = [pick.neuron for pick in order_of(prune, quadratic, width)]
    refit(ridged(quadratic, prune.ridge), kept)


def main(networks: list[str]) -> None:
    torch.set_num_threads(1)
    found = {}
    for name in networks:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measure(name, Path(folder))
    settings = {"images": IMAGES, "step_images": STEP_IMAGES, "candidates": CANDIDATES, "positions": POSITIONS, "side": 224}
    settings |= {"cpu": platform.processor() or platform.machine(), "torch": torch.__version__, "threads": 1}
    path = Path(__file__).parent / "costs.json"
    path.write_text(json.dumps({"settings": settings, "networks": found}, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main(sys.argv[1:] or ["mobilenetv2_100", "resnet50"])
