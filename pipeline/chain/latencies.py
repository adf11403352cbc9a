"""Stage `latencies`: what each layer takes on this machine, for budget latency_ms; it hangs on no weight, so it comes first."""

from pipeline.chain.context import Context
from pipeline.chain.normalise import latencies_settings
from pipeline.chain.sources import Dense
from pipeline.config.digests import digest
from pipeline.config.errors import Failed
from pipeline.config.files import read_json, write_json
from pipeline.evaluation.layer_times import LayerTimes, measure_layer_times
from pipeline.networks.cost import CostTable
from pipeline.networks.saved import example_images
from pipeline.networks.units import find_units
from pipeline.stages.clock import timed
from pipeline.stages.runs import device_name
from pipeline.stages.store import Done, Stage

TIMES = "latencies.json"


def latencies_stage(context: Context, settings: dict) -> Stage:
    """Stage `latencies` of this machine: another one takes another time."""
    return Stage("latencies", 1, settings, {"machine": digest(device_name(context.device))})


def run_latencies(context: Context, dense: Dense) -> Done | None:
    """Stage `latencies`: milliseconds of every layer at a few shares of all units; None for a budget that reads none."""
    settings = latencies_settings(context.config)
    if settings is None:
        return None

    def work(folder, guard, watch):
        context.observe({"event": "notice", "message": "latencies: every layer is timed; other work on this machine shows in it"})
        times = layer_times(context, dense)
        write_json(folder / TIMES, vars(times))
        return [TIMES], {"seconds": watch.seconds(), "dense_ms": sum(times.ms[0])}

    return context.store.run(latencies_stage(context, settings), timed(work), context.observe)


def layer_times(context: Context, dense: Dense) -> LayerTimes:
    """The times of a network's layers, measured now on the run's device; its weights play no part."""
    units = find_units(dense.network, context.config.prune.units)
    images = example_images(dense.preprocess.in_chans, dense.preprocess.img_size, context.config.evaluate.latency_batch)
    table = CostTable(dense.network, units, images[:1])
    return measure_layer_times(dense.network, units.units, table, images.to(context.device))


def known_times(context: Context) -> LayerTimes | None:
    """What the finished stage measured; None for a budget that reads none. Raises Failed where the stage is gone."""
    done = finished_latencies(context)
    return LayerTimes(**read_json(done.folder / TIMES)) if done else None


def finished_latencies(context: Context) -> Done | None:
    """The finished stage; None for a budget that reads none. Raises Failed where it is gone."""
    settings = latencies_settings(context.config)
    if settings is None:
        return None
    if (done := context.store.find(latencies_stage(context, settings))) is None:
        raise Failed("stage latencies: is gone from under this run; run again")
    return done
