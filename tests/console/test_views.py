"""Status, watch, logs, cancel and clean of real runs, through the installed command, on pipes and on a terminal."""

import codecs
import contextlib
import io
import json
import os
import pty
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from fcntl import ioctl
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.chain.plan import plan_sweep
from pipeline.chain.run import run_chain
from pipeline.config.load import load_config
from pipeline.stages.groups import write_group
from pipeline.stages.lock import is_live
from pipeline.stages.standing import Standing
from pipeline.stages.status import open_status
from pipeline.view.picture import picture_of_group, picture_of_run, spark
from pipeline.view.words import duration, percent, printable, size
from tests.conftest import CONSOLE, ROOT, run_gfs

PATIENCE, LONG = 240, 4000
OWN_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"  # so that Ctrl-C reaches it
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
SCHEMAS = ROOT.parent / "shared/contracts/schemas"


def started(*arguments, **given) -> subprocess.Popen:
    usual = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": ENVIRONMENT}
    return subprocess.Popen([CONSOLE, *map(str, arguments)], cwd=ROOT, text=True, **(usual | given))


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, f"did not come within {PATIENCE} s"
        time.sleep(0.05)
    return value


def lines_of(folder: Path, name="log.txt") -> list[str]:
    return (folder / name).read_text().split("\n")[:-1]


@pytest.fixture
def begun(small_config, tmp_path):
    """(process, directory) of a run in the middle of a training that takes long; killed at the end."""
    process = started("run", "-c", small_config, f"train.epochs={LONG}")
    folder = wait_for(lambda: next(iter((tmp_path / "runs").glob("small-*/log.txt")), None)).parent
    wait_for(lambda: process.poll() is not None or "epoch 3" in (folder / "log.txt").read_text())
    assert process.poll() is None, process.communicate()
    yield process, folder
    process.kill()
    process.communicate()


@pytest.fixture
def finished(small_config, tmp_path) -> Path:
    """The directory of a finished run."""
    return run_chain(load_config(str(small_config), [])).folder


class Terminal:
    """A command on a terminal of its own; what it wrote so far."""

    def __init__(self, *arguments, rows=24, columns=100, env=ENVIRONMENT):
        self.ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        command = [sys.executable, "-c", OWN_TERMINAL, CONSOLE, *map(str, arguments)]
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)
        self.written = ""
        self.reading = threading.Thread(target=self._read)
        self.reading.start()

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with contextlib.suppress(OSError):  # the last process on the terminal has ended
            while part := os.read(self.ours, 65536):
                self.written += decoder.decode(part)

    def end(self) -> int:
        self.process.wait(timeout=PATIENCE)
        self.reading.join(timeout=PATIENCE)
        os.close(self.ours)
        return self.process.returncode


def test_a_live_run_is_seen_followed_cancelled_and_resumed(begun, tmp_path):
    process, folder = begun
    status = json.loads(run_gfs("status", folder, "--json").stdout)
    if SCHEMAS.exists():
        import jsonschema

        jsonschema.validate(status, json.loads((SCHEMAS / "status.json").read_text()))
    assert (status["state"], status["stage"], status["workers"]) == ("running", "train", 1) and 0 < status["progress"] < 1
    assert f"{folder.name}: running, stage train" in run_gfs("status", folder).stdout
    watching, following = started("watch", folder), started("logs", "-f", folder)
    seen = watching.stdout.readline()
    first = following.stdout.readline()
    told = run_gfs("cancel", folder)
    assert told.returncode == 0 and process.wait(timeout=PATIENCE) == 75, told.stderr
    config = tmp_path / "again.yaml"
    shutil.copy(folder / "config.yaml", config)
    lines = watching.stdout.read().splitlines()
    assert watching.wait(timeout=PATIENCE) == 0 and "running" in seen and lines[-1].startswith(f"{folder.name}: stopped")
    followed = following.stdout.read()
    assert following.wait(timeout=PATIENCE) == 0 and (first + followed).splitlines() == lines_of(folder)
    assert "nothing is running" in run_gfs("cancel", folder).stdout
    command = shlex.split(told.stdout.strip().partition("go on with: ")[2])
    assert command[:3] == ["gfs", "run", "-c"]
    again = started(*command[1:])  # the very same run goes on
    wait_for(lambda: is_live(folder / "lock.json") or again.poll() is not None)
    wait_for(lambda: [json.loads(line)["event"] for line in lines_of(folder, "metrics.jsonl")].count("run") == 2 or again.poll() is not None)
    run_gfs("cancel", folder)
    assert again.wait(timeout=PATIENCE) == 75 and len(list((tmp_path / "runs").glob("small-*"))) == 1
    again.communicate()


