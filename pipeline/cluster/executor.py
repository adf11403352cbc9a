"""The Ray executor: questions to workers, their answers in order.

A block goes to where its data already lies. It is asked again when its worker dies and raced on an idle worker when it is late; the
first answer counts, a second one is ignored, for they are equal to the byte. Answers wait in the cluster's object store until
their turn: at most 2 x workers of them, and one beside the sum in the coordinator. A worker that has answered all of its share goes
ahead with its blocks while the others finish and the coordinator chooses.
"""

import bisect
import re
import shutil
import statistics
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.chain.asking import Place
from pipeline.cluster.crew import Crew, Hand, Task
from pipeline.cluster.session import connected, ended_with_its_head
from pipeline.config.settings import Cluster
from pipeline.search.question import Answer, Question
from pipeline.search.walk import SPILL

AHEAD = "the next unit, gone ahead to"  # what a worker is at between two askings
WINDOW = 2  # answers ahead of the one whose turn it is, per worker
LATE_SECONDS, LATE_TIMES = 5.0, 4  # an answer is late after this long and this many times the median of its kind
UNKNOWN_SECONDS = 60.0  # how long the first answer of a kind may take before it counts as late
TICK_SECONDS = 0.5


@contextmanager
def on_ray(place: Place, cluster: Cluster, observe, faults=None):
    """An executor on `cluster.workers` workers, and the Ray they run on. `faults`: see Worker; for tests."""
    with connected(cluster, cpus=cluster.workers * cluster.cpus, gpus=cluster.workers * cluster.gpus) as ray, ended_with_its_head(ray, observe):
        crew = Crew(ray, place, cluster, observe, faults, ray.util.get_current_placement_group())
        executor = OnRay(ray, crew, observe)
        try:
            yield executor
            executor.tell_shares()
        finally:
            crew.end()
            for path in Path(place.folder).glob(f"{SPILL}*"):  # killed workers tidy nothing up
                shutil.rmtree(path, ignore_errors=True)


