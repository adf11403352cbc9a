"""The three ways a command ends badly, each with its exit code."""


class BadInput(ValueError):
    """Bad input found before the work or at a sample's first reading: names the place, what was found, what to do."""

    exit_code = 2


class UnsupportedModule(BadInput):
    """A module that cannot be pruned safely; the message starts with its path."""


class Stopped(BaseException):
    """Work stopped in a state from which the same command goes on.

    No Exception: a signal raises it anywhere, and code that turns exceptions into errors must let it through.
    """

    exit_code = 75


class Failed(RuntimeError):
    """The same command would fail again: damage, a loss that is nowhere finite, networks that differ."""

    exit_code = 1
