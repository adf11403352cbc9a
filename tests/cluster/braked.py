"""A search on a cluster that somebody else runs, in a process of its own; its workers are slow while a file called `brake` is there."""

import json
import os
import sys
import time
from pathlib import Path

from pipeline.config.settings import Cluster
from tests.cluster.searches import search

FINE = ("scoring.block_samples=16", "scoring.block_candidates=2")  # many small blocks


class Brake:
    """Half a second before each answer, while the file is there."""

    def __init__(self, file: str):
        self.file = file

    def __call__(self, number, question):
        if os.path.exists(self.file):
            time.sleep(0.5)


def main(prepared: str, folder: str, pruner: str, address: str) -> None:
    """The journal comes into `folder`/search, what was observed into `folder`/events."""
    place = Path(folder)
    with open(place / "events", "w", buffering=1) as events:
        cluster = Cluster(workers=2, address=address)
        brake = Brake(str(place / "brake"))
        search(Path(prepared), place / "search", pruner, cluster, brake, lambda event: print(json.dumps(event), file=events), overrides=FINE)


if __name__ == "__main__":
    main(*sys.argv[1:])
