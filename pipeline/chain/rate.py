"""The learning rate of an arm where `train.lr_search` leaves it to validation: tried on one seed, used for all."""

from dataclasses import replace

from pipeline.chain.arm import run_train
from pipeline.chain.context import Context
from pipeline.chain.result import selection_cost
from pipeline.chain.selecting import selecting
from pipeline.chain.sources import Dense, splits_of
from pipeline.config.errors import BadInput
from pipeline.data.streams import validation_order
from pipeline.stages.store import Done


def with_rate(context: Context, data: Done, dense: Dense) -> Context:
    """The context with `train.lr` set to the rate whose arm, at `train.lr_seed`, ends best on validation; ties to the lowest.

    Each try is the stage `train` of the run with that rate and seed, found where it is there.
    """
    config, rates = context.config, sorted(set(context.config.train.lr_search or ()))
    if config.arm == "none" or not rates:
        return context
    if not len(validation_order(splits_of(data).train)):
        raise BadInput("train.lr_search: the data leaves no validation images to choose a rate by; give train.lr alone")
    seed = config.train.lr_seed or 0
    found = {rate: _tried(context, data, dense, rate, seed) for rate in rates}
    best = max(rates, key=lambda rate: (found[rate], -rate))
    told = ", ".join(f"{rate:g}: {top1:.2f}" for rate, top1 in found.items())
    context.observe({"event": "notice", "message": f"train.lr: {best:g}, best on validation at seed {seed} ({told})"})
    return replace(context, config=_at(config, best, config.seed))


def _at(config, rate, seed):
    return config.model_copy(update={"seed": seed, "train": config.train.model_copy(update={"lr": rate, "lr_search": None})})


def _tried(context, data, dense, rate, seed) -> float:
    """Validation top-1 at the end of the arm with this rate, percent."""

    def observe(event):
        if event["event"] == "training":
            context.observe({"event": f"trying train.lr {rate:g}", "done": event["step"], "total": event["total"]})
        elif event["event"] == "notice":
            context.observe(event)

    one = replace(context, config=_at(context.config, rate, seed), observe=observe)
    selected = {done.stage.name: done for done in selecting(one, data, dense)}
    arm = run_train(one, data, dense, selected["shrink"], selection_cost(selected, "macs"))
    return arm.facts["history"][-1]["val_top1"]
