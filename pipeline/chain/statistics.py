"""Stage `statistics`: what is measured in the dense network in one pass, whatever the budget."""

from safetensors.torch import load_file

from pipeline.chain.asking import executor_of
from pipeline.chain.context import Context
from pipeline.chain.normalise import statistics_settings
from pipeline.chain.sources import Dense
from pipeline.chain.target import units_and_cost
from pipeline.config.files import read_json, write_json
from pipeline.config.rules import curves_pruner
from pipeline.networks.units import Units
from pipeline.pruners.pruner import Measured, dense_quadratics, order_of
from pipeline.search.coordinator import Coordinator
from pipeline.selection.elimination import Pick
from pipeline.stages.clock import timed
from pipeline.stages.store import Done, Stage
from pipeline.tensorfile import save_tensors

GRAMS, SUMS, ORDERS = "grams.safetensors", "sums.safetensors", "orders.json"


def run_statistics(context: Context, data: Done, dense: Dense) -> Done | None:
    """Stage `statistics`: G of every unit in the dense network (for `affine` the sums it is centred by), each unit's greedy order.

    None where nothing reads them.
    """
    settings = statistics_settings(context.config)
    if settings is None:
        return None
    units, _ = units_and_cost(context, dense)
    stage = Stage("statistics", 4, settings, {"data": data.facts["train"], "dense": dense.digest})

    def work(folder, guard, watch):
        prune = curves_pruner(context.config.prune)
        with executor_of(context, dense, data, units, folder) as executor:
            grams, sums = Coordinator(executor, None, folder, context.config.scoring, prune.calibration_samples, context.observe).dense_grams()
        save_tensors(folder / GRAMS, grams)
        names = [GRAMS]
        if prune.refit == "affine":
            save_tensors(folder / SUMS, sums)
            names.append(SUMS)
        if prune.selector == "reconstruction":
            orders = {}
            for name, quadratic in dense_quadratics(dense.network, units, grams, sums if SUMS in names else None).items():
                picks = order_of(prune, quadratic)
                orders[name] = [vars(pick) for pick in picks]
                context.observe({"event": "order", "unit": name, "done": len(orders), "total": len(units.units), "unit_name": "units"})
            write_json(folder / ORDERS, orders)
            names.append(ORDERS)
        return names, {"seconds": watch.seconds()}

    return context.store.run(stage, timed(work), context.observe)


def measured_of(dense: Dense, units: Units, statistics: Done | None) -> Measured | None:
    """What a finished stage holds, as quadratics and orders; None without one."""
    if statistics is None:
        return None
    grams, orders = load_file(statistics.folder / GRAMS), {}
    if ORDERS in statistics.artifacts:
        orders = {name: [Pick(**pick) for pick in picks] for name, picks in read_json(statistics.folder / ORDERS).items()}
    sums = load_file(statistics.folder / SUMS) if SUMS in statistics.artifacts else None
    return Measured(dense_quadratics(dense.network, units, grams, sums), orders)
