"""The dense gate: weights that do not fit the data stop before the search, and the likely causes are named."""

from pipeline.config.errors import BadInput
from pipeline.config.settings import Network
from pipeline.networks.zoo import expected_input, padded_otherwise

SHARE, ABOVE_CHANCE = 0.9, 0.1  # of the expected top-1; of what lies above chance where none is given


def refuse_below_gate(network: Network, top1: float | None, split: str) -> None:
    """Raise BadInput when given weights reach less than 90 % of `network.top1`, or hardly more than chance where that is null.

    `top1` in percent on `split`; None where nothing was measured. A network that the run trained itself always passes.
    """
    if network.weights is None or top1 is None:
        return
    chance = 100 / network.num_classes
    hardly = chance + ABOVE_CHANCE * (100 - chance)
    expected = hardly if network.top1 is None else network.top1 * SHARE
    if top1 < expected:
        raise BadInput(
            f"network.weights: {network.weights}: dense top-1 on {split} is {top1:.2f} %, below the gate of {expected:.2f} %; "
            f"likely causes: {'; '.join(_causes(network, top1 < hardly))}"
        )


def _causes(network: Network, near_chance: bool) -> list[str]:
    """What is likely to be wrong, what is known to differ first."""
    causes = [f"network.{name} is {given}, timm's for {network.model} is {known}" for name, given, known in _differing(network)]
    if other := padded_otherwise(network.model):
        causes.append(f"the weights are of {other}, whose shapes agree and whose padding does not")
    preprocessing = ["network.mean and std, crop_pct or interpolation", *(["the order of the colour channels"] if network.in_chans == 3 else [])]
    if near_chance:
        causes += ["near chance: another order of the classes in the data, or weights of another network", *preprocessing]
    else:
        causes += [f"well above chance: {preprocessing[0]}", *preprocessing[1:], "some classes in another order"]
    return causes if network.top1 is None else [*causes, f"network.top1 {network.top1:g} was measured on other data"]


def _differing(network: Network):
    """(setting, value, what timm records for this model) where a config gives another value."""
    known = expected_input(network.model)
    if network.in_chans == 3:
        for name in ("mean", "std", "crop_pct", "interpolation"):
            given = getattr(network, name)
            given = tuple(given) if isinstance(given, list) else given
            if given is not None and name in known and given != known[name]:
                yield name, given, known[name]
    if "img_size" in known and network.img_size != known["img_size"]:
        yield "img_size", network.img_size, known["img_size"]
