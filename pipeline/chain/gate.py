"""The dense gate: weights that do not fit the data stop before the search."""

from pipeline.config.errors import BadInput
from pipeline.config.settings import Network

SHARE, ABOVE_CHANCE = 0.9, 0.1  # of the expected top-1; of what lies above chance where none is given


def refuse_below_gate(network: Network, top1: float | None, split: str) -> None:
    """Raise BadInput when given weights reach less than 90 % of `network.top1`, or hardly more than chance where that is null.

    `top1` in percent on `split`; None where nothing was measured. A network that the run trained itself always passes.
    """
    if network.weights is None or top1 is None:
        return
    chance = 100 / network.num_classes
    expected = chance + ABOVE_CHANCE * (100 - chance) if network.top1 is None else network.top1 * SHARE
    if top1 < expected:
        raise BadInput(
            f"network.weights: {network.weights}: dense top-1 on {split} is {top1:.2f} %, below the gate of {expected:.2f} %; "
            "check that they are of this very variant (its width, its kind of padding), the order of the classes, mean and std, img_size, "
            "or network.top1"
        )
