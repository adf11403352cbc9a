"""Image folders in ImageNet layout: one folder per class; what would be lost or misread is refused by name, before anything is written."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.config.errors import BadInput
from pipeline.data.images import fault_of
from pipeline.data.tar import IMAGE_SUFFIXES

OTHER_IMAGES = ("tif", "tiff", "gif", "bmp", "heic", "heif", "avif", "jp2", "jfif", "jpe", "ppm", "pgm", "pnm", "dng", "tga", "ico", "svg", "npy")
NAMED = 3  # faulty images that one error names


@dataclass(frozen=True)
class Files:
    """Image files of one split: `files(i)` gives (suffix, bytes) of sample i."""

    paths: list[Path]

    def __call__(self, i):
        path = self.paths[i]
        return path.suffix[1:].lower(), path.read_bytes()

    def stamp(self, i):
        """(size, time): changes when the image does."""
        status = self.paths[i].stat()
        return [status.st_size, status.st_mtime_ns]

    def refuse_faulty(self, picks, whole: bool) -> None:
        """Raise BadInput naming the first images among `picks` that cannot be used, and how many there are.

        `whole`: every pixel is decoded; else the header alone is read, which tells bombs, empty files and what is no image.
        """
        faulty = [(self.paths[i], fault) for i in sorted(picks) if (fault := fault_of(self.paths[i], whole))]
        if faulty:
            named = "; ".join(f"{path}: {fault}" for path, fault in faulty[:NAMED])
            rest = f"; and {len(faulty) - NAMED} more" if len(faulty) > NAMED else ""
            raise BadInput(f"{named}{rest}; replace or remove {'it' if len(faulty) == 1 else 'them'}")


@dataclass(frozen=True)
class ClassFolders:
    """One split of a folder: class names in label order, (key, label) of every sample, its files."""

    classes: tuple[str, ...]
    samples: list[tuple[str, int]]
    files: Files


def class_folders(root: Path, split: str) -> ClassFolders:
    """root/train and root/test (or root/val, taken as test), each with one folder per class."""
    places = [root / "train"] if split == "train" else [root / "test", root / "val"]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise BadInput(f"{root}: has no folder {' or '.join(place.name for place in places)}; give a folder with train/ and test/ (or val/)")
    entries = _visible(folder)
    if loose := next((entry for entry in entries if _suffix(entry) in (*IMAGE_SUFFIXES, *OTHER_IMAGES) and not entry.is_dir()), None):
        raise BadInput(f"{loose}: lies beside the class folders; put it into the folder of its class or remove it")
    classes = tuple(entry.name for entry in entries if entry.is_dir())
    if not classes:
        raise BadInput(f"{folder}: has no class folders; put each class's images into a folder of its own")
    if odd := next((name for name in classes if not name.isprintable()), None):
        raise BadInput(f"{folder}: the class folder {odd!r} has characters that no report can print; rename it")
    paths, samples, seen = [], [], {}
    for label, name in enumerate(classes):
        for file in _images(folder / name):
            key = f"{name}/{file.stem}".replace(".", "_")
            if other := seen.get(key):
                raise BadInput(f"{file}: gives the sample key {key!r}, as {other} does; rename one of the two")
            seen[key] = file
            paths.append(file)
            samples.append((key, label))
    return ClassFolders(classes, samples, Files(paths))


def _images(folder: Path) -> list[Path]:
    """The images of one class, by name. What is no image by its name is left out; images that would be lost are refused."""
    images = []
    for entry in _visible(folder):
        if entry.is_dir():
            if not _visible(entry):
                continue
            raise BadInput(f"{entry}: is a folder inside a class folder; put its images into {folder.name}/ itself or remove it")
        suffix = _suffix(entry)
        if suffix in OTHER_IMAGES:
            raise BadInput(f"{entry}: {suffix} images are not read; convert it to one of {', '.join(IMAGE_SUFFIXES)}, or remove it")
        if suffix not in IMAGE_SUFFIXES:
            continue
        if not entry.is_file():
            what = "a link to nothing" if entry.is_symlink() and not entry.exists() else "no plain file"
            raise BadInput(f"{entry}: is {what}; mend or remove it")
        images.append(entry)
    if not images:
        raise BadInput(f"{folder}: holds no image ({', '.join(IMAGE_SUFFIXES)}); add some or remove the folder")
    return images


def _visible(folder: Path) -> list[Path]:
    """What lies in a folder, by name, but for what programs leave beside images: .DS_Store, .ipynb_checkpoints/, ._0001.png."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise BadInput(f"{folder}: cannot be read ({error.strerror}); mend its permissions") from error


def _suffix(path: Path) -> str:
    return path.suffix[1:].lower()
