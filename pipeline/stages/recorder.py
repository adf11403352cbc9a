"""Where events go: metrics.jsonl (the truth), log.txt, and progress with a rate and an estimate on stderr."""

import contextlib
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from pipeline.config.errors import Stopped

PLAIN_SECONDS, TERMINAL_SECONDS, RECORD_SECONDS = 15.0, 0.5, 5.0
ALWAYS = {"stage", "notice", "pick", "unit", "epoch", "result", "error", "run", "workers", "shares"}


def utc() -> str:
    """Now, as the files write it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Recorder:
    """observe(event) of one run. `folder` None: progress only, as for `gfs shards make`."""

    def __init__(self, folder: Path | None, stream=None):
        self.folder, self.stream = folder, stream or sys.stderr
        self.terminal = self.stream.isatty()
        self.metrics = self._append(folder, "metrics.jsonl")
        self.log = self._append(folder, "log.txt")
        self.shown = self.recorded = 0.0
        self.task, self.began, self.first = None, 0.0, 0
        self.stage = None

    @staticmethod
    def _append(folder, name):
        if folder is None:
            return None
        path = Path(folder) / name
        if path.exists() and (data := path.read_bytes()) and not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)  # a line torn by a kill
        return open(path, "a", buffering=1)

    def __call__(self, event: dict) -> None:
        now = time.monotonic()
        if event["event"] == "stage":
            self.stage = event["stage"]
        if self.metrics and (event["event"] in ALWAYS or now - self.recorded > RECORD_SECONDS):
            self.recorded = now
            stage = {"stage": self.stage} if self.stage and "stage" not in event else {}
            self.metrics.write(json.dumps({"time": utc(), **stage, **event}, allow_nan=False) + "\n")
        line = self._line(event, now)
        if line:
            self._show(line, event, now)

    def _line(self, event, now) -> str | None:
        kind = event["event"]
        if kind == "stage":
            return f"{event['stage']:<10} {event['state']}  {event['key'][:8]}"
        if kind == "notice":
            return f"notice: {event['message']}"
        if kind == "epoch":
            return f"epoch {event['epoch'] + 1}: loss {event['train_loss']:.4f}, validation top-1 {event['val_top1']:.2f} %"
        if kind == "error":
            return event["message"] if event["code"] == Stopped.exit_code else f"error: {event['message']}"
        if kind == "training":
            return self._progress(("training", self.stage), event["step"], event["total"], "steps", now, f", loss {event['loss']:.4f}")
        if kind == "run" and "total" in event:
            rate = self._progress(("runs",), event["done"], event["total"], "runs done", now, "", "")
            return f"{event['run']} {event['state']}; {rate}"
        if kind == "run":
            return f"run {self.folder}"
        if "done" in event:
            task = (kind, event.get("split"), event.get("unit") if kind != "unit" else None, event.get("statistic"))
            name = " ".join(str(part) for part in (kind, event.get("split"), event.get("unit"), event.get("statistic")) if part)
            return self._progress(task, event["done"], event["total"], event.get("unit_name", "blocks"), now, "", name)
        return None

    def _progress(self, task, done, total, noun, now, extra="", name=None) -> str:
        if task != self.task or done < self.first:
            self.task, self.began, self.first = task, now, done
        rate = (done - self.first) / (now - self.began) if now > self.began else 0.0
        left = f", {(total - done) / rate:.0f} s left" if rate > 0 and total else ""
        share = f"{done}/{total}" if total else str(done)
        speed = f"{rate:.1f}/s" if rate >= 0.1 or not rate else f"{60 * rate:.1f}/min"
        return f"{task[0] if name is None else name:<10} {share} {noun}, {speed}{left}{extra}".lstrip()

    def _show(self, line, event, now) -> None:
        important = event["event"] in ("stage", "notice", "epoch", "run", "error")
        if not important and now - self.shown < (TERMINAL_SECONDS if self.terminal else PLAIN_SECONDS):
            return
        self.shown = now
        with contextlib.suppress(BrokenPipeError):  # nobody reads the progress any more: the work goes on
            if event["event"] == "error":
                pass  # the command itself ends with it
            elif self.terminal:
                self.stream.write(f"\r\x1b[2K{line}" + ("\n" if important else ""))
            else:
                self.stream.write(line + "\n")
            self.stream.flush()
        if self.log:
            self.log.write(f"{utc()} {line}\n")

    def close(self) -> None:
        if self.terminal and self.task:
            self.stream.write("\r\x1b[2K")
        for file in (self.metrics, self.log):
            if file:
                file.close()
