"""goodsubnets: structured pruning by greedy selection. `prune` and `load_pruned` are loaded when they are first asked for."""

_HOMES = {
    "prune": "pipeline.pruning",
    "Pruned": "pipeline.pruning",
    "load_pruned": "pipeline.networks.saved",
    "UnsupportedModule": "pipeline.config.errors",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
