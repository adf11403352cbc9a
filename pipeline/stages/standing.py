"""What the events of a run add up to: the stage and unit at work, how much of it is done, how fast, what came out."""

import json
from datetime import datetime

WEIGHTS = {"dense": 4, "bisection": 12, "statistics": 2, "curves": 3, "search": 4, "train": 4}  # rough; the others 1
STAGES = {
    stage: WEIGHTS.get(stage, 1)
    for stage in (
        *("latencies", "data", "dense", "baseline", "bisection", "scores", "statistics", "curves"),
        *("search", "shrink", "train", "untrained", "evaluate"),
    )
}
GRAMS = ("gram", "gram_dense")


class Standing:
    """Fed event by event.

    `units_of(key)` tells how many units the search of that key has, `epochs_of(stage)` how long it trains; None where nobody knows yet.
    """

    def __init__(self, units_of=lambda key: None, epochs_of=lambda stage: None):
        self.units_of, self.epochs_of = units_of, epochs_of
        self.finished: set[str] = set()
        self.keys: dict[str, str] = {}
        self.path: list[float] = []  # the objective after each choice of the unit at work
        self.epochs: list[float] = []  # validation top-1
        self.result: dict = {}
        self.seconds, self.began, self.latest = 0.0, None, None
        self._enter(None)

    def _enter(self, stage: str | None) -> None:
        self.stage, self.unit, self.step, self.share, self.workers = stage, None, None, None, None
        self.units, self.picked, self.steps = (0, None), False, None
        self.marks: list[tuple[float, float]] = []  # first and last (time, share)
        self.count, self.noun = None, ""  # how much is done, of what: for people
        self.counts: list[tuple[float, float]] = []  # first and last (time, count)

    def take(self, line: str) -> None:
        """One line of metrics.jsonl; what is no event is passed over."""
        try:
            event = json.loads(line)
            kind, moment = event["event"], datetime.fromisoformat(event["time"]).timestamp()
            if kind == "run" and self.began is not None:
                self._rest()
            self.began, self.latest = self.began or moment, moment
            self._note(kind, event)
            if kind != "unit" or self.marks:  # units that a journal replays pass in no time: no work, no rate
                self._mark(moment)
        except (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError):
            return

    def _rest(self) -> None:
        """The run begins once more: the time in between does not count, nor does the rate of before."""
        self.seconds += self.latest - self.began
        self.began, self.marks, self.counts, self.workers = None, [], [], None

    def _note(self, kind: str, event: dict) -> None:
        if kind == "stage":
            self._note_stage(event["stage"], event["state"], event["key"])
        elif kind == "workers":
            self.workers = max(int(event["alive"]), 0)
        elif kind == "result":
            self.result = event
        elif kind == "epoch":
            self.epochs[int(event["epoch"]) :] = [float(event["val_top1"])]  # one that a kill made go for nothing comes again
            if epochs := self.epochs_of(self.stage):
                self._note_epoch(int(event["epoch"]) + 1, epochs)
        elif kind == "training":
            self.step, self.steps, self.share = int(event["step"]), int(event["total"]), _share(event["step"], event["total"])
            self._counted(event["step"], "steps")
        elif self.stage == "search" and kind in ("pick", "unit", "answer"):
            self._note_search(kind, event)
        elif "done" in event and kind not in ("order", "run"):
            self.share = _share(event["done"], event["total"])
            self._counted(event["done"], str(event.get("unit_name", "blocks")))

    def _note_epoch(self, epoch: int, epochs: int) -> None:
        self.share = _share(epoch, epochs)
        if self.steps:
            self.step = round(self.share * self.steps)
            return self._counted(self.step, "steps")
        self._counted(epoch, "epochs")

    def _counted(self, count: float, noun: str) -> None:
        if noun != self.noun:
            self.counts = []
        self.count, self.noun = count, noun

    def _note_stage(self, stage: str, state: str, key: str) -> None:
        if stage != self.stage or state == "running":
            self._enter(stage)
            self.epochs = [] if state == "running" and key != self.keys.get(stage) else self.epochs
        self.keys[stage] = key
        if state in ("done", "found"):
            self.finished.add(stage)
            self.share = 1.0
        if stage == "search" and state == "running":
            self.path = []
            self.units = (0, self.units_of(key))

    def _note_search(self, kind: str, event: dict) -> None:
        """Done are the units before this one, and of this one its picks, or the pass that measures it."""
        inner = _share(event["done"], event["total"])
        self.unit = event["unit"] if isinstance(event.get("unit"), str) else None
        if kind == "unit":
            self.units, inner, self.picked, self.step = (int(event["done"]), int(event["total"])), 0.0, False, None
        elif kind == "pick":
            self.path = [*(self.path if event["step"] else []), float(event["score"])] if "score" in event else self.path
            self.picked, self.step = True, int(event["step"])
            self._counted((self.count or 0) + 1 if self.noun == "picks" else 1, "picks")
        elif self.picked or event["statistic"] not in GRAMS:
            return
        else:
            self._counted(self.units[0] * event["total"] + event["done"], "blocks")
        done, total = self.units
        if total is None and (total := self.units_of(self.keys.get("search"))):
            self.units = (done, total)
        self.share = _share(done + inner, total) if total else inner

    def _mark(self, moment: float) -> None:
        self.marks = _extended(self.marks, moment, self.share)
        self.counts = _extended(self.counts, moment, self.count)

    def rate(self) -> float | None:
        """Shares of the stage per second."""
        if not self.marks or self.marks[-1][0] <= self.marks[0][0] or self.marks[-1][1] <= self.marks[0][1]:
            return None
        (began, first), (ended, last) = self.marks
        return (last - first) / (ended - began)

    def pace(self) -> tuple[float, str] | None:
        """(how many per second, of what), in the stage's own measure."""
        if not self.counts or self.counts[-1][0] <= self.counts[0][0] or self.counts[-1][1] <= self.counts[0][1]:
            return None
        (began, first), (ended, last) = self.counts
        return (last - first) / (ended - began), self.noun

    def seconds_left(self, now: float) -> float | None:
        """Of the stage at work, at its own rate; None while that is unknown."""
        rate = self.rate()
        return None if rate is None else max((1 - self.marks[-1][1]) / rate - max(now - self.marks[-1][0], 0.0), 0.0)

    def seconds_spent(self) -> float:
        """At work, pauses between two commands left out."""
        return self.seconds + (self.latest - self.began if self.began is not None else 0.0)

    def whole(self, stages: list[str]) -> float:
        """Share of the whole run, whose stages these are; rough, since nobody knows beforehand how long each takes."""
        done = sum(STAGES[stage] for stage in stages if stage in self.finished)
        at_work = STAGES[self.stage] * (self.share or 0.0) if self.stage in stages and self.stage not in self.finished else 0.0
        return (done + at_work) / sum(STAGES[stage] for stage in stages)


def _share(done, total) -> float | None:
    return min(max(done / total, 0.0), 1.0) if total else None


def _extended(marks: list, moment: float, value: float | None) -> list:
    """The first and the last of what grew; begun anew where it fell, since a stage may pass over the images more than once."""
    if value is None or (marks and value == marks[-1][1]):
        return marks
    return [marks[0] if marks and value > marks[-1][1] else (moment, value), (moment, value)]
