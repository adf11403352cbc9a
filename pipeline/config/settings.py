"""Every setting of a config file, typed; what is not built yet is refused by name when it is asked for."""

import difflib
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.model import Section
from pipeline.config.recipe import ArmRecipe, DenseRecipe

BUDGET_KINDS = ("macs", "macs_bn", "prunable_macs", "width", "params", "latency_ms", "top1_drop", "tolerance")
MOST_LOST = 0.3  # of all images, as a share: above it a lost % sign is likelier than the wish
UNITS_OF = {"k": 1e3, "M": 1e6, "G": 1e9}


class Data(Section):
    """Where images come from; the first `train_samples` and `test_samples` of a source after its shuffle."""

    source: str | None = None
    train: str | None = None
    test: str | None = None
    train_samples: int | None = Field(None, ge=10)
    test_samples: int | None = Field(None, ge=1)
    allow_schemes: list[str] = []

    @model_validator(mode="after")
    def _one_place(self):
        if (self.source is None) == (self.train is None and self.test is None):
            raise ValueError("give either data.source, or data.train and data.test")
        if (self.train is None) != (self.test is None):
            raise ValueError("data.train and data.test belong together; give both")
        if self.train and (self.train_samples or self.test_samples):
            raise ValueError("data.train_samples and data.test_samples go with data.source; make a smaller manifest instead")
        return self


class Network(Section):
    """The dense network, its weights (a file, `timm`, `package:NAME`, or null = train it), what it expects of an image."""

    model: str
    weights: str | None = None
    num_classes: int = Field(ge=2)
    in_chans: Literal[1, 3] = 3
    img_size: int = Field(ge=4)
    arguments: dict[str, Any] = {}
    mean: list[float] | None = Field(None, min_length=1)
    std: list[Annotated[float, Field(gt=0)]] | None = Field(None, min_length=1)
    crop_pct: float | None = Field(None, gt=0, le=1)
    interpolation: Literal["bilinear", "bicubic", "nearest"] | None = None
    train_images: int | None = Field(None, ge=1)  # the weights were trained on, repeats counted: what arm reinit-compute may spend too
    top1: float | None = Field(None, ge=0, le=100)  # expected dense accuracy: below 90 % of it the dense gate stops

    @model_validator(mode="after")
    def _own_settings(self):
        own = ("num_classes", "in_chans", "img_size") if ":" in self.model else ("num_classes", "in_chans")
        for name in own:
            if name in self.arguments:
                raise ValueError(f"network.arguments holds {name}, which is a setting of its own; set network.{name}")
        return self


class Prune(Section):
    """The pruner. null = the default for that selector."""

    selector: str = "reconstruction"
    refit: Literal["lsq", "none", "affine"] = "lsq"
    allocation: Literal["uniform", "marginal", "global", "tolerance"] | None = None
    curves: Literal["own", "reconstruction"] | None = None  # of allocation marginal: whose orders and re-fit are probed; null = own
    probe_samples: int | None = Field(500, ge=1)  # training images behind the calibration ones on which curves are measured
    mode: Literal["sequential", "independent"] | None = "sequential"
    engine: str | None = None
    reference: str | None = None
    calibration_samples: int | None = Field(2000, ge=1)
    units: list[Literal["hidden", "branch", "stream"]] = Field(["hidden"], min_length=1)
    as_shipped: bool = False  # tp.<criterion> as that library prunes: its own widths, groups and weights
    round_to: int | None = Field(None, ge=1)  # widths are rounded up to a multiple of it, at most to the whole unit
    ridge: float | None = Field(1e-2, ge=0)  # x mean diagonal of G: the pull of a re-fit toward the old weights
    second_pass: bool | None = None  # every layer re-fitted once more in the shrunk network, producers too; null = false
    candidates: int | None = Field(50, ge=1)  # of a step of engine stochastic
    max_picks: int | None = Field(None, ge=1)  # null = 4 x the target width

    @field_validator("units")
    @classmethod
    def _each_once(cls, value):
        if len(set(value)) < len(value):
            raise ValueError("names a kind twice; name each once")
        return value