class OnRay:
    """ask(questions) yields their answers in the questions' order; complete, or a loud stop."""

    def __init__(self, ray, crew: Crew, observe):
        self.ray, self.crew, self.observe = ray, crew, observe
        found = ray.exceptions
        self.losses = found.RayActorError, found.ObjectLostError, found.WorkerCrashedError, found.NodeDiedError, found.OutOfMemoryError
        self.asking = 0
        self.homes: dict[tuple[int, int], Hand] = {}  # sample block -> the worker that holds its activations
        self.seconds: dict[str, deque] = {}  # of the latest answers of each statistic
        self.shares: dict[str, Counter] = {}  # answers that counted, by statistic and worker
        self.ignored = 0  # second answers
        self.told_idle = False
        self.free: dict[Hand, None] = {}  # ready workers without a question
        self.single: dict[Hand, None] = {}  # those with one, which could take a second
        self.looked = 0.0  # when the crew was last looked after

    def warm(self) -> None:
        """Wait until every worker is there; a search does not: it begins with the first."""
        while len(self.crew.ready) < self.crew.cluster.workers:
            self._collect()

    def ask(self, questions: Iterable[Question]) -> Iterator[Answer]:
        """The answers in order. Raises what a worker met, or Stopped when too many were lost."""
        self.questions = list(questions)
        self.asking += 1
        self.waiting = list(range(len(self.questions)))  # in order, not given out
        self.answered: dict[int, object] = {}  # the answers that counted; None once taken
        self._tell_idle()
        for hand in self.crew.ready:
            self._place(hand)
        for turn in range(len(self.questions)):
            while (answer := self._fetch(turn)) is None:
                self._give_out(turn)
                self._employ_idle()
                self._collect()
            self._give_out(turn + 1)
            yield answer

    def _fetch(self, turn: int) -> Answer | None:
        """The answer whose turn it is; None while it has not come, or was lost with its node and is asked again."""
        if turn not in self.answered:
            return None
        try:
            answer = self.ray.get(self.answered[turn])
        except self.losses:
            del self.answered[turn]
            self._ask_again(turn)
            return None
        self.answered[turn] = None
        return answer

    def _place(self, hand: Hand) -> None:
        """Keep a ready worker among those that can take a question, by how many it has: nothing below looks at all of them."""
        self.free.pop(hand, None)
        self.single.pop(hand, None)
        if (number := len(hand.questions)) < 2:
            (self.single if number else self.free)[hand] = None

    def _give_out(self, turn: int) -> None:
        """A question to every worker without one; a second to each while there are plenty, so that none waits for its next."""
        workers = max(len(self.crew.hands), 1)
        end = turn + WINDOW * workers
        for hand in list(self.free):
            if not self.waiting or self.waiting[0] >= end:
                return
            self._give(hand, self._chosen(hand, end))
        for hand in list(self.single):
            if len(self.waiting) <= workers or self.waiting[0] >= end:
                return
            if not self._late(hand):
                self._give(hand, self._chosen(hand, end))

    def _give(self, hand: Hand, index: int | None) -> None:
        if index is None:
            return
        question = self.questions[index]
        if index in self.waiting:
            self.waiting.remove(index)
        if not question.candidates and (former := self.homes.get(question.samples)) is not hand:
            self.homes[question.samples] = hand
            if former is not None:
                former.actor.forget.remote(question.samples)
        receipt, answer = hand.actor.answer.options(num_returns=2).remote(question)
        hand.tasks.append(Task(self.asking, index, question.statistic, receipt, answer, time.monotonic()))
        self._place(hand)

    def _employ_idle(self) -> None:
        """Whoever got no question races a late one, or goes ahead."""
        late = self._late_blocks() if self.free else []
        for hand in list(self.free):
            if (index := next((index for index, other in late if other is not hand), None)) is not None:
                late = [pair for pair in late if pair[0] != index]
                self._give(hand, index)
            else:
                self._let_go_ahead(hand)

    def _let_go_ahead(self, hand: Hand) -> None:
        """Once per asking about whole sample blocks, when nothing is left to give out."""
        if hand.tasks or self.waiting or hand.ahead == self.asking or self.questions[0].candidates:
            return
        hand.ahead = self.asking
        held = [samples for samples, home in self.homes.items() if home is hand]
        hand.tasks.append(Task(self.asking, None, AHEAD, hand.actor.go_ahead.remote(held), None, time.monotonic()))

    def _chosen(self, hand: Hand, end: int) -> int | None:
        """Its own blocks first, then those of nobody, then those of a worker that is late or has two blocks more."""
        if self.questions[0].candidates:  # they lie nowhere
            return self.waiting[0]
        free, blocks = None, Counter(self.homes.values())
        for index in self.waiting:
            if index >= end:
                break
            home = self.homes.get(self.questions[index].samples)
            if home is hand:
                return index
            if free is None and (home is None or self._late(home) or blocks[home] > blocks[hand] + 1):
                free = index
        return free

    def _late_blocks(self) -> list[tuple[int, Hand]]:
        """(place, worker) of the late blocks that nobody races yet."""
        late = [hand for hand in self.crew.ready if self._late(hand)]
        if not late:
            return []
        given = Counter(task.index for hand in self.crew.hands for task in hand.questions if task.asking == self.asking)
        tasks = [(task, hand) for hand in late for task in hand.questions if task.asking == self.asking]
        return [(task.index, hand) for task, hand in tasks if task.index not in self.answered and given[task.index] == 1]

    def _late(self, hand: Hand) -> bool:
        if not hand.tasks:
            return False
        task = hand.tasks[0]
        waited, known = time.monotonic() - task.since, self.seconds.get(task.statistic)
        if waited <= LATE_SECONDS:
            return False
        return waited > (max(LATE_SECONDS, LATE_TIMES * statistics.median(known)) if known else UNKNOWN_SECONDS)

    def _collect(self) -> None:
        """Wait for one worker to say something, at most a moment, and take note of all that was said."""
        crew, said = self.crew, {ref: hand for hand in self.crew.hands for ref in hand.waited_for()}
        if not said:
            return crew.check_room()
        first, rest = self.ray.wait(list(said), timeout=TICK_SECONDS)
        if first and rest:
            first += self.ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        for ref in first:
            self._note(said[ref])
        if first and time.monotonic() - self.looked < TICK_SECONDS:
            return
        self.looked = time.monotonic()
        for hand in crew.silent():
            self._lose(hand, f"no sign of life for {crew.cluster.wait_seconds:g} s")
        crew.check_room()

    def _note(self, hand: Hand) -> None:
        try:
            if not hand.ready:
                self.crew.opened(hand)
                return self._place(hand)
            task = hand.tasks[0]
            receipt = self.ray.get(task.receipt)
        except self.losses as error:
            return self._lose(hand, _reason(error))
        del hand.tasks[0]
        self._place(hand)
        if hand.tasks:
            hand.tasks[0].since = time.monotonic()
        if task.index is not None and (task.asking != self.asking or task.index in self.answered):
            self.ignored += 1
            return
        if receipt.error:
            raise receipt.error(receipt.message)
        self.seconds.setdefault(task.statistic, deque(maxlen=50)).append(receipt.seconds)
        if task.index is None:
            return
        self.answered[task.index] = task.answer
        self.shares.setdefault(task.statistic, Counter())[hand.number] += 1

    def _lose(self, hand: Hand, reason: str) -> None:
        self.homes = {block: home for block, home in self.homes.items() if home is not hand}
        self.free.pop(hand, None)
        self.single.pop(hand, None)
        lost = [task.index for task in hand.questions if task.asking == self.asking]
        self.crew.lose(hand, reason)
        for index in lost:
            self._ask_again(index)

    def _ask_again(self, index: int) -> None:
        racing = any(task.asking == self.asking and task.index == index for hand in self.crew.hands for task in hand.tasks)
        if index not in self.answered and index not in self.waiting and not racing:
            bisect.insort(self.waiting, index)

    def _tell_idle(self) -> None:
        workers, blocks = self.crew.cluster.workers, len(self.questions)
        if blocks < workers and not self.told_idle:
            self.told_idle = True
            what = "scoring.block_samples" if not self.questions[0].candidates else "scoring.block_candidates"
            message = f"cluster.workers: {workers}, but the work comes in {blocks} blocks: {workers - blocks} workers idle; {what} sets their size"
            self.observe({"event": "notice", "message": message})

    def tell_shares(self) -> None:
        """How many answers of each statistic came from each worker; second answers that were ignored."""
        shares = {statistic: {str(number): count for number, count in sorted(counts.items())} for statistic, counts in self.shares.items()}
        self.observe({"event": "shares", "shares": shares, "ignored": self.ignored, "lost": len(self.crew.lost)})


def _reason(error: Exception) -> str:
    """What Ray says of a loss, in one line."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    words = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    if "creation task" in words[0]:  # the last line of its traceback says what
        return f"creation task: {words[-1][:160]}"
    return next((line for line in words if "exit type" in line.lower() or "died" in line.lower()), words[0])[:160]
