"""The arms: what the shrunk network starts from. Everything else is the one loop."""

import copy

from torch import nn

from pipeline.networks.saved import shrunk_to


def starting_network(arm: str, shrunk: nn.Module, fresh_dense, arch: dict) -> nn.Module:
    """`finetune` starts from the shrunk network; a re-init from new weights at the same widths, whatever was kept.

    But for branches: which part of its stream one is added to belongs to the architecture.
    """
    if arm == "finetune":
        return copy.deepcopy(shrunk)
    units = {name: entry if entry["kind"] == "branch" else entry | {"kept": list(range(len(entry["kept"])))} for name, entry in arch["units"].items()}
    return shrunk_to(fresh_dense(), arch | {"units": units}, f"arm {arm}")
