"""The scribe's process as the run sees it: started, told things, asked for its answer, ended."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

PASSED_ON = ("WANDB_BASE_URL", "WANDB_INIT_TIMEOUT", "WANDB_FINISH_TIMEOUT", "WANDB_INSECURE_DISABLE_SSL")
ONLINE_ONLY = ("WANDB_API_KEY", "WANDB_ENTITY", "WANDB_CONFIG_DIR")  # the last holds the server that `wandb login --host` noted
SCRATCH = ".scratch"


class Process:
    """One scribe. It has one earlier mirror to replace: <run>/wandb is made anew."""

    def __init__(self, mode: str, about: dict):
        self.mode, self.home = mode, Path(about["folder"]) / "wandb"
        if self.home.exists():
            shutil.rmtree(self.home)
        (self.home / SCRATCH).mkdir(parents=True)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pipeline.tracking.scribe"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self.home,
            env=_environment(mode, self.home),
            start_new_session=True,  # a terminal's Ctrl-C is for the run alone
        )
        self.tell(about | {"mode": mode})

    def tell(self, message: dict) -> None:
        with contextlib.suppress(BrokenPipeError):  # its answer says why it is gone
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def answer(self, seconds: float) -> dict | None:
        """What it said, waiting at most so long; None as long as it says nothing."""
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            return None
        line = self.process.stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else {"failed": f"its process ended with code {self.process.wait()}", "broken": False}

    def end(self, seconds: float = 0) -> None:
        """Let it go by itself for so long, then kill it; clear its scratch away."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        shutil.rmtree(self.home / SCRATCH, ignore_errors=True)
        for log in self.home.glob("*run-*/logs/*"):
            if not log.exists():
                log.unlink(missing_ok=True)  # a link into the scratch: whoever copies the run would stumble over it


def _environment(mode: str, home: Path) -> dict:
    """This process's, with W&B's own settings cut to what a user needs and every place of W&B's inside the run directory.

    TMPDIR is relative to the process's directory: W&B puts a socket there, whose path must stay short.
    """
    kept = PASSED_ON + (ONLINE_ONLY if mode == "online" else ())
    scratch = home / SCRATCH
    given = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_") or name in kept}
    root = str(Path(__file__).parents[2])
    own = {
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
        "TMPDIR": SCRATCH,
        "WANDB_DIR": str(home.parent),
        "WANDB_DATA_DIR": str(home / "data"),
        "WANDB_ARTIFACT_DIR": str(scratch / "artifacts"),
        "WANDB_CACHE_DIR": str(scratch / "cache"),
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
    }
    return given | own | ({} if mode == "online" else {"WANDB_CONFIG_DIR": str(scratch / "config")})
