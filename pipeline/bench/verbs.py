"""The verbs of `gfs bench`: their options, and what each runs."""

import sys
from argparse import ArgumentTypeError

FEWEST = 8  # images: one of each class for every bench


def add_benches(verb) -> None:
    """Give every bench its parser; `verb(name, function, description)` makes one. Nothing heavy is imported before one runs."""
    scaling = verb("scaling", _scaling, "two Ray workers beside two bare processes that do the halves")
    counted = verb("coordinator", _coordinator, "answers and choices that one coordinator takes in, with 64 simulated workers")
    data = verb("data", _data, "the scoring and training streams beside timm's reader of the same shards")
    data.add_argument("--images", metavar="N", type=_images, default=256, help="images drawn for it; default: 256")
    selection = verb("selection", _selection, "searches beside the forward passes that they need")
    selection.add_argument("--images", metavar="N", type=_images, help="images of a Gram pass, at most of a walk; default: as fits the network")
    selection.add_argument("--network", metavar="NAME", action="append", help="a timm name, given once or more; default: mobilenetv2_100, resnet50")
    for bench in (scaling, counted, data, selection):
        bench.add_argument("--json", metavar="FILE", help="write the rows there too")


def _images(given: str) -> int:
    if not given.isdecimal() or int(given) < FEWEST:
        raise ArgumentTypeError(f"{given!r} is no number of images; give {FEWEST} or more")
    return int(given)


def _scaling(options) -> None:
    from pipeline.bench.scaling import bench_scaling

    _tell(bench_scaling(_progress), options)


def _coordinator(options) -> None:
    from pipeline.bench.coordinator import bench_coordinator

    _tell(bench_coordinator(_progress), options)


def _data(options) -> None:
    from pipeline.bench.data import bench_data

    _tell(bench_data(_progress, options.images), options)


def _selection(options) -> None:
    from pipeline.bench.selection import NETWORKS, bench_selection

    _tell(bench_selection(_progress, options.network or NETWORKS, options.images), options)


def _progress(line: str) -> None:
    print(line, file=sys.stderr)


def _tell(rows, options) -> None:
    from pipeline.bench.rows import save, table

    if options.json:
        save(rows, options.json)
    print(table(rows))
