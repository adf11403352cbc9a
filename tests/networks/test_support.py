"""The table of supported families in README.md: every row is proved here, or is the refusal; GFS_WRITE_GOLDEN=1 rewrites it.

A row's network is small or seen at small images, its weights are random. With random and with greedy choices the gated network
is the shrunk one, the saved one comes back the same, and the counted MACs are those of the really smaller module.
"""

import copy
import os
import warnings
from dataclasses import dataclass, field

import pytest
import timm
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from pipeline.config.errors import UnsupportedModule
from pipeline.networks.cost import CostTable, count_layers
from pipeline.networks.gates import FOLDING_LIMIT, folding_difference
from pipeline.networks.onnx_file import convert
from pipeline.networks.saved import arch_of, load_pruned, save_pruned
from pipeline.networks.shrink import apply_choice
from pipeline.networks.units import find_units, without_large
from pipeline.networks.zoo import blueprint, build
from pipeline.search.artifacts import load_choice
from pipeline.search.question import Commit
from tests.conftest import ROOT
from tests.networks.samples import images, shaken
from tests.networks.test_cost import counted_by_torch
from tests.networks.test_folding import random_choices
from tests.search.benches import bench, samples, search

SMALL = {"layers": (1, 2, 1, 1), "channels": (8, 8, 12, 16)}
TOKENS = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
MAPS = {"depths": (1, 1, 2, 1), "dims": (8, 12, 12, 16)}


@dataclass(frozen=True)
class Row:
    """A timm network, the arguments that make it small, the side of the images it is proved on."""

    model: str
    side: int = 32
    arguments: dict = field(default_factory=dict)


SUPPORTED = {
    "MobileNetV2": Row("mobilenetv2_050"),
    "MnasNet": Row("mnasnet_050"),
    "EfficientNet-Lite": Row("tf_efficientnet_lite0"),
    "EfficientNet": Row("efficientnet_b0"),
    "MobileNetV3": Row("mobilenetv3_small_050"),
    "ResNet, basic blocks": Row("resnet18", arguments=SMALL),
    "ResNet, bottlenecks": Row("resnet50", arguments=SMALL),
    "SE-ResNet": Row("seresnet18", arguments=SMALL),
    "ResNeXt": Row("resnext50_32x4d", arguments=SMALL | {"cardinality": 4, "base_width": 32}),
    "RegNet": Row("regnetx_002"),
    "RegNet with squeeze-excite": Row("regnety_002"),
    "VGG with batch norm": Row("vgg11_bn", arguments={"mlp_ratio": 0.01}),
    "ConvNeXt": Row("convnext_tiny", arguments=MAPS),
    "ViT": Row("vit_tiny_patch16_224", arguments=TOKENS),
    "DeiT, distilled": Row("deit_tiny_distilled_patch16_224", arguments=TOKENS),
}
REFUSED = {
    "ResNeSt": Row("resnest14d"),
    "DenseNet": Row("densenet121"),
    "GhostNet": Row("ghostnet_050"),
    "ConvNeXt V2": Row("convnextv2_atto"),
    "Swin": Row("swin_tiny_patch4_window7_224"),
    "EVA-02": Row("eva02_tiny_patch14_224"),
}
ROWS = SUPPORTED | REFUSED
COLUMNS = ("family", "proved on", "units", "in groups", "with squeeze-excite", "read by several layers", "random", "reconstruction, re-fitted", "exported")
HEAD = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
BEGIN, END = "<!-- table made by tests/networks/test_support.py -->", "<!-- end of table -->"
HAS = (lambda unit: unit.groups > 1, lambda unit: bool(unit.squeezes), lambda unit: len(unit.consumers) > 1)
LARGEST = 1300  # columns of a Gram matrix: greedy choices of these tests in seconds


def built(name: str) -> nn.Module:
    """The row's network in float64; no parameter keeps an initial value that could hide a mistake (a layer scale of 1e-6)."""
    row = ROWS[name]
    network = shaken(build(blueprint(row.model, 7, 3, row.side, row.arguments)))
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if not isinstance(module, (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm)):
            for parameter in module.parameters(recurse=False):
                parameter.data.uniform_(0.5, 1.5, generator=generator)
    return network.double()


