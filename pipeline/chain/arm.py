"""Stage `train`: the arm."""

import copy

import torch
from torch import nn

from pipeline.chain.context import Context
from pipeline.chain.normalise import train_settings
from pipeline.chain.sources import Dense, splits_of, untrained
from pipeline.config.digests import digest
from pipeline.config.files import read_json
from pipeline.data.index import Split
from pipeline.data.streams import epoch_length
from pipeline.networks.saved import ARCH, shrunk_to
from pipeline.networks.saved import WEIGHTS as MODEL
from pipeline.networks.zoo import load_weights
from pipeline.stages.clock import timed
from pipeline.stages.store import Done, Stage
from pipeline.tensorfile import load_tensors
from pipeline.training.arms import starting_network
from pipeline.training.loop import Task, train

LAST, BEST = "last.safetensors", "best.safetensors"
FORWARD_BACKWARD = 3  # MACs of a training step in forwards; a teacher adds one more


def open_shrunk(dense: Dense, folder, weights) -> nn.Module:
    """The shrunk network with the weights of a file, in eval mode."""
    network = shrunk_to(copy.deepcopy(dense.network), read_json(folder / ARCH), folder / ARCH)
    load_weights(network, load_tensors(weights)[0], weights)
    return network.eval()


def run_train(context: Context, data: Done, dense: Dense, shrink: Done, select_macs: int) -> Done | None:
    """Stage `train`; None for arm none. A re-init arm reads only the widths, so pruners with equal widths share it.

    `select_macs`: what the selection cost, which arm reinit-compute may spend too.
    """
    settings = train_settings(context.config)
    if settings is None:
        return None
    recipe, arch = context.config.train, read_json(shrink.folder / ARCH)
    inputs = {"data": data.facts["train"]}
    if context.config.arm == "finetune":
        inputs["shrink"] = shrink.digest(ARCH, MODEL)
    else:
        inputs["widths"] = digest({name: entry["kept"] if entry["kind"] == "branch" else len(entry["kept"]) for name, entry in arch["units"].items()})
        inputs["network"] = digest([dense.plan.builder, dense.plan.model, dense.plan.arguments, _feeding(dense)])
    if recipe.distill:
        inputs["teacher"] = dense.digest
    if context.config.arm == "reinit-compute":
        recipe = recipe.model_copy(update={"epochs": equal_epochs(context, splits_of(data).train, shrink.facts["cost"], select_macs)})
        inputs["epochs"] = recipe.epochs
    stage = Stage("train", 1, settings, inputs)

    def work(folder, guard, watch):
        shrunk = open_shrunk(dense, shrink.folder, shrink.folder / MODEL)
        network = starting_network(context.config.arm, shrunk, lambda: untrained(dense.plan, context.config.seed), arch)
        split = splits_of(data).train
        teacher = dense.network.to(context.device, memory_format=torch.channels_last) if recipe.distill else None
        history = train(network, recipe, Task(split, dense.preprocess, context.config.seed, context.device, teacher), folder, context.observe)
        images = recipe.epochs * epoch_length(split, recipe.samples, recipe.batch)[1]
        return [LAST, BEST], {"history": history, "images": images, "seconds": watch.seconds()}

    return context.store.run(stage, timed(work), context.observe)


def _feeding(dense: Dense) -> list:
    return [list(value) if isinstance(value, tuple) else value for value in vars(dense.preprocess).values()]


def equal_epochs(context: Context, split: Split, cost: dict, select_macs: int) -> int:
    """Epochs that all the compute behind a fine-tuned network buys: dense training, selection and fine-tune."""
    recipe, dense, given = context.config.train, context.config.dense, context.config.network.train_images
    images = epoch_length(split, recipe.samples, recipe.batch)[1]
    dense_images = given or dense.epochs * epoch_length(split, dense.samples, dense.batch)[1]
    each = images * image_macs(context, cost["pruned"]["macs"], cost["dense"]["macs"])
    return recipe.epochs + round((FORWARD_BACKWARD * dense_images * cost["dense"]["macs"] + select_macs) / each)


def image_macs(context: Context, macs: int, macs_dense: int) -> int:
    """MACs of an arm per training image: forward and backward of the shrunk network, one forward of the teacher."""
    return FORWARD_BACKWARD * macs + (macs_dense if context.config.train.distill else 0)
