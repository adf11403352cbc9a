"""When looking on ends: with the work, but not with a stop after which it goes on at once."""

import time

LOOK_SECONDS, RESUME_SECONDS = 0.5, 3.0


class Ending:
    """Asked at each look with the status."""

    def __init__(self, clock=time.monotonic):
        self.clock = clock
        self.ran, self.since = False, None

    def has_come(self, status: dict) -> bool:
        """Whether the work has ended: at once when it is done or failed or never ran, after a while when it was stopped.

        A job that waits in a queue has not.
        """
        state = status["state"]
        if state == "running" or (state == "pending" and status["job"]):
            self.ran, self.since = True, None
            return False
        self.since = self.clock() if self.since is None else self.since
        return state != "stopped" or not self.ran or self.clock() - self.since > RESUME_SECONDS
