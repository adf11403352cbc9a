"""What a site's SLURM wants of a job: partition, account, sizes, modules, container. Read from a small YAML file."""

import difflib
import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator

from pipeline.config.errors import BadInput
from pipeline.config.model import Section
from pipeline.config.yaml import parse

VARIABLE = "GFS_SITE"
LONGEST_SCRATCH = 40  # bytes: the paths of Ray's sockets lie below it and may have 107
SECRET = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)

Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:+@/%=&|*\[\]()!-]+$", max_length=200)]  # stands in an #SBATCH line as it is


class Site(Section):
    """Everything has a default; most sites need `partition`, `account`, `time` and the sizes."""

    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    reservation: Word | None = None
    time: Word | int | None = None  # as SLURM writes it: minutes, 12:00:00, 2-00:00:00
    nodes: int = Field(1, ge=1)
    cpus: int = Field(1, ge=1)  # of each node
    gpus: int = Field(0, ge=0)  # of each node
    memory: Word | None = None  # of each node: 16G
    exclusive: bool = False
    options: list[Word] = []  # further #SBATCH options: --mail-type=END
    tasks_at_once: int | None = Field(None, ge=1)  # of an array; null = as many as there is room for
    notice_seconds: int = Field(120, ge=5)  # before the time limit: the run stops, resumably, and goes back to the queue
    requeues: int = Field(20, ge=0)  # how often one job may go back to the queue by itself
    wait_seconds: int = Field(300, ge=1)  # for every node to answer, and once more for all of Ray
    scratch: str = Field("/tmp", pattern=r"^/")  # on each node's own disk, for Ray's sockets and logs
    modules: list[str] = []  # module load ...
    prologue: list[str] = []  # lines of bash, as they are
    variables: dict[str, str] = {}  # exported in the job
    container: list[str] = []  # the words that programs are started with: [apptainer, exec, --nv, image.sif]
    bin: str | None = None  # where gfs, ray and python lie on the nodes; null = where this gfs lies

    @field_validator("options")
    @classmethod
    def _options(cls, value):
        for option in value:
            if not re.match(r"--[a-z]", option):
                raise ValueError(f"{option!r} is no sbatch option; write --name=value")
        return value

    @field_validator("scratch")
    @classmethod
    def _short(cls, value):
        if len(os.fsencode(value)) > LONGEST_SCRATCH:
            raise ValueError(f"has more than {LONGEST_SCRATCH} bytes, too long for the paths of Ray's sockets; give a shorter one")
        return value

    @field_validator("variables")
    @classmethod
    def _no_secrets(cls, value):
        for name in value:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"{name!r} is no name of a variable")
            if SECRET.search(name):
                raise ValueError(f"{name} looks like a secret, and a script can be read by others; Weights & Biases reads ~/.netrc on the nodes")
        return value

    @field_validator("modules", "prologue", "container", "variables", "scratch", "bin")
    @classmethod
    def _writable(cls, value):
        for word in [value] if isinstance(value, str) else value.values() if isinstance(value, dict) else value or ():
            if "\0" in word or not _is_encodable(word):
                raise ValueError("holds what no word of a script can: a zero byte or half a character")
        return value


def load_site(given: str | None) -> Site:
    """The site of `--site FILE`, of GFS_SITE, of ~/.config/goodsubnets/slurm.yaml, or the defaults. Raises BadInput naming file and key."""
    path = given or os.environ.get(VARIABLE) or _usual()
    if path is None:
        return Site()
    try:
        plain = parse(Path(path).read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"{path}: cannot be read ({reason}); give a site file, such as slurm/site.yaml") from error
    if not isinstance(plain or {}, dict):
        raise BadInput(f"{path}: holds no settings; start from slurm/site.yaml")
    try:
        return Site.model_validate(plain or {})
    except ValidationError as error:
        raise BadInput(f"{path}: {_explain(error.errors()[0])}") from error


def _is_encodable(word: str) -> bool:
    try:
        os.fsencode(word)
        return True
    except UnicodeEncodeError:
        return False


def _usual() -> Path | None:
    path = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "goodsubnets" / "slurm.yaml"
    return path if path.exists() else None


def _explain(fault: dict) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, Site.model_fields, n=1)
        return f"{key}: unknown setting; {f'did you mean {near[0]}?' if near else 'known here: ' + ', '.join(Site.model_fields)}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    shown = f" (found {fault['input']!r})" if key and not isinstance(fault.get("input"), dict) else ""
    return f"{key}: {message}{shown}" if key else message
