"""What a sweep is: its runs, each once, in an order in which few wait for another; how much of their work is shared."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.chain.context import Context, device_of
from pipeline.chain.normalise import (
    bisection_settings,
    curves_settings,
    dense_settings,
    latencies_settings,
    run_settings,
    scores_settings,
    search_settings,
    shrink_settings,
    statistics_settings,
    train_settings,
    untrained_settings,
)
from pipeline.chain.run import run_hash, run_inputs
from pipeline.chain.sources import plan_of, unseen
from pipeline.chain.target import target_of, units_and_cost
from pipeline.config.digests import digest
from pipeline.config.errors import BadInput
from pipeline.config.load import check_plain, combine, read_plain, swept_keys
from pipeline.config.rules import measures_gram
from pipeline.config.settings import Config
from pipeline.stages.runs import run_folder
from pipeline.stages.store import Store


@dataclass(frozen=True)
class Planned:
    """One run of a sweep: its settings, plain and checked, its hash, and what names each of its shareable stages."""

    plain: dict
    config: Config
    hash: str
    stages: dict[str, str]

    @property
    def folder(self) -> Path:
        return run_folder(self.config.runs_dir, self.config.name, self.hash)


@dataclass(frozen=True)
class Sweep:
    """A group: `runs` in the order in which they are begun."""

    name: str
    runs_dir: str
    plain: dict
    runs: list[Planned]

    @property
    def hash(self) -> str:
        return digest(["group", self.name, sorted(run.hash for run in self.runs)])

    @property
    def folder(self) -> Path:
        return run_folder(self.runs_dir, self.name, self.hash)

    def shared(self) -> dict[str, tuple[int, int]]:
        """{stage: (runs that need it, times it is computed)}."""
        names = {name: None for run in self.runs for name in run.stages}
        keys = {name: [run.stages[name] for run in self.runs if name in run.stages] for name in names}
        return {name: (len(of), len(set(of))) for name, of in keys.items()}


def plan_sweep(path: str, overrides=()) -> Sweep:
    """Read and check a sweep's config. Raises BadInput naming file, key and, where only some runs are at fault, the combination."""
    return plan_plain(read_plain(path, overrides), path)


def plan_plain(plain: dict, path: str) -> Sweep:
    """The sweep of settings that were read from `path`. Raises as `plan_sweep`."""
    runs: dict[str, Planned] = {}
    known: dict[str, dict] = {}
    combinations = list(combine(plain))
    for combination in combinations:
        try:
            config, widths, inputs = _looked_at(combination, path, known)
        except BadInput as error:
            if _all_say(str(error), combinations, path, known):
                raise
            swept = ", ".join(f"{key}={_value(combination, key)}" for key in swept_keys(plain))
            raise type(error)(f"{error} (in the combination {swept})") from error
        if len({config.name, *(run.config.name for run in runs.values())}) > 1:
            raise BadInput(f"{path}: sweep: name: a group has one name; take name out of sweep")
        name = run_hash(config, inputs)
        runs.setdefault(name, Planned(combination, config, name, _stages_of(config, widths)))
    first = next(iter(runs.values())).config
    return Sweep(first.name, first.runs_dir, plain, _spread(list(runs.values())))


def _looked_at(combination: dict, path: str, known: dict) -> tuple[Config, dict, dict]:
    config = check_plain(combination, path)
    return config, _widths(config, known), _inputs(config, known)


def _all_say(message: str, combinations: list[dict], path: str, known: dict) -> bool:
    """Whether what is wrong with one combination is wrong with all: then it is not the combination's fault."""
    for combination in combinations:
        try:
            _looked_at(combination, path, known)
            return False
        except BadInput as error:
            if str(error) != message:
                return False
    return True


def _inputs(config: Config, known: dict) -> dict[str, str]:
    """The digests of a run's data and weights; `known` keeps those of equal settings: a folder of many images is looked at once."""
    place = digest(["inputs", config.data.model_dump(), config.network.model_dump(), config.device])
    if place not in known:
        known[place] = run_inputs(config)
    return known[place]


def _widths(config: Config, known: dict) -> dict[str, int]:
    """The widths of a run's budget, so that one out of reach is told before any work, none where they are still to be measured;
    `known` keeps those of equal settings."""
    place = digest([config.network.model_dump(), config.prune.model_dump(), config.budget, config.scoring.gram_limit, config.device])
    if place not in known:
        target = target_of(config, *_parts(config, known))
        measured = {"latency_ms", "top1_drop"} & set(config.budget)  # stages of their own come before the widths
        known[place] = target.sharing.widths(None).widths if config.prune.allocation == "uniform" and not measured else {}
    return known[place]


def _parts(config: Config, known: dict) -> tuple:
    """(units, cost table) of a run's network, the same for all pruners that read as much of it."""
    place = digest(["parts", config.network.model_dump(), config.prune.units, measures_gram(config.prune), config.scoring.gram_limit, config.device])
    if place not in known:
        context = Context(config, Store(Path(config.runs_dir), device_of(config)), lambda event: None)
        plan_of(context)
        known[place] = units_and_cost(context, unseen(context))
    return known[place]


def _stages_of(config: Config, widths: dict[str, int]) -> dict[str, str]:
    """What tells equal stages before their keys are known, which need the digests of artifacts."""
    base = digest([config.data.model_dump(), config.network.model_dump(), dense_settings(config)])
    latencies = latencies_settings(config)
    search = digest([base, scores_settings(config), statistics_settings(config), curves_settings(config), search_settings(config), latencies])
    names = {"data": digest(config.data.model_dump()), "dense": base, "baseline": base, "search": search}
    names["shrink"] = shrink = digest([search, shrink_settings(config)])
    names["untrained"] = digest([shrink, untrained_settings(config)])
    if latencies:
        names["latencies"] = digest(latencies)
    if bisection := bisection_settings(config):
        names["bisection"] = digest([base, bisection])
    if scores := scores_settings(config):
        names["scores"] = digest([base, scores])
    if statistics := statistics_settings(config):
        names["statistics"] = digest([base, statistics])
    if curves := curves_settings(config):
        names["curves"] = digest([base, curves])
    if train := train_settings(config):
        own = config.arm == "finetune" or "branch" in config.prune.units or not widths
        names["train"] = digest([shrink if own else sorted(widths.items()), base, train])
    names["evaluate"] = digest(run_settings(config))
    return names


def _spread(runs: list[Planned]) -> list[Planned]:
    """Runs that share a search far apart, the first of each first: two at once seldom wait for the same stage."""
    seen: dict[str, int] = {}
    ranks = []
    for run in runs:
        ranks.append(seen.get(run.stages["search"], 0))
        seen[run.stages["search"]] = ranks[-1] + 1
    return [run for _, run in sorted(zip(ranks, runs), key=lambda pair: pair[0])]


def _value(plain: dict, key: str):
    for part in key.split("."):
        plain = plain.get(part) if isinstance(plain, dict) else None
    return plain