def test_a_log_is_followed_across_a_kill_that_tore_its_last_line_and_a_resume(begun, small_config):
    process, folder = begun
    following = started("logs", "-f", folder)
    first = following.stdout.readline()
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    with open(folder / "log.txt", "a") as log:
        log.write("2026-01-01T00:00:00.000000Z torn")
    following.send_signal(signal.SIGSTOP)  # a resume takes longer on a busy machine than a follower waits for it
    process.kill()
    process.wait()
    again = started("run", "-c", small_config, f"train.epochs={LONG}")
    try:
        wait_for(lambda: again.poll() is not None or is_live(folder / "lock.json"))
        following.send_signal(signal.SIGCONT)
        wait_for(lambda: again.poll() is not None or (folder / "log.txt").read_text().count("train      running") == 2)
        again.terminate()
        assert again.wait(timeout=PATIENCE) == 75, again.stderr.read()
        text = first + following.stdout.read()
        assert following.wait(timeout=PATIENCE) == 0 and "torn" not in text and text.splitlines() == lines_of(folder)
    finally:
        for left in (again, following):
            left.kill()
            left.communicate()


def test_the_live_view_of_a_run_redraws_and_ctrl_c_ends_only_the_view(begun):
    process, folder = begun
    terminal = Terminal("watch", folder)
    wait_for(lambda: terminal.written.count("whole run") >= 3)
    os.write(terminal.ours, b"\x03")
    assert terminal.end() == 0 and process.poll() is None
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.written)
    assert all(word in shown for word in (folder.name, "running", "train", "validation top-1", "epoch", "/s, ", " left ")), shown
    assert "\x1b[?25h" in terminal.written.rpartition("\x1b[?25l")[2], "the cursor is shown again"
    assert "Traceback" not in shown


def test_a_sweep_is_watched_and_cancelled_and_its_runs_only_with_it(small_config, tmp_path):
    scratch = tempfile.mkdtemp(prefix="gs-")  # short: paths of Ray's sockets may have 107 bytes
    environment = ENVIRONMENT | {"TMPDIR": scratch}
    terminal = Terminal("sweep", "-c", small_config, "sweep={arm: [none, finetune]}", f"train.epochs={LONG}", env=environment)
    sweep = terminal.process
    try:
        folder = wait_for(lambda: next(iter((tmp_path / "runs").glob("*/group.json")), None)).parent
        watching = started("watch", folder)

        def at_work():
            assert sweep.poll() is None
            status = json.loads(run_gfs("status", folder, "--json").stdout)
            return [run["run"] for run in status["runs"] if run["state"] == "running" and run["stage"] == "train"]

        (name,) = wait_for(at_work)
        refused = run_gfs("cancel", tmp_path / "runs" / name)
        assert refused.returncode == 2 and f"gfs cancel {folder}" in refused.stderr
        told = run_gfs("cancel", folder)
        assert told.returncode == 0 and terminal.end() == 75
        assert " stopped by SIGTERM" in (folder / "log.txt").read_text()
        # which of the two runs goes first, or both at once, is the machine's
        shown = ("runs to do", r"[01] of 2 runs done, [12] running", r"\b[12] stopped", "stopped by SIGTERM")
        assert all(re.search(words, terminal.written) for words in shown), terminal.written
        assert told.stdout.strip() == f"{folder.name}: stopped; go on with: gfs sweep -c {folder}/config.yaml"
        lines = watching.stdout.read().splitlines()
        assert watching.wait(timeout=PATIENCE) == 0 and lines[-1].startswith(f"{folder.name}: stopped")
        assert any(line.startswith(f"{name}: running, stage train") for line in lines)
        assert not [path for path in (tmp_path / "runs").glob("*/lock.json") if is_live(path)]
        assert plan_sweep(folder / "config.yaml").folder == folder
    finally:
        sweep.kill()
        sweep.wait()
        shutil.rmtree(scratch, ignore_errors=True)