def greedy_choices(network, units, side, folder) -> dict:
    """A sixth of each unit by a sequential search with re-fits; units of many columns are left whole."""
    few = without_large(units, LARGEST)
    given = bench(network, samples(12, 3, side, 7, 6, torch.float64), folder, few)
    widths = {name: unit.groups * max(1, unit.width // unit.groups // 6) for name, unit in few.units.items()}
    lines = search(given, widths, 12, selector="reconstruction", refit="lsq", mode="sequential", calibration_samples=12)
    commits = [Commit(line["unit"], tuple(line["kept"]), line["artifact"], line["sha256"]) for line in lines if line["kind"] == "unit"]
    return {commit.unit: load_choice(folder, commit) for commit in commits}


def proved(name: str, network, units, choices, folder) -> str:
    """"equal" where everything that must be equal is; else what is not."""
    row, values = ROWS[name], images(2, 3, ROWS[name].side).double()
    if (difference := folding_difference(network, units, choices, values)) > FOLDING_LIMIT:
        return f"gated and shrunk differ by {difference:.1e}"
    small = copy.deepcopy(network)
    for unit, choice in choices.items():
        apply_choice(small, units.units[unit], choice)
    small = small.float()
    save_pruned(folder, small, arch_of(blueprint(row.model, 7, 3, row.side, row.arguments), units, choices, ["hidden"]))
    with torch.no_grad():
        if not torch.equal(load_pruned(folder).double()(values), small.double()(values)):
            return "not the same after loading"
    table, widths = CostTable(network, units, values[:1]), {unit: len(choice.kept) for unit, choice in choices.items()}
    cost, dense = table.cost(widths), table.cost({})
    counted = sum(layer.macs(layer.inputs, layer.outputs) for layer in count_layers(small, values[:1]))
    saved = counted_by_torch(network, values[:1]) - counted_by_torch(small, values[:1])  # attention has products of its own
    params = sum(parameter.numel() for parameter in small.parameters())
    return "equal" if (cost.macs, dense.macs - cost.macs, cost.params) == (counted, saved, params) else f"counts {cost}, found {counted}"


def exported(network, units, choices, values, path) -> str:
    """"equal" where ONNX's own evaluator gives in float64 what the shrunk network gives; "as dense" where ONNX holds constants of
    an activation or a norm in float32, so that the dense network's file differs from it as well."""
    small = copy.deepcopy(network)
    for unit, choice in choices.items():
        apply_choice(small, units.units[unit], choice)
    difference = difference_of_onnx(small, values, path)
    if difference <= FOLDING_LIMIT:
        return "equal"
    of_dense = difference_of_onnx(network, values, path)
    return "as dense" if FOLDING_LIMIT < of_dense and difference <= 10 * of_dense <= 1e-5 else f"differs by {difference:.1e}"


def difference_of_onnx(network, values, path) -> float:
    """Largest difference of what the file gives from what the network gives, relative to the largest output."""
    convert(network.eval(), values, path, {})
    with torch.no_grad():
        expected = network(values)
    (found,) = ReferenceEvaluator(str(path)).run(None, {"images": values.numpy()})
    return float((torch.from_numpy(found) - expected).abs().max() / expected.abs().max())


def line_of(name: str, folder) -> str:
    """A row of the table as it is found to be."""
    row = ROWS[name]
    given = ", ".join(f"{key} {value}" for key, value in row.arguments.items())
    place = f"`{row.model}`" + (f", {given}" if given else "")
    try:
        if name in REFUSED:
            with torch.device("meta"):
                find_units(timm.create_model(row.model).eval())
        network = built(name)
        units = find_units(network)
    except UnsupportedModule as error:
        return f"| {name} | `{row.model}` | refused: {error} | | | | | | |"
    chosen = {"random": random_choices(network, units), "greedy": greedy_choices(network, units, row.side, folder)}
    found = [proved(name, network, units, choices, folder / kind) for kind, choices in chosen.items()]
    found.append(exported(network, units, chosen["greedy"], images(2, 3, row.side).double(), folder / "model.onnx"))
    every = units.units.values()
    counts = (len(every), *(sum(map(has, every)) for has in HAS))
    return f"| {name} | {place} at {row.side} | {' | '.join(map(str, counts))} | {' | '.join(found)} |"


def table() -> list[str]:
    """The lines between the marks in README.md."""
    text = (ROOT / "README.md").read_text()
    return text[text.index(BEGIN) : text.index(END)].splitlines()[1:]


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_every_row_of_the_table_is_what_is_found(name, tmp_path):
    (tmp_path / "random").mkdir(), (tmp_path / "greedy").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm tells which of its own layers are old
        line = line_of(name, tmp_path)
    assert ("refused" in line) == (name in REFUSED) and line.count(" equal ") + line.count(" as dense ") == 3 * (name in SUPPORTED), line
    if os.environ.get("GFS_WRITE_GOLDEN"):
        write(name, line)
    assert line in table()


def write(name: str, line: str) -> None:
    """Put a row in its place; `pytest -n 0`, for rows are written one after the other."""
    text = (ROOT / "README.md").read_text()
    rows = {row.split("|")[1].strip(): row for row in table()[2:]} | {name: line}
    body = "\n".join([BEGIN, *HEAD, *(rows[known] for known in ROWS if known in rows)])
    (ROOT / "README.md").write_text(text[: text.index(BEGIN)] + body + "\n" + text[text.index(END) :])


def test_the_table_has_a_row_for_every_family_and_no_other():
    assert table()[:2] == HEAD
    assert [row.split("|")[1].strip() for row in table()[2:]] == list(ROWS)
