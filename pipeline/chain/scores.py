"""Stage `scores`: what a criterion of Torch-Pruning gives each neuron; all re-fits, allocations and budgets share it."""

from safetensors.torch import load_file

from pipeline.chain.asking import executor_of
from pipeline.chain.context import Context
from pipeline.chain.normalise import scores_settings
from pipeline.chain.sources import Dense
from pipeline.config.rules import CRITERIA
from pipeline.networks.saved import example_images
from pipeline.networks.units import find_units
from pipeline.pruners.criteria import criterion_scores
from pipeline.pruners.spending import spent_on_gradients
from pipeline.search.coordinator import Coordinator
from pipeline.stages.clock import timed
from pipeline.stages.store import Done, Stage
from pipeline.tensorfile import save_tensors

SCORES, GRADIENTS = "scores.safetensors", "gradients.safetensors"


def run_scores(context: Context, data: Done, dense: Dense) -> Done | None:
    """Stage `scores`: (N,) of every unit, as shipped the gradients that the library asks for; None where nothing reads either."""
    config, settings = context.config, scores_settings(context.config)
    if settings is None:
        return None
    statistic, units = CRITERIA[config.prune.selector], find_units(dense.network, config.prune.units)
    stage = Stage("scores", 1, settings, {"dense": dense.digest} | ({"data": data.facts["train"]} if statistic else {}))

    def work(folder, guard, watch):
        gradients = None
        if statistic:
            with executor_of(context, dense, data, units, folder) as executor:
                coordinator = Coordinator(executor, None, folder, config.scoring, config.prune.calibration_samples, context.observe)
                gradients = coordinator.gradients(statistic)
        images, name = example_images(dense.preprocess.in_chans, dense.preprocess.img_size), GRADIENTS if config.prune.as_shipped else SCORES
        found = gradients if config.prune.as_shipped else criterion_scores(config.prune.selector, dense.network, units, images, gradients)
        save_tensors(folder / name, found)
        cost = spent_on_gradients(config.prune.calibration_samples if statistic else 0, units, dense.network, images)
        return [name], {"seconds": watch.seconds(), **vars(cost)}

    return context.store.run(stage, timed(work), context.observe)


def scores_of(scores: Done | None) -> dict | None:
    """{unit: (N,)} of a finished stage; None without one."""
    return load_file(scores.folder / SCORES) if scores and SCORES in scores.artifacts else None


def gradients_of(scores: Done | None) -> dict | None:
    """{parameter: mean} of a finished stage of a pruner as shipped; None without one."""
    return load_file(scores.folder / GRADIENTS) if scores and GRADIENTS in scores.artifacts else None
