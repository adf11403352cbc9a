"""`gfs export`: the network of a finished run as ONNX, beside its result."""

from pathlib import Path

from pipeline.config.errors import BadInput
from pipeline.config.files import read_json
from pipeline.config.load import load_config
from pipeline.networks.onnx_file import refuse_without_onnx, write_onnx
from pipeline.networks.saved import load_pruned
from pipeline.networks.zoo import preprocess_of
from pipeline.stages.groups import GROUP

ONNX = "model.onnx"


def export_run(path: str) -> tuple[Path, float]:
    """(PATH/model.onnx, its largest relative difference from torch). Raises BadInput for what is no finished run, Failed where it differs."""
    folder = Path(path)
    if (folder / GROUP).exists():
        raise BadInput(f"{path}: is a group; give the directory of one of its runs")
    if not (folder / "result.json").exists():
        what = "has no result.json: end the run first" if (folder / "config.yaml").exists() else "is no run; give a directory that `gfs run` printed"
        raise BadInput(f"{path}: {what}")
    refuse_without_onnx()
    try:
        row = read_json(folder / "result.json")
        notes = {name: str(row[name]) for name in ("model", "run", "run_hash", "selector", "refit", "arm", "top1", "macs", "data_digest")}
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{folder / 'result.json'}: is damaged ({error}); delete it and run again") from error
    network, settings = load_pruned(folder), load_config(folder / "config.yaml", []).network
    images = preprocess_of(network, settings)
    notes |= {name: ",".join(f"{value:g}" for value in getattr(images, name)) for name in ("mean", "std")}
    notes |= {"crop_pct": f"{images.crop_pct:g}", "interpolation": images.interpolation}
    return folder / ONNX, write_onnx(network, (images.in_chans, images.img_size, images.img_size), folder / ONNX, notes)