def test_a_finished_run_is_told_at_once_by_every_verb(finished, tmp_path):
    runs = tmp_path / "runs"
    row = json.loads((finished / "result.json").read_text())
    end = f"{finished.name}: done, untrained {row['top1_selected']:.2f} %, top-1 {row['top1']:.2f} %"
    assert run_gfs("watch", finished).stdout.splitlines() == [end]
    assert run_gfs("status", finished).stdout.splitlines() == [end]
    assert run_gfs("logs", finished).stdout == run_gfs("logs", "-f", finished).stdout == (finished / "log.txt").read_text()
    assert "it is done" in run_gfs("cancel", finished).stdout
    kept = sorted(path.name for path in (runs / "stages").iterdir())
    assert run_gfs("clean", runs).stdout.splitlines()[-1] == "freed nothing: every stage that is there may be needed"
    assert sorted(path.name for path in (runs / "stages").iterdir()) == kept
    shutil.rmtree(finished)
    would = run_gfs("clean", "--dry-run", runs).stdout.splitlines()
    done = run_gfs("clean", runs).stdout.splitlines()
    assert would[-1].startswith("would free") and would[-1].endswith(f"{len(kept)} stages") and len(done) == len(kept) + 1
    assert list((runs / "stages").iterdir()) == []


def test_a_real_run_s_share_only_grows_and_its_stages_are_those_of_the_config(finished):
    looked, standing, seen = open_status(str(finished)), Standing(), []
    assert set(looked.stages()) == set(json.loads((finished / "stages.json").read_text()))
    for line in lines_of(finished, "metrics.jsonl"):
        standing.take(line)
        seen.append(standing.whole(looked.stages()))
    assert seen == sorted(seen) and seen[-1] == 1 and standing.finished == set(looked.stages())


def test_the_logs_of_a_group_are_merged_by_time_and_each_line_says_whose_it_is(finished, tmp_path):
    other = tmp_path / "runs" / "other-1"
    shutil.copytree(finished, other)
    folder = tmp_path / "runs" / "all-2"
    folder.mkdir()
    write_group(folder, "all", "0" * 32, [(finished.name, "0" * 32), (other.name, "1" * 32)])
    stamp = lines_of(finished)[0][:27]
    (folder / "log.txt").write_text(f"{stamp} the driver\x1b[2J\n  goes on\n")
    lines = run_gfs("logs", folder).stdout.splitlines()
    assert f"all-2  {stamp} the driver\\x1b[2J" in lines and lines[lines.index(f"all-2  {stamp} the driver\\x1b[2J") + 1] == "all-2    goes on"
    for run in (finished, other):
        assert [line.removeprefix(f"{run.name}  ") for line in lines if line.startswith(f"{run.name}  ")] == lines_of(run)
    stamps = [line.split()[1] for line in lines if line.split()[1].endswith("Z")]
    assert stamps == sorted(stamps) and len(lines) == 2 + 2 * len(lines_of(finished))


@pytest.mark.parametrize("verb", ["status", "logs", "watch"])
def test_a_reader_that_leaves_is_no_error(verb, tmp_path):
    folder, names = tmp_path / "all-0", [f"r-{number}" for number in range(2000)]
    folder.mkdir()
    (folder / "log.txt").write_text("2026-01-01T00:00:00.000000Z a line\n" * 5000)
    write_group(folder, "all", "0" * 32, [(name, "0" * 32) for name in names])
    process = started(verb, folder)
    process.stdout.close()
    assert process.wait(timeout=PATIENCE) == 0 and process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.parametrize("verb", ["status", "watch", "logs", "cancel"])
def test_what_is_no_run_is_refused_in_one_line(verb, tmp_path):
    told = run_gfs(verb, tmp_path)
    assert told.returncode == 2 and told.stdout == ""
    assert told.stderr == f"gfs: error: {tmp_path}: is no run or group directory; give one that `gfs run` or `gfs sweep` printed\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look as another user")
