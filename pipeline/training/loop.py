"""The one training loop: it makes the dense network and every arm, and goes on after a kill to the same result."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional

from pipeline.config.digests import number
from pipeline.config.errors import Failed
from pipeline.config.recipe import Recipe
from pipeline.data.images import Preprocess
from pipeline.data.index import Split
from pipeline.data.streams import ScoringStream, epoch_length, training_epoch, validation_order
from pipeline.evaluation.accuracy import top_correct
from pipeline.tensorfile import load_tensors, save_tensors


@dataclass(frozen=True)
class Task:
    """What a training needs beside the recipe: data, preprocessing, the seed, the teacher of an ArmRecipe (None = no distillation)."""

    split: Split
    preprocess: Preprocess
    seed: int
    device: torch.device
    teacher: nn.Module | None = None


def train(network: nn.Module, recipe: Recipe, task: Task, folder: Path, observe) -> list[dict]:
    """Train `network` in place; leaves last.safetensors and best.safetensors in `folder`; one record per epoch.

    Every `checkpoint_seconds` the whole state goes to folder/checkpoint.safetensors; a call that finds one goes on there,
    to the same bytes. Raises Failed when the loss is not finite.
    """
    torch.set_num_threads(recipe.threads)
    network.to(task.device, memory_format=torch.channels_last)
    state = _State(network, recipe, epoch_length(task.split, recipe.samples, recipe.batch)[0], task.seed)
    state.restore(folder / "checkpoint.safetensors", task.device)
    saved = time.monotonic()
    while state.epoch < recipe.epochs:
        network.train()
        for batch in _epoch(recipe, task, state):
            state.step(batch.images.to(task.device), batch.labels.to(task.device), task.teacher)
            observe({"event": "training", "epoch": state.epoch, "step": state.steps, "total": state.total, "loss": state.mean_loss, "lr": state.lr})
            if time.monotonic() - saved >= recipe.checkpoint_seconds and state.in_epoch < state.per_epoch:
                state.save(folder / "checkpoint.safetensors")
                saved = time.monotonic()
        record = _finish_epoch(state, task, folder)
        observe({"event": "epoch", **record})
    if recipe.ema:
        network.load_state_dict(state.average)
    return state.history


def _epoch(recipe, task, state):
    return training_epoch(
        task.split,
        recipe.samples,
        task.preprocess,
        seed=task.seed,
        epoch=state.epoch,
        batch=recipe.batch,
        start=state.in_epoch,
        augment=recipe.augment,
        loaders=recipe.loaders,
    )


def _finish_epoch(state, task, folder) -> dict:
    """Validate, keep the best so far, write the checkpoint; the record of the epoch."""
    correct, samples = _validate(state, task)
    best = max((record["val_top1"] for record in state.history), default=-1.0)
    record = {"epoch": state.epoch, "train_loss": state.mean_loss, "val_top1": 100 * correct / max(samples, 1)}
    if record["val_top1"] > best:
        save_tensors(folder / "best.safetensors", state.weights())
    state.history.append(record)
    state.epoch, state.in_epoch, state.loss_sum = state.epoch + 1, 0, 0.0
    if state.epoch == state.recipe.epochs:
        save_tensors(folder / "last.safetensors", state.weights())
    state.save(folder / "checkpoint.safetensors")
    return record


def _validate(state, task) -> tuple[int, int]:
    order = validation_order(task.split)
    if not len(order):
        return 0, 0
    network, own = state.network, {name: tensor.clone() for name, tensor in state.network.state_dict().items()}
    network.load_state_dict(state.weights())
    stream = ScoringStream(task.split, order, task.preprocess, 250)
    correct = top_correct(network, stream.block(0, len(order)), task.device)
    network.load_state_dict(own)
    return correct.top1, correct.samples


class _State:
    """Everything that changes while training; saved and restored as a whole."""

    def __init__(self, network, recipe: Recipe, per_epoch: int, seed: int = 0):
        self.network, self.recipe, self.per_epoch, self.seed = network, recipe, per_epoch, seed
        self.total = per_epoch * recipe.epochs
        self.epoch = self.in_epoch = 0
        self.loss_sum, self.history = 0.0, []
        self.optimizer = torch.optim.SGD(_groups(network, recipe), lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
        self.average = {name: tensor.clone() for name, tensor in network.state_dict().items()} if recipe.ema else None

    @property
    def steps(self) -> int:
        return self.epoch * self.per_epoch + self.in_epoch

    @property
    def mean_loss(self) -> float:
        return self.loss_sum / max(self.in_epoch, 1)

    @property
    def lr(self) -> float:
        """Linear warm-up, then a cosine that ends at zero after the last step."""
        warm = round(self.recipe.warmup * self.total)
        if self.steps < warm:
            return self.recipe.lr * (self.steps + 1) / (warm + 1)
        return self.recipe.lr * 0.5 * (1 + math.cos(math.pi * (self.steps - warm) / max(self.total - warm, 1)))

    def step(self, images, labels, teacher) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        torch.manual_seed(number("training step", self.seed, self.steps))  # dropout must not depend on where a training was stopped
        logits = self.network(images)
        loss = functional.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        if teacher is not None:
            loss = (1 - self.recipe.distill) * loss + self.recipe.distill * _divergence(logits, teacher, images, self.recipe.temperature)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.optimizer.step()
        value = loss.item()
        if not math.isfinite(value):
            raise Failed(f"training: the loss is {value} at step {self.steps}; lower train.lr (now {self.recipe.lr}) or set train.clip")
        self.loss_sum += value
        self.in_epoch += 1
        if self.average is not None:
            _move_average(self.average, self.network.state_dict(), min(self.recipe.ema, (1 + self.steps) / (10 + self.steps)))

    def weights(self) -> dict:
        """The weights that count: the moving average where there is one."""
        return self.network.state_dict() if self.average is None else self.average

    def save(self, path: Path) -> None:
        names = {parameter: name for name, parameter in self.network.named_parameters()}
        momentum = {names[p]: s["momentum_buffer"] for p, s in self.optimizer.state.items() if s.get("momentum_buffer") is not None}
        tensors = _with_role("network", self.network.state_dict()) | _with_role("momentum", momentum) | _with_role("average", self.average or {})
        save_tensors(path, tensors, {"epoch": self.epoch, "in_epoch": self.in_epoch, "loss_sum": self.loss_sum, "history": self.history})

    def restore(self, path: Path, device) -> None:
        if not path.exists():
            return
        try:
            tensors, meta = load_tensors(path)
        except (SafetensorError, ValueError) as error:
            raise Failed(f"checkpoint {path}: is damaged ({error}); delete the stage {path.parent.name} and run again") from error
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        self.network.load_state_dict(_of_role("network", tensors))
        parameters = dict(self.network.named_parameters())
        for name, tensor in _of_role("momentum", tensors).items():
            self.optimizer.state[parameters[name]]["momentum_buffer"] = tensor
        self.average = _of_role("average", tensors) if self.average is not None else None
        self.epoch, self.in_epoch, self.loss_sum, self.history = (meta[key] for key in ("epoch", "in_epoch", "loss_sum", "history"))


def _groups(network, recipe):
    """No weight decay on what has one dimension: norms and biases."""
    decayed = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    return [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]


def _divergence(logits, teacher, images, temperature):
    """KL of the student to the teacher at a temperature, scaled by its square (Hinton et al. 2015)."""
    with torch.inference_mode():
        target = functional.log_softmax(teacher(images) / temperature, dim=1)
    student = functional.log_softmax(logits / temperature, dim=1)
    return temperature**2 * functional.kl_div(student, target.clone(), log_target=True, reduction="batchmean")


def _move_average(average, state, decay) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point():
            average[name].lerp_(tensor.detach(), 1 - decay)
        else:
            average[name].copy_(tensor)


def _with_role(role: str, tensors: dict) -> dict:
    return {f"{role}/{name}": tensor for name, tensor in tensors.items()}


def _of_role(role: str, tensors: dict) -> dict:
    return {name.removeprefix(f"{role}/"): tensor for name, tensor in tensors.items() if name.startswith(f"{role}/")}
