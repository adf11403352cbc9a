"""A lock that a dead holder does not keep: one file, created exclusively, touched while its holder lives."""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path

from pipeline.config.errors import Stopped

TOUCH_SECONDS, STALE_SECONDS = 10, 90


class Lock:
    """`with Lock(folder, what, wait)`: refuses at once (wait=None) or waits, calling wait(holder) once, while another lives."""

    def __init__(self, folder: Path, what: str, wait=None):
        self.path, self.what, self.wait = Path(folder) / "lock.json", what, wait
        self.token = secrets.token_hex(8)
        self.ended = threading.Event()

    def __enter__(self):
        told = False
        while not self._take():
            holder = read_holder(self.path)
            if self.wait is None:
                raise Stopped(f"{self.what}: is locked by live process {_name(holder)}; wait for it or stop it, then run the same command")
            if not told:
                self.wait(f"{self.what}: waiting for process {_name(holder)}")
                told = True
            time.sleep(0.5)
        threading.Thread(target=self._touch, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        if read_holder(self.path).get("token") == self.token:
            self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise Stopped if the lock was taken over; asked before each commit."""
        if read_holder(self.path).get("token") != self.token:
            raise Stopped(f"{self.what}: its lock was taken over by another process; run the same command to go on")

    def _take(self) -> bool:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        mine = {"host": socket.gethostname(), "boot": boot_id(), "pid": os.getpid(), "started": _started(os.getpid()), "token": self.token}
        temporary = self.path.with_name(f".lock.{self.token}")
        try:
            temporary.write_text(json.dumps(mine))
            os.link(temporary, self.path)  # exclusive, and never seen half-written
            return True
        except FileExistsError:
            return self._take_over() and self._take()
        except FileNotFoundError:
            return False  # the holder removed the folder of a stage that met bad input: begin anew
        finally:
            temporary.unlink(missing_ok=True)

    def _take_over(self) -> bool:
        """Move a stale lock out of the way; False while its holder lives."""
        seen = read_holder(self.path)
        if is_live(self.path):
            return False
        aside = self.path.with_name(f".stale.{self.token}")
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path, aside)
            if read_holder(aside).get("token") != seen.get("token"):  # somebody took over first: give it back
                with contextlib.suppress(FileExistsError):
                    os.link(aside, self.path)
            aside.unlink(missing_ok=True)
        return True

    def _touch(self):
        while not self.ended.wait(TOUCH_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self.path)


def read_holder(path: Path) -> dict:
    """The content of a lock file; empty when there is none."""
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError):
        return {}


def is_live(path: Path) -> bool:
    """Whether the lock at `path` is held by a process that lives."""
    holder = read_holder(path)
    if holder.get("host") == socket.gethostname():
        return holder.get("boot") == boot_id() and _started(holder.get("pid", -1)) == holder.get("started", "")
    try:
        touched = Path(path).stat().st_mtime
    except FileNotFoundError:
        return False
    return _now(Path(path).parent) - touched < STALE_SECONDS


def boot_id() -> str:
    """What changes when this machine boots."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def is_running(pid: int) -> bool:
    """Whether a process of this host lives."""
    return _started(pid) is not None


def _started(pid: int) -> str | None:
    """The start time of a live process, so that a reused pid is not taken for the holder; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except (OSError, IndexError):
        if Path("/proc/self").exists():
            return None
    try:
        os.kill(pid, 0)
        return ""
    except OSError:
        return None


def _now(folder: Path) -> float:
    """The file system's own clock."""
    probe = folder / f".clock.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        probe.unlink(missing_ok=True)


def _name(holder: dict) -> str:
    return f"{holder.get('pid', '?')} on {holder.get('host', '?')}"
