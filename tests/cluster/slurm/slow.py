"""The tiny network, whose classifier waits before it looks at images while the file that BRAKE names is there."""

import os
import time

from pipeline.networks.small import tiny

BRAKE = "GFS_TEST_BRAKE"
SECONDS = 0.2


def build(**given):
    network = tiny(**given)
    network.classifier.register_forward_pre_hook(wait)
    return network


def wait(module, inputs):
    if os.path.exists(os.environ.get(BRAKE, "")):
        time.sleep(SECONDS)
