"""What the stages of one run share: the config, the store, where events go."""

from dataclasses import dataclass

import torch

from pipeline.config.errors import BadInput
from pipeline.config.settings import Config
from pipeline.stages.store import Store


@dataclass(frozen=True)
class Context:
    config: Config
    store: Store
    observe: object

    @property
    def device(self) -> torch.device:
        return self.store.device


def device_of(config: Config) -> torch.device:
    """The device that `device:` names. Raises BadInput when it asks for a GPU that is not there."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise BadInput("device: cuda: no GPU can be used here; set device to auto or cpu")
    return torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
