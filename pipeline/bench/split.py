"""Where a search's seconds go: the interpreter's own profiler, asked for the functions that do each part of the work."""

import cProfile
import pstats

from pipeline.networks.graph import Graph
from pipeline.search import statistics
from pipeline.search.products import Products
from pipeline.search.walk import Walk

PARTS = {
    "forward": (Graph.run,),
    "gathering": (statistics._rows,),
    "products": (Products.add, Products.close),
    "holding": (Walk._store, Walk._load),
}


class Split:
    """A with block whose time is split: `seconds` of each part, once it has ended."""

    def __init__(self):
        self.profile, self.seconds = cProfile.Profile(builtins=False), {}

    def __enter__(self):
        self.profile.enable()
        return self

    def __exit__(self, *error):
        self.profile.disable()
        found = pstats.Stats(self.profile).stats
        for part, functions in PARTS.items():
            codes = [function.__code__ for function in functions]
            places = [(code.co_filename, code.co_firstlineno, code.co_name) for code in codes]
            self.seconds[part] = sum(found[place][3] for place in places if place in found)  # with what they call
