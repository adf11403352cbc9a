"""The workers of one search: hired, watched, replaced when lost, a bounded number of times."""

import os
import sys
import time
from dataclasses import dataclass, field

from pipeline.chain.asking import Place
from pipeline.cluster.session import CHECK_SECONDS, check_running
from pipeline.cluster.worker import Worker
from pipeline.config.errors import Failed, Stopped
from pipeline.config.settings import Cluster

TOLD_SECONDS = 20.0  # workers that are not there by then are told of
ALIVE_SECONDS = 10.0  # in which a worker that is silent for too long must give a sign of life


@dataclass
class Task:
    """A question that a worker has: its place in its asking, the two objects that will come. Going ahead has no place and no answer."""

    asking: int
    index: int | None
    statistic: str
    receipt: object
    answer: object
    since: float  # when the worker could begin it


@dataclass(eq=False)
class Hand:
    """One worker: `opened` is its first sign of life until it came."""

    number: int
    actor: object
    opened: object
    tasks: list[Task] = field(default_factory=list)
    heard: float = 0.0  # when it last showed to be alive
    ahead: int = 0  # the latest asking after which it was let go ahead

    @property
    def ready(self) -> bool:
        return self.opened is None

    @property
    def questions(self) -> list[Task]:
        return [task for task in self.tasks if task.index is not None]

    def waited_for(self) -> list:
        """What will say something next: its opening, or the receipt of its first task."""
        return [self.opened] if not self.ready else [task.receipt for task in self.tasks[:1]]


class Crew:
    """Up to `cluster.workers` workers. Those for which there is no room yet wait for it, and work once it comes."""

    def __init__(self, ray, place: Place, cluster: Cluster, observe, faults=None, group=None):
        self.ray, self.place, self.cluster, self.observe, self.group = ray, place, cluster, observe, group
        self.faults = ray.cloudpickle.dumps(faults) if faults else None
        self.hired = 0
        self.lost: list[str] = []
        self.began = self.checked = time.monotonic()
        self.told = False
        self.hands = [self._hire() for _ in range(cluster.workers)]

    def _hire(self) -> Hand:
        number, self.hired = self.hired, self.hired + 1
        options = {"num_cpus": self.cluster.cpus, "num_gpus": self.cluster.gpus, "max_restarts": 0, "max_concurrency": 1}
        if self.group is not None:
            from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(self.group)
        worker = self.ray.remote(concurrency_groups={"life": 1})(Worker).options(**options)
        actor = worker.remote(self.place, number, os.getcwd(), sys.path, self.faults)
        return Hand(number, actor, actor.open.remote())

    @property
    def ready(self) -> list[Hand]:
        return [hand for hand in self.hands if hand.ready]

    def silent(self) -> list[Hand]:
        """Workers that had a question for `cluster.wait_seconds` and then gave no sign of life. Long work alone loses none."""
        now = time.monotonic()
        asked = [hand for hand in self.ready if hand.tasks and now - max(hand.heard, hand.tasks[0].since) > self.cluster.wait_seconds]
        if not asked:
            return []
        signs = {hand.actor.alive.options(concurrency_group="life").remote(): hand for hand in asked}
        heard = self.ray.wait(list(signs), num_returns=len(signs), timeout=ALIVE_SECONDS)[0]
        for sign in heard:
            hand = signs.pop(sign)
            hand.heard = time.monotonic()
            task = hand.tasks[0]
            message = f"cluster: worker {hand.number} is alive, at one block of {task.statistic} for {now - task.since:.0f} s"
            self.observe({"event": "notice", "message": message})
        return list(signs.values())

    def opened(self, hand: Hand) -> None:
        """Its network and data are loaded. Raises what it met while loading."""
        receipt = self.ray.get(hand.opened)
        if receipt.error:
            raise receipt.error(receipt.message)
        hand.opened = None
        self.tell()

    def lose(self, hand: Hand, reason: str) -> None:
        """Replace a lost worker. Raises Stopped, naming what was lost, once more were lost than may be."""
        if not hand.ready and "creation task" in reason:
            raise Failed(f"cluster: worker {hand.number} cannot start ({reason}); see that its node can import the product and its packages")
        self.hands.remove(hand)
        self.ray.kill(hand.actor)
        self.lost.append(f"worker {hand.number} ({reason})")
        if len(self.lost) > self.cluster.restarts:
            raise Stopped(
                f"cluster: lost {', '.join(self.lost)}; cluster.restarts allows {self.cluster.restarts} replacements; run the same command to go on"
            )
        self.observe({"event": "notice", "message": f"cluster: lost {self.lost[-1]}; its blocks are asked again, a new worker takes its place"})
        self.hands.append(self._hire())
        self.began, self.told = time.monotonic(), False
        self.tell()

    def tell(self) -> None:
        self.observe({"event": "workers", "alive": len(self.ready), "wanted": self.cluster.workers, "lost": len(self.lost)})

    def check_room(self) -> None:
        """Tell once of workers for which there is no room. Raises Stopped when none came in `cluster.wait_seconds`, or no cluster is left."""
        if time.monotonic() - self.checked > CHECK_SECONDS:
            check_running(self.ray)
            self.checked = time.monotonic()
        waited, missing = time.monotonic() - self.began, self.cluster.workers - len(self.ready)
        if missing and not self.told and waited > TOLD_SECONDS:
            self.told = True
            state = f"{missing} of {self.cluster.workers} workers are not there after {waited:.0f} s: they load, or wait for room"
            self.observe({"event": "notice", "message": f"cluster: {state}; {self._room()}"})
        if not self.ready and waited > self.cluster.wait_seconds:
            raise Stopped(f"cluster: no worker came within {self.cluster.wait_seconds:g} s; {self._room()}; make room and run the same command")

    def _room(self) -> str:
        free, each = self.ray.available_resources(), f"{self.cluster.cpus:g} CPU" + (f" and {self.cluster.gpus:g} GPU" if self.cluster.gpus else "")
        return f"each needs {each}, free are {free.get('CPU', 0):g} CPU and {free.get('GPU', 0):g} GPU"

    def end(self) -> None:
        """Let all workers go; their room is free at once."""
        for hand in self.hands:
            self.ray.kill(hand.actor)
