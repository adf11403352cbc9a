"""Settings of one training: the dense network's (`dense:`) and the arms' (`train:`)."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.model import Section


class Recipe(Section):
    """How to train: SGD with Nesterov momentum, warm-up, then cosine to zero."""

    epochs: int = Field(1, ge=1)
    samples: int | None = Field(None, ge=2)  # training images per epoch, drawn once by seed; null = all
    batch: int = Field(128, ge=2)
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)  # never on biases and norms
    warmup: float = Field(0.05, ge=0, lt=1)  # share of all steps
    clip: float | None = Field(1.0, gt=0)  # gradient norm
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    ema: float | None = Field(None, gt=0, lt=1)  # decay; when set, the average is the network that counts
    augment: Literal["crop+flip", "crop", "none"] = "crop+flip"
    threads: int = Field(2, ge=1)
    checkpoint_seconds: float = Field(30.0, ge=0)  # in no key: resuming gives the same result from any point
    loaders: int = Field(0, ge=0)  # loader processes; in no key


class DenseRecipe(Recipe):
    """The dense network's training, used when `network.weights` is null; its seed is its own."""

    epochs: int = Field(12, ge=1)
    seed: int = Field(0, ge=0)


class ArmRecipe(Recipe):
    """The training of an arm; distillation from the dense network is on for every pruner alike."""

    lr: float = Field(0.05, gt=0)
    lr_search: list[Annotated[float, Field(gt=0)]] | None = Field(None, min_length=1)  # the one best on validation replaces `lr`
    lr_seed: int | None = Field(None, ge=0)  # of the runs in which the rates are tried; null = 0
    distill: float = Field(1.0, ge=0, le=1)  # weight of the KL to the dense network
    temperature: float = Field(2.0, gt=0)
