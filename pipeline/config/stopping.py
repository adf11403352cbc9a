"""The signals that stop a run: each raises Stopped once, and waits where it may not break in."""

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager

from pipeline.config.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
AGAIN_SECONDS = 10  # the way out must not be cut short; but a stop that was lost in a destructor can be asked for again

_told, _waiting, _held = float("-inf"), None, 0


def raise_on_signals() -> None:
    """Let the stop signals raise Stopped in the main thread."""
    for number in SIGNALS:
        signal.signal(number, _stop)


def _stop(number, frame=None):
    global _told, _waiting
    if _held:
        _waiting = number
    elif time.monotonic() - _told > AGAIN_SECONDS:
        _told = time.monotonic()
        raise Stopped(f"stopped by {signal.Signals(number).name}; run the same command to go on")


@contextmanager
def held():
    """Inside, no stop signal raises: it does at the end. Processes that are started inside never see one.

    Those end when their parent ends them; a signal to the whole process group would kill them first, with a traceback each.
    """
    global _held, _waiting
    _held += 1
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _held -= 1
        if not _held and _waiting is not None:
            number, _waiting = _waiting, None
            _stop(number)


def end_only_by_parent(number: int = 0) -> None:
    """In a process started while `held`: of its blocked signals heed one, the parent's own SIGTERM.

    By it Python ends at its exit what is left over, and then waits for it.
    """

    def wait():
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
            pass
        os._exit(0)

    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        threading.Thread(target=wait, daemon=True).start()


def finish() -> None:
    """The command is over, its exit code stands: signals come too late, and processes that a stop left behind are killed."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if "multiprocessing" in sys.modules:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's own handler would raise at their end
        for child in sys.modules["multiprocessing"].active_children():
            child.kill()
