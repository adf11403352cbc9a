"""Stages `data` and `dense`: verified splits, and the dense network with its weights."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from pipeline.chain.context import Context
from pipeline.chain.normalise import data_settings, dense_settings
from pipeline.config.digests import number, sha256_of
from pipeline.config.errors import BadInput
from pipeline.config.files import read_json, write_json
from pipeline.config.settings import Config
from pipeline.data.images import Preprocess
from pipeline.data.prepare import Origin, Splits, find_origin, open_splits, places_of, prepare
from pipeline.networks.zoo import Blueprint, blueprint, build, load_weights, preprocess_of, read_weights, unknown_argument, weights_file
from pipeline.stages.store import Done, Stage
from pipeline.tensorfile import load_tensors, save_tensors
from pipeline.training.loop import Task, train

WEIGHTS, NETWORK = "weights.safetensors", "network.json"


def origin_of(config: Config) -> Origin:
    """Where the data comes from. Raises BadInput when the classes are not the network's."""
    origin = find_origin(config.data, config.network.num_classes)
    if origin.classes != config.network.num_classes:
        raise BadInput(f"network.num_classes: is {config.network.num_classes}, the data has {origin.classes} classes; make them equal")
    return origin


def data_stage(config: Config, origin: Origin) -> Stage:
    """Stage `data`: reads the source, or the manifests."""
    return Stage("data", 1, data_settings(config), origin.inputs)


def run_data(context: Context) -> Done:
    """Stage `data`: shards, verified and indexed."""
    config = context.config
    origin = origin_of(config)

    def work(folder, guard):
        names = prepare(config.data, origin, folder, context.observe)
        splits = open_splits(folder)
        _warn_of_missing_classes(context, splits)
        return names, {"train": splits.train.manifest.digest, "test": splits.test.manifest.digest}

    done = context.store.run(data_stage(config, origin), work, context.observe)
    return replace(done, facts=done.facts | {"places": places_of(config.data, origin)})


def splits_of(data: Done) -> Splits:
    """The splits of a finished stage `data`, read where this run's config says that they lie."""
    return open_splits(data.folder, data.facts.get("places"))


def _warn_of_missing_classes(context, splits: Splits) -> None:
    for split in (splits.train, splits.test):
        lacking = sorted(set(range(len(split.manifest.classes))) - set(split.label.tolist()))
        if lacking:
            message = f"{split.manifest.split}: no sample of class {', '.join(split.manifest.classes[i] for i in lacking[:5])}"
            context.observe({"event": "notice", "message": message})


@dataclass(frozen=True)
class Dense:
    """The dense network as a stage left it."""

    network: nn.Module
    plan: Blueprint
    preprocess: Preprocess
    weights_sha256: str
    done: Done

    @property
    def digest(self) -> str:
        """What later stages name as their input: weights, how to build, how to feed."""
        return self.done.digest(WEIGHTS, NETWORK)


def plan_of(context: Context) -> Blueprint:
    """The blueprint of `network:`, checked."""
    network = context.config.network
    plan = blueprint(network.model, network.num_classes, network.in_chans, network.img_size, network.arguments)
    if (odd := unknown_argument(plan)) is not None:
        raise BadInput(f"network.arguments: {network.model} takes no argument {odd!r}; remove it")
    return plan


def dense_stage(context: Context, data: Done | None) -> Stage:
    """Stage `dense`: reads the weights file, or the training data where the network is trained here."""
    weights = context.config.network.weights
    if weights is None:
        inputs = {"data": data.facts["train"]}
    else:
        inputs = {} if weights == "timm" else {"weights": sha256_of(weights_file(weights))}
    return Stage("dense", 1, dense_settings(context.config), inputs)


def run_dense(context: Context, data: Done) -> Dense:
    """Stage `dense`: build, then load or train."""
    plan = plan_of(context)
    done = context.store.run(dense_stage(context, data), lambda folder, guard: _make_dense(context, data, plan, folder), context.observe)
    return open_dense(done)


def _make_dense(context, data, plan, folder):
    settings, recipe = context.config.network, context.config.dense
    network = untrained(plan, recipe.seed, pretrained=settings.weights == "timm")
    preprocess = preprocess_of(network, settings)
    facts = {"source_sha256": None}
    if settings.weights not in (None, "timm"):
        path = weights_file(settings.weights)
        load_weights(network, read_weights(path), path)
        facts = {"source_sha256": sha256_of(path)}
    elif settings.weights is None:
        task = Task(splits_of(data).train, preprocess, recipe.seed, context.device)
        facts["history"] = train(network, recipe, task, folder, context.observe)
    save_tensors(folder / WEIGHTS, network.state_dict())
    description = {"builder": plan.builder, "model": plan.model, "arguments": plan.arguments, "preprocess": vars(preprocess)}
    write_json(folder / NETWORK, description)
    return [WEIGHTS, NETWORK], facts


def open_dense(done: Done) -> Dense:
    """The dense network of a finished stage, in eval mode."""
    description = read_json(done.folder / NETWORK)
    plan = Blueprint(description["builder"], description["model"], description["arguments"])
    given = description["preprocess"]
    preprocess = Preprocess(**given | {"mean": tuple(given["mean"]), "std": tuple(given["std"])})
    network = build(plan)
    load_weights(network, load_tensors(done.folder / WEIGHTS)[0], done.folder / WEIGHTS)
    return Dense(network.eval(), plan, preprocess, done.artifacts[WEIGHTS], done)


def unseen(context: Context) -> Dense:
    """The dense network before its stage has run: its shape, with weights that mean nothing."""
    plan = plan_of(context)
    network = untrained(plan, 0)
    return Dense(network.eval(), plan, preprocess_of(network, context.config.network), "", None)


def untrained(plan: Blueprint, seed: int, pretrained: bool = False) -> nn.Module:
    """The network with initial weights that depend on nothing but the seed."""
    torch.manual_seed(number("initial weights", seed))
    return build(plan, pretrained)
