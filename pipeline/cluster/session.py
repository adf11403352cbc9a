"""A connection to Ray: a cluster that is already there, or one that the command starts on this machine and takes down again."""

import logging
import os
import random
import secrets
import shutil
import socket
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from pipeline.config.errors import BadInput, Stopped
from pipeline.config.settings import Cluster
from pipeline.stages.lock import is_running

CHECK_SECONDS = 5.0  # between two looks at whether the cluster itself is still there
ENDING_SECONDS = 15.0  # in which a command may end by itself once its cluster is gone
CONNECT_SECONDS = 10.0  # for a cluster's head to answer at all; Ray itself would try for many minutes
PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds in which a head may come back
PREFIX = "gfs-ray-"  # of temporary directories; short, since the paths of Ray's sockets may have 107 bytes
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # workers do the run's work: they get what an in-process run would get
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "MALLOC_ARENA_MAX": "2",  # each run of a reused trial is a new thread: with an arena each, freed memory would never come back
}

_TOKEN = secrets.token_hex(32)  # one per process: Ray's client reads it once


@contextmanager
def connected(cluster: Cluster, cpus: float, gpus: float = 0.0):
    """Inside, `ray` is connected. A local Ray has `cpus` and `gpus` to give; inside a Ray process its own connection is used."""
    if cluster.address is not None:
        check_address(cluster.address)
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "3")  # of half a minute each, where something listens that is no Ray
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    secured = _secured() if cluster.address is None else {}
    os.environ.update(secured)
    import ray

    if ray.is_initialized():
        yield ray
        return
    folder = _temporary_folder() if cluster.address is None else None
    starter = ThreadPoolExecutor(1)
    try:
        with _temporary_files_in(folder):
            _await(starter.submit(_connect, ray, cluster, cpus, gpus, folder))
        yield ray
    except SystemError as error:  # Ray's C code cannot hand on what a stop signal raises inside it
        if isinstance(error.__cause__, Stopped):
            raise error.__cause__ from None
        raise
    finally:
        ray.shutdown()
        starter.shutdown()
        for name in secured:
            os.environ.pop(name, None)
        if folder:
            _remove(folder)


def check_address(address: str) -> None:
    """Refuse, within seconds, an address at which no Ray can be."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise BadInput(f"cluster.address: {address!r} is no address of a Ray cluster; give host:port as `ray start --head` prints it, or auto")
    try:
        _touch(host, port)
    except (OSError, OverflowError, UnicodeError) as error:
        raise BadInput(f"cluster.address: {address}: no Ray answers there ({error}); start one with `ray start --head`") from error


def check_running(ray) -> None:
    """Stop when the cluster's head is gone and stays away; Ray itself would end this very process, after a minute."""
    address = ray.get_runtime_context().gcs_address
    for pause in (*PAUSES, None):
        try:
            return _touch(*address.rsplit(":", 1))
        except OSError as error:
            if pause is None:
                raise Stopped(f"cluster: the Ray cluster at {address} went down ({error}); run the same command to go on") from error
            time.sleep(pause)


@contextmanager
def ended_with_its_head(ray, observe):
    """Inside, a cluster that goes down ends this process resumably, where a `Stopped` of the main thread cannot.

    That may wait inside Ray for a head that is gone, until Ray ends the process with another code and without a word.
    """
    ended = threading.Event()

    def look():
        try:
            while not ended.wait(CHECK_SECONDS):
                check_running(ray)
        except Stopped as stop:
            if not ended.wait(ENDING_SECONDS):
                observe({"event": "error", "code": stop.exit_code, "message": str(stop)})
                print(f"gfs: error: {stop}", file=sys.stderr, flush=True)
                os._exit(stop.exit_code)

    threading.Thread(target=look, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _touch(host: str, port: str) -> None:
    socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def _await(start) -> None:
    """Wait for a Ray that starts in another thread: there it leaves signal handlers alone, and no stop breaks into it.

    That thread has to live on: Ray's processes end with the thread that started them.
    """
    try:
        start.result()
    finally:
        wait([start])  # half a Ray cannot be taken down


@contextmanager
def _temporary_files_in(folder: Path | None):
    """Processes started inside leave their temporary files in `folder`: they are killed and tidy nothing up."""
    before = os.environ.get("TMPDIR")
    if folder:
        os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("TMPDIR", None)
        if before is not None:
            os.environ["TMPDIR"] = before


def _secured() -> dict[str, str]:
    """Token authentication of a local Ray, whatever a user's own settings are for; a Ray that runs us has set its own."""
    if os.environ.get("RAY_AUTH_TOKEN") and os.environ.get("RAY_AUTH_MODE") == "token":
        return {}
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _TOKEN}


def _connect(ray, cluster, cpus, gpus, folder, tries=3) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        if cluster.address is None:
            ray.init(num_cpus=cpus, num_gpus=gpus, include_dashboard=False, _temp_dir=str(folder), **quiet)
        else:
            ray.init(address=cluster.address, **quiet)
    except (ConnectionError, ValueError, PermissionError) as error:
        reason = str(error).partition("\n")[0]
        message = f"cluster.address: {cluster.address}: no Ray lets us in ({reason}); start one with `ray start --head`, or give its RAY_AUTH_TOKEN"
        raise BadInput(message) from error
    except (RuntimeError, TimeoutError, OSError) as error:
        if tries > 1:  # two that start at the same moment may pick the same port
            ray.shutdown()
            time.sleep(random.uniform(0.5, 3))
            return _connect(ray, cluster, cpus, gpus, folder, tries - 1)
        raise Stopped(f"cluster: Ray did not start ({str(error).partition(chr(10))[0]}); run the same command again") from error


def _temporary_folder() -> Path:
    """A new directory for Ray's sockets and logs, named by this process; those that dead ones left behind are removed."""
    place = Path(tempfile.gettempdir())
    for path in place.glob(f"{PREFIX}*"):
        pid = path.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and not is_running(int(pid)):
            shutil.rmtree(path, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=place))


def _remove(folder: Path) -> None:
    """Remove a directory in which processes that are ending may still write."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
