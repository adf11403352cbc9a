"""The tiny network, whose classifier looks at few batches and then at none while the file that GFS_TEST_BRAKE names is there."""

import os
import time

from pipeline.networks.small import tiny

BRAKE = "GFS_TEST_BRAKE"
BATCHES = 30  # of about 150 that a search looks at
_seen = 0  # by this process


def build(**given):
    network = tiny(**given)
    network.classifier.register_forward_pre_hook(wait)
    return network


def wait(module, inputs):
    global _seen
    while (has_brake := os.path.exists(os.environ.get(BRAKE, ""))) and _seen >= BATCHES:
        time.sleep(0.05)
    _seen += has_brake
