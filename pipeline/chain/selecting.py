"""The stages that make a smaller network of the dense one, in order."""

from pipeline.chain.context import Context
from pipeline.chain.curves import run_curves
from pipeline.chain.scores import run_scores
from pipeline.chain.selection import run_search, run_shrink
from pipeline.chain.sources import Dense
from pipeline.chain.statistics import run_statistics
from pipeline.stages.store import Done


def selecting(context: Context, data: Done, dense: Dense):
    """Each finished stage of a selection: scores, statistics and curves where this pruner has them, search, shrink."""
    if scores := run_scores(context, data, dense):
        yield scores
    if statistics := run_statistics(context, data, dense):
        yield statistics
    if curves := run_curves(context, data, dense, scores, statistics):
        yield curves
    search = run_search(context, data, dense, scores, statistics, curves)
    yield search
    yield run_shrink(context, data, dense, search)