def test_files_that_may_not_be_read_are_named():
    script = """
import os, sys
from pipeline.config.errors import BadInput
from pipeline.stages.cleaning import clean
from pipeline.stages.status import read_status
os.setuid(65534)
for look in (lambda: read_status(sys.argv[1] + "/r-0"), lambda: clean(sys.argv[1])):
    try:
        look()
    except BadInput as error:
        print(error)
"""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        (Path(place) / "r-0").mkdir()
        (Path(place) / "stages").mkdir()
        for name in ("config.yaml", "metrics.jsonl", "stages.json"):
            (Path(place) / "r-0" / name).write_text("{}")
            (Path(place) / "r-0" / name).chmod(0o600)
        told = subprocess.run([sys.executable, "-c", script, place], cwd=ROOT, capture_output=True, text=True)
    first, second = told.stdout.splitlines()
    assert first == f"{place}/r-0/metrics.jsonl: cannot be read (Permission denied); look at it as the user who runs it", told.stderr
    assert second.startswith(f"{place}/r-0: what it names cannot be read")


def test_the_view_of_a_large_group_fits_the_screen_and_shows_what_matters(tmp_path):
    folder, names = tmp_path / "all-0", [f"r-{number}" for number in range(30)]
    folder.mkdir()
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("name: r\n")
    (tmp_path / "r-20" / "error.json").write_text('{"code": 1, "message": "[bold]broken[/bold]"}')
    (tmp_path / "r-25" / "result.json").write_text('{"top1": 91.5, "top1_selected": 50}')
    write_group(folder, "all", "0" * 32, [(name, "0" * 32) for name in names])
    looked = open_status(str(folder))
    console = Console(file=io.StringIO(), force_terminal=True, width=70, height=14, color_system=None)
    picture = picture_of_group(looked, console)
    console.print(picture(looked.look()))
    lines = console.file.getvalue().splitlines()
    assert len(lines) < 14 and max(map(len, lines)) <= 70
    assert any("r-20" in line and "[bold]broken" in line for line in lines) and any("and 24 more" in line for line in lines)
    console.print(picture(looked.look(), final=True))
    assert all(f" {name} " in console.file.getvalue() for name in names)


def test_the_view_of_a_run_draws_the_path_and_the_epochs(tmp_path):
    run = tmp_path / "r-0"
    run.mkdir()
    (run / "config.yaml").write_text("name: r\narm: finetune\n")
    head = '{"time": "2026-01-01T00:00:0%d.000000Z", "event": '
    events = ['"stage", "stage": "search", "state": "running", "key": "0"}', '"pick", "unit": "b", "step": 0, "score": 2.5, "done": 1, "total": 2}',
              '"pick", "unit": "b", "step": 1, "score": 0.5, "done": 2, "total": 2}', '"epoch", "epoch": 0, "val_top1": 81.25}']
    (run / "metrics.jsonl").write_text("".join(head % second + event + "\n" for second, event in enumerate(events)))
    (run / "log.txt").write_text("2026-01-01T00:00:00.000000Z a line\n")
    looked = open_status(str(run))
    console = Console(file=io.StringIO(), force_terminal=True, width=90, height=20, color_system=None)
    console.print(picture_of_run(looked, console)(looked.look()))
    shown = console.file.getvalue()
    for part in ("r-0  stopped", "search b step 1", "█▁  2.5 -> 0.5", "81.25 %", "00:00:00 a line", "whole run"):
        assert part in shown, shown


@pytest.mark.parametrize("values, drawn", [([1, 2, 3], "▁▅█"), ([5.0], "▅"), ([2, 2], "▅▅"), ([3, 1, 2], "█▁▅"), (list(range(80)), None)])
def test_a_curve_goes_from_lowest_to_highest(values, drawn):
    found = spark(values)
    assert found == drawn if drawn else len(found) == 40 and found[0] == "▁" and found[-1] == "█" and list(found) == sorted(found)


def test_times_shares_and_sizes_read_well():
    assert [duration(seconds) for seconds in (0.4, 59.4, 200, 3599.6, 3900, 90000)] == ["0 s", "59 s", "3 min 20 s", "1 h 00 min", "1 h 05 min", "1 d 1 h"]
    assert [percent(share) for share in (None, 0.0, 0.999, 1.0)] == ["", "0 %", "99 %", "100 %"]
    assert [size(count) for count in (0, 1023, 1024, 5 * 2**20, 3 * 2**30)] == ["0 bytes", "1023 bytes", "1.0 KiB", "5.0 MiB", "3.0 GiB"]
    assert printable("a\tb\x1b[2J\r\u202e é") == "a\tb\\x1b[2J\\r\\u202e é"
