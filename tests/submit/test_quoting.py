"""Nothing that comes from names, paths or settings breaks out of a script: real bash reads every value back as it was."""

import os
import subprocess
import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.submit.quoting import quoted, quoted_all
from pipeline.submit.script import Script, render, write_script
from pipeline.submit.site import Site

NASTY = ["'", '"', "\\", "$(touch x)", "`touch x`", "${HOME}", "\n#SBATCH --uid=0\n", "\r\n", ";", "&", "|", "*", "~", "!", " ", "-n", "%j"]
NASTY += ["{{ 7*7 }}", "{% raw %}", "{#", "é", "\u2028", "\x07", "\udc80"]
text = st.lists(st.one_of(st.sampled_from(NASTY), st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=8).map("".join)
name = text.map(lambda word: word.replace("/", "-")).filter(lambda word: word not in ("", ".", "..") and len(os.fsencode(word)) < 200)
words = st.lists(text, max_size=4)


def run(script: Path, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", script], env=os.environ | environment, capture_output=True, timeout=60)


@given(words)
@example(["", "'", "\\'", "\x80", "a\nb", "\x01" + "1"])
def test_bash_reads_back_every_word(values):
    script = b"printf '%s\\0' " + quoted_all(values).encode("utf-8", "surrogateescape")
    out = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
    assert out == b"".join(os.fsencode(value) + b"\0" for value in (values or [""]))
    assert not set("\r\n") & set(quoted_all(values)), "a word stays on its line"


@given(name, name, words, words, text, st.booleans())
@settings(max_examples=60)
def test_a_whole_script_hands_on_its_values_and_runs_nothing_else(folder_name, place_name, inside, modules, value, array):
    """Run by bash itself; in the place of gfs a program that writes down how it was called."""
    with tempfile.TemporaryDirectory() as root:
        work, job, tools = (os.path.join(root, kind, folder_name) for kind in ("work", "runs", "bin"))
        for folder in (work, job, tools):
            os.makedirs(folder)
        gfs = Path(tools, "gfs")
        gfs.write_text('#!/bin/bash\nprintf "%s\\0" "$PWD" "$SITE" "$@" > "$RECORD"\n')
        Path(root, "env").write_text('#!/bin/bash\nfor word in "${@:1:$COUNT}"; do printf "%s\\0" "$word"; done > "$RECORD.inside"\nshift "$COUNT"; exec "$@"\n')
        for program in (gfs, Path(root, "env")):
            program.chmod(0o755)
        config = os.path.join(job, place_name)
        made = Script("gfs-x", job, os.path.join(job, "log.txt"), work, tools, ("run", "-c", config), ray=False, tasks=3 if array else None)
        site = Site(container=[os.path.join(root, "env"), *inside], modules=modules, variables={"SITE": value})
        path = Path(root, "job.sbatch")
        write_script(path, render(made, site))
        assert subprocess.run(["bash", "-n", path]).returncode == 0
        assert b"\r" not in path.read_bytes()
        record = Path(root, "record")
        slurm = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "6", "SLURM_ARRAY_TASK_ID": "2", "SLURM_JOB_NODELIST": "n1"}
        loads = {"BASH_FUNC_module%%": '() { printf "%s\\0" "$@" > "$RECORD.modules"; }'}
        done = run(path, COUNT=str(len(inside)), RECORD=str(record), **slurm, **loads)
        assert done.returncode == 0, done.stderr
        told = record.read_bytes().split(b"\0")[:-1]
        assert told[1:] == [os.fsencode(word) for word in (value, "run", "-c", config, *(("--part", "2") if array else ()))]
        assert os.path.samefile(told[0], work)
        assert read(root, "record.inside") == [os.fsencode(word) for word in inside]
        if modules:
            assert read(root, "record.modules") == [os.fsencode(word) for word in ("load", *modules)]
        left = {os.path.relpath(found, root) for found in Path(root).rglob("*") if found.is_file()}
        assert {os.path.basename(found) for found in left} <= {"gfs", "env", "job.sbatch", "record", "record.inside", "record.modules", "log.txt"}


def read(root: str, name: str) -> list[bytes]:
    return Path(root, name).read_bytes().split(b"\0")[:-1]


def test_half_a_character_that_came_from_a_path_goes_back_to_its_byte():
    assert quoted("a\udcffb") == r"$'a\xffb'"