class Scoring(Section):
    """How statistics are summed. All but `memory_limit` are hashed: they may change a sum's last bits."""

    batch: int = Field(128, ge=1)
    block_samples: int = Field(1024, ge=1)
    block_candidates: int = Field(5, ge=1)
    threads: int = Field(1, ge=1)
    positions: int | None = Field(None, ge=1)  # output positions per image in a Gram matrix; null = all
    gram_limit: int = Field(16384, ge=1)  # columns; a unit with more is left whole
    memory_limit: float = Field(4.0, gt=0)  # GiB of activations held in a walk before they go to disk; in no key


class Evaluate(Section):
    """What is measured at the end beside accuracy."""

    latency: bool = True
    latency_batch: int = Field(1, ge=1)  # images per pass that budget latency_ms counts; latency is told for 1, 64 and this many
    recalibration_samples: int = Field(2000, ge=1)  # training images for the batch-norm re-estimation column
    threads: int = Field(2, ge=1)


class Cluster(Section):
    """Where questions are answered; in no key. With an address the run joins that Ray cluster, else it starts its own."""

    workers: int = Field(0, ge=0)  # 0 = in this very process, without Ray
    address: str | None = None
    cpus: float = Field(1.0, gt=0)  # of each worker
    gpus: float = Field(0.0, ge=0)  # of each worker
    restarts: int = Field(8, ge=0)  # lost workers that are replaced in one search; one more stops it, resumably
    wait_seconds: float = Field(300.0, gt=0)  # for a first worker, and for a sign of life when all are late


class Tracking(Section):
    """Weights & Biases; in no key. The API key comes from the environment or netrc, never from here."""

    mode: Literal["online", "offline", "off"] = "offline"
    project: str = Field("goodsubnets", min_length=1)
    entity: str | None = None


class Config(Section):
    """One experiment."""

    name: str = "run"
    seed: int = Field(0, ge=0)
    runs_dir: str = "runs"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    data: Data
    network: Network
    dense: DenseRecipe = DenseRecipe()
    prune: Prune = Prune()
    budget: dict[str, Any] = {"prunable_macs": "50%"}
    arm: Literal["none", "finetune", "reinit-epochs", "reinit-compute"] = "finetune"
    train: ArmRecipe = ArmRecipe()
    scoring: Scoring = Scoring()
    evaluate: Evaluate = Evaluate()
    cluster: Cluster = Cluster()
    tracking: Tracking = Tracking()
    sweep: dict[str, list[Any]] = {}

    @field_validator("name")
    @classmethod
    def _named(cls, value):
        if not value.strip():
            raise ValueError("is empty; give the run a name")
        return value

    @field_validator("budget")
    @classmethod
    def _budget(cls, value):
        if len(value) != 1:
            raise ValueError(f"holds {len(value)} kinds; give exactly one of {', '.join(BUDGET_KINDS)}")
        ((kind, target),) = value.items()
        budget_target(kind, target)
        return value


def budget_target(kind: str, target) -> float:
    """The target as a number: '50%' -> 0.5, '220M' -> 2.2e8. Raises ValueError saying what is allowed."""
    if kind not in BUDGET_KINDS:
        near = difflib.get_close_matches(kind, BUDGET_KINDS, n=1)
        raise ValueError(f"has no kind {kind!r}; {f'did you mean budget.{near[0]}?' if near else 'give one of ' + ', '.join(BUDGET_KINDS)}")
    text = str(target).strip()
    try:
        if isinstance(target, bool):
            raise ValueError
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text[:-1]) * UNITS_OF[text[-1]] if text[-1:] in UNITS_OF else float(text)
    except ValueError:
        raise ValueError(f"{kind}: {target!r} is no amount; give a share (50%) or a number (220M)") from None
    if not 0 < value < float("inf"):
        raise ValueError(f"{kind}: {target!r} must lie above 0")
    if text.endswith("%") and value > 1:
        raise ValueError(f"{kind}: {target!r} is more than everything; give at most 100%")
    if kind == "width" and value > 1:
        raise ValueError(f"{kind}: {target!r} must be a share of at most 1")
    if kind == "top1_drop" and (value > 100 or MOST_LOST < value <= 1):
        points = f"{value:.0%} of all images" if value <= 1 else f"{value:g} points"
        raise ValueError(f"{kind}: {target!r} means {points}; give percentage points: 0.5% for half a point, 2% or 2 for two")
    if kind in ("macs", "macs_bn", "prunable_macs", "params") and 1 < value < 1000:
        raise ValueError(f"{kind}: {target!r} is neither a share (at most 1) nor a number of {kind} (at least 1000)")
    return value
