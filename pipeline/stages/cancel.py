"""Stopping live work so that the same command goes on: the holder of the lock is asked to stop, and waited for."""

import contextlib
import os
import shlex
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.errors import BadInput, Stopped
from pipeline.stages.command import command_of
from pipeline.stages.groups import GROUP, read_names
from pipeline.stages.lock import is_live, read_holder
from pipeline.stages.status import GroupStatus, open_status
from pipeline.submit.submission import JOB
from pipeline.submit.submitted import at_work, stop_job

WAIT_SECONDS, AGAIN_SECONDS, LOOK_SECONDS, ASK_SECONDS = 180.0, 30.0, 0.1, 1.0


@dataclass(frozen=True)
class Held:
    """A lock with the process that holds it, as the file says."""

    path: Path
    holder: dict

    @property
    def pid(self) -> int:
        return int(self.holder.get("pid", -1))

    @property
    def is_here(self) -> bool:
        return self.holder.get("host") == socket.gethostname()

    def lives(self) -> bool:
        """Whether the same holder still has it."""
        return read_holder(self.path).get("token") == self.holder.get("token") and is_live(self.path)


def cancel(path: str, say, wait_seconds: float = WAIT_SECONDS) -> str:
    """Stop the run or group at `path`; what became of it, in one line.

    Raises BadInput when it cannot be stopped from here, Stopped when it has not ended in time.
    """
    looked = open_status(path)
    folder, is_group = looked.folder, isinstance(looked, GroupStatus)
    if words := at_work(folder):
        say(f"{folder.name}: {words}; it is asked to stop")
        _stop_job(folder, wait_seconds)
        return _after_job(folder, looked.look())
    locks = _locks_of_group(folder) if is_group else _locks_of_run(folder)
    if not locks:
        return f"{folder.name}: nothing is running; it is {looked.look()['state']}"
    for held in locks:
        if not held.is_here:
            raise BadInput(f"{folder.name}: runs on {held.holder.get('host')} as process {held.pid}; give `gfs cancel` there")
    say(f"{folder.name}: stopping process {', '.join(str(held.pid) for held in locks)}")
    _stop(folder, locks, wait_seconds)
    state = looked.look()["state"]
    if state == "done":
        return f"{folder.name}: was done before it could be stopped"
    return f"{folder.name}: {state}; go on with: {command_of(folder, 'sweep' if is_group else 'run')}"


def _held(folder: Path) -> list[Held]:
    path = Path(folder) / "lock.json"
    holder = read_holder(path)
    return [Held(path, holder)] if is_live(path) else []


def _locks_of_group(folder: Path) -> list[Held]:
    """The driver's: it ends its trials itself. Without a driver, those of trials that it left behind."""
    return _held(folder) or [held for name in _names(folder) for held in _held(folder.parent / name)]


def _locks_of_run(folder: Path) -> list[Held]:
    """Raises BadInput for a run that a live group works on: its driver would only start it again."""
    held = _held(folder)
    for group in sorted(folder.resolve().parent.glob(f"*/{GROUP}")) if held else ():
        if is_live(group.parent / "lock.json") and folder.resolve().name in _names(group.parent):
            group_command = f"gfs cancel {shlex.quote(str(group.parent))}"
            raise BadInput(f"{folder.name}: is at work in a group, which would start it again; stop the group: {group_command}")
    return held


def _names(group: Path) -> list[str]:
    """The runs of a group; none where its file is damaged."""
    try:
        return [name for name, _ in read_names(group)[2]]
    except BadInput:
        return []


def _stop(folder: Path, locks: list[Held], wait_seconds: float) -> None:
    """Ask all to stop, once more after a while, until every lock is free."""
    end, asked = time.monotonic() + wait_seconds, float("-inf")
    while alive := [held for held in locks if held.lives()]:
        now = time.monotonic()
        if now > end:
            pid = alive[0].pid
            raise Stopped(f"{folder.name}: process {pid} has not stopped within {wait_seconds:g} s; give the command again, or `kill -9 {pid}`")
        if now - asked > AGAIN_SECONDS:
            for held in alive:
                _ask(folder, held)
            asked = now
        time.sleep(LOOK_SECONDS)


def _after_job(folder: Path, status: dict) -> str:
    if status["state"] == "done":
        return f"{folder.name}: was done before it could be stopped"
    verb = f"submit {status['job']['launcher']}"
    return f"{folder.name}: {status['state']}; go on with: {command_of(folder, verb, f'{JOB}/config.yaml')}"


def _stop_job(folder: Path, wait_seconds: float) -> None:
    """Ask the job to stop, once more after a while, until its launcher says that it is gone."""
    end, asked = time.monotonic() + wait_seconds, float("-inf")
    while words := at_work(folder):
        now = time.monotonic()
        if now > end:
            raise Stopped(f"{folder.name}: {words} and has not stopped within {wait_seconds:g} s; give the command again")
        if now - asked > AGAIN_SECONDS:
            stop_job(folder)
            asked = now
        time.sleep(ASK_SECONDS)


def _ask(folder: Path, held: Held) -> None:
    """SIGTERM to this very process, never to another that got its number: the handle is opened first, then the holder is looked at."""
    try:
        with _handle(held.pid) as send:
            if held.lives():
                send(signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise BadInput(f"{folder.name}: process {held.pid} belongs to another user; cancel it as that user") from error


@contextlib.contextmanager
def _handle(pid: int):
    """send(signal) to the process that has this number now; where the system knows no handles, by its number."""
    if not hasattr(os, "pidfd_open"):
        yield lambda number: os.kill(pid, number)
        return
    descriptor = os.pidfd_open(pid)
    try:
        yield lambda number: signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)
