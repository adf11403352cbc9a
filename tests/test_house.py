"""The house: imports go only down the layers, modules stay small, names say what they mean."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "pipeline").rglob("*.py"))
LAYERS = (
    {"config", "journal", "selection"},
    {"data", "networks", "training", "evaluation", "tensorfile"},
    {"search", "pruners"},
    {"stages", "chain", "cluster", "submit", "tracking"},
    {"cli", "report", "view", "bench", "pruning", "__init__"},
)
ONLY_IN = {
    "ray": {"cluster"},
    "wandb": {"tracking"},
    "webdataset": {"data"},
    "timm": {"networks", "bench"},  # a bench measures against it
    "torch_pruning": {"pruners"},
    "torchvision": {"data"},
}
LONGEST_MODULE, LONGEST_LINE = 300, 150


def name_of(path: Path) -> str:
    """pipeline/search/walk.py -> pipeline.search.walk"""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room(module: str) -> str:
    """The first part below pipeline: what a layer lists."""
    return (module.split(".") + ["__init__"])[1]


def level(module: str) -> int:
    return next(number for number, rooms in enumerate(LAYERS) if room(module) in rooms)


def imported(text: str, own: str = "") -> set[str]:
    """All modules a file imports, at the top, inside functions, or by a name in a string (import_module, lazy homes)."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = own.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names if is_module(f"{base}.{alias.name}"))}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and is_module(node.value):
            found.add(node.value)
    return found


def is_module(name: str) -> bool:
    place = ROOT.joinpath(*name.split(".")) if re.fullmatch(r"pipeline(\.\w+)+", name) else None
    return place is not None and (place.with_suffix(".py").exists() or (place / "__init__.py").exists())


def test_every_room_is_in_a_layer():
    assert {room(name_of(path)) for path in MODULES} <= set().union(*LAYERS)
    assert len(MODULES) > 60


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_only_down_the_layers(path):
    own = name_of(path)
    upward = {other for other in imported(path.read_text(), own) if other.startswith("pipeline.") and level(other) > level(own)}
    assert not upward, f"{own} imports {', '.join(sorted(upward))} of a higher layer"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_what_is_kept_to_a_room_is_imported_in_that_room_only(path):
    own = name_of(path)
    outside = {other for other in imported(path.read_text(), own) if room(own) not in ONLY_IN.get(other.split(".")[0], {room(own)})}
    assert not outside


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_small_and_their_names_say_what_they_mean(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= LONGEST_MODULE
    assert max(map(len, lines), default=0) <= LONGEST_LINE
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or not tree.body, "a module begins by saying what it is for"
    names = {path.stem, *(node.name for node in ast.walk(tree) if isinstance(node, (ast.ClassDef, ast.FunctionDef)))}
    assert not {name for name in names if re.search(r"util|helper|manager|misc|common", name, re.IGNORECASE)}


def test_the_reader_of_imports_sees_lazy_relative_and_named_ones():
    """Without this a hidden import would pass the tests above."""
    text = (
        "import pipeline.journal as j\nfrom . import walk\nfrom ..selection import counts\n"
        "def f():\n    from pipeline.chain import run\n    return __import__('pipeline.cli')\n"
    )
    found = imported(text, "pipeline.search.actor")
    assert {"pipeline.journal", "pipeline.search.walk", "pipeline.selection.counts", "pipeline.chain.run", "pipeline.cli"} <= found
    assert "pipeline.pruning" in imported((ROOT / "pipeline/__init__.py").read_text())
    assert [level(f"pipeline.{name}") for name in ("config.load", "networks.zoo", "search.walk", "chain.run", "cli")] == [0, 1, 2, 3, 4]
    assert level("pipeline") == 4
