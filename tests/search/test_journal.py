"""The journal: a checksum per line, torn ends cut, damage refused by line, and a replay that goes on to the identical file."""

import filecmp
import json
import shutil
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.errors import Failed
from pipeline.journal import Journal, decode, encode, read
from pipeline.search.artifacts import load_choice
from pipeline.search.question import Commit
from tests.networks.samples import Residual, shaken
from tests.search.benches import bench, samples, search

LINES = [
    {"kind": "begin", "units": {"a": 4}},
    {"kind": "pick", "unit": "a", "score": 0.1, "margin": None},
    {"kind": "unit", "unit": "a", "kept": [2, 0]},
]
WORDS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)


def written(folder, lines=LINES):
    folder.mkdir(exist_ok=True)
    journal = Journal(folder / "journal.jsonl", lambda event: None)
    journal.commit(*lines)
    journal.close()
    return folder / "journal.jsonl"


@given(st.dictionaries(WORDS.filter(lambda word: word not in ("i", "crc32")), VALUES, max_size=4), st.integers(0, 10**6))
def test_a_line_comes_back_as_it_was(line, number):
    data = encode(number, line)
    assert decode(data, number, "journal") == line and b"\n" not in data
    with pytest.raises(Failed, match=f"line {number + 2} is damaged"):
        decode(data, number + 1, "journal")


def test_a_line_is_json_with_its_number_and_a_checksum_of_the_rest():
    data = encode(7, {"unit": "ä", "score": 0.5})
    assert data == b'{"crc32":"%08x","i":7,"score":0.5,"unit":"\\u00e4"}' % zlib.crc32(b'{"i":7,"score":0.5,"unit":"\\u00e4"}')


def test_lines_of_one_commit_and_of_several_are_the_same_file(tmp_path):
    together, apart = written(tmp_path / "together"), written(tmp_path / "apart", [])
    journal = Journal(apart, lambda event: None)
    for line in LINES:
        journal.commit(line)
    journal.close()
    assert filecmp.cmp(together, apart, shallow=False) and read(apart) == (LINES, together.stat().st_size)


def test_a_last_line_torn_at_any_byte_is_cut_with_a_notice_and_written_again(tmp_path):
    path = written(tmp_path / "stage")
    whole = path.read_bytes()
    last = whole[:-1].rindex(b"\n") + 1
    for size in range(last, len(whole)):
        path.write_bytes(whole[:size])
        events = []
        journal = Journal(path, events.append)
        assert journal.lines == LINES[:2] and path.read_bytes() == whole[:last]
        notice = f"journal journal.jsonl: a torn last line of {size - last} bytes was cut"
        assert [event["message"] for event in events] == ([notice] if size > last else [])
        journal.commit(*LINES)
        journal.close()
        assert path.read_bytes() == whole


def test_a_flipped_bit_anywhere_is_refused_by_line_and_the_file_left_alone(tmp_path):
    path = written(tmp_path / "search-1")
    whole = path.read_bytes()
    for at in range(len(whole) - 1):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            line = whole[:at].count(b"\n") + 1
            with pytest.raises(Failed, match=f"journal .*journal.jsonl: line {line} is damaged .*delete the stage search-1"):
                Journal(path, lambda event: None)
            assert path.read_bytes() == damaged


def test_lines_left_out_moved_or_repeated_are_refused(tmp_path):
    path = written(tmp_path / "stage")
    first, second, third = path.read_bytes().splitlines(keepends=True)
    for data, line in ((first + third, 2), (second + third, 1), (first + first, 2), (second + first, 1), (first + b"\n" + second, 2)):
        path.write_bytes(data)
        with pytest.raises(Failed, match=f"line {line} is damaged"):
            read(path)


def test_a_replay_must_give_what_is_written(tmp_path):
    path = written(tmp_path / "search-2")
    before = path.read_bytes()
    journal = Journal(path, lambda event: None)
    journal.commit(LINES[0])
    with pytest.raises(Failed, match="line 2 is not what this computation gives; delete the stage search-2"):
        journal.commit(LINES[1] | {"score": 0.1 + 1e-16 * 2})
    journal.close()
    assert path.read_bytes() == before


def test_nothing_is_written_by_a_holder_that_lost_its_lock(tmp_path):
    class Lost(Exception):
        pass

    def guard():
        raise Lost

    path = written(tmp_path / "stage")
    journal = Journal(path, lambda event: None, guard)
    journal.commit(*LINES)  # already there: nothing to write
    with pytest.raises(Lost):
        journal.commit({"kind": "end"})
    assert read(path)[0] == LINES


def test_the_replayed_picks_of_a_unit_end_where_the_next_begins(tmp_path):
    lines = [{"kind": "begin"}, *({"kind": "pick", "unit": unit, "step": step} for unit in "ab" for step in range(2))]
    lines.insert(3, {"kind": "unit", "unit": "a", "kept": [0]})
    journal = Journal(written(tmp_path / "stage", lines), lambda event: None)
    assert journal.replayed("a") == ([], None)
    journal.commit(lines[0])
    assert journal.replayed("a") == (lines[1:3], lines[3]) and journal.replayed("b") == ([], None)
    journal.commit(*lines[1:4])
    assert journal.replayed("b") == (lines[4:], None)
    journal.close()


SEARCHES = {
    "loss": dict(selector="loss", refit="none", engine="stochastic", candidates=4),
    "loss, re-fitted": dict(selector="loss", refit="lsq", engine="stochastic", candidates=3),
    "reconstruction, sequential": dict(selector="reconstruction", refit="lsq"),
    "reconstruction, independent": dict(selector="reconstruction", refit="lsq", mode="independent"),
    "affine, sequential": dict(selector="reconstruction", refit="affine"),
    "affine, independent": dict(selector="l1", refit="affine", mode="independent"),
    "backward": dict(selector="reconstruction", engine="backward"),
    "swap": dict(selector="reconstruction", engine="swap"),
    "l1": dict(selector="l1", refit="none"),
}


def searched(folder, settings):
    """A whole search of two units in `folder`, going on from what lies there."""
    folder.mkdir(exist_ok=True)
    given = bench(shaken(Residual()), samples(40, 3, 16, 4, 8), folder, seed=1)
    return search(given, {"first": 4, "expand": 5}, 16, **settings)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_cut_anywhere_goes_on_to_the_identical_file(name, tmp_path):
    lines = searched(tmp_path / "whole", SEARCHES[name])
    journal = tmp_path / "whole/journal.jsonl"
    whole, artifacts = journal.read_bytes(), sorted(path.relative_to(tmp_path / "whole") for path in tmp_path.glob("whole/units/*"))
    assert [line["kind"] for line in lines].count("unit") == 2
    ends = [0, *(at + 1 for at, byte in enumerate(whole) if byte == ord("\n"))]
    cuts = sorted({*ends[:-1], *(end + 9 for end in ends[:-1])}) if len(ends) < 12 else [ends[n] + 9 * (n % 2) for n in range(0, len(ends) - 1, 2)]
    for cut in cuts:
        for keep_artifacts in (True, False) if cut == ends[len(ends) // 2] else (True,):
            broken = tmp_path / f"cut-{cut}-{keep_artifacts}"
            if keep_artifacts:
                shutil.copytree(tmp_path / "whole", broken)
            else:  # lines may not outlive what they name, but a search that had none yet goes on
                shutil.copytree(tmp_path / "whole", broken, ignore=lambda folder, names: [n for n in names if n == "expand.safetensors"])
            (broken / "journal.jsonl").write_bytes(whole[:cut])
            assert searched(broken, SEARCHES[name]) == lines
            assert filecmp.cmp(journal, broken / "journal.jsonl", shallow=False)
            assert all(filecmp.cmp(tmp_path / "whole" / path, broken / path, shallow=False) for path in artifacts)


def test_the_lines_hold_no_times_hosts_or_paths(tmp_path):
    for line in searched(tmp_path / "any", SEARCHES["reconstruction, sequential"]):
        assert set(line) <= {"kind", "unit", "step", "neuron", "score", "margin", "candidates", "kept", "stop_reason", "artifact", "sha256"}
        assert str(tmp_path) not in json.dumps(line)


def test_a_changed_or_lost_artifact_is_refused_by_name(tmp_path):
    lines = searched(tmp_path / "search-3", SEARCHES["reconstruction, sequential"])
    line = next(line for line in lines if line["kind"] == "unit")
    path = tmp_path / "search-3" / line["artifact"]
    data = bytearray(path.read_bytes())
    for damaged in (bytes(data[:-1]) + bytes([data[-1] ^ 1]), None):
        if damaged:
            path.write_bytes(damaged)
        else:
            path.unlink()
        with pytest.raises(Failed, match="artifact .*units/first.safetensors: is missing or not what the journal names; delete the stage search-3"):
            searched(tmp_path / "search-3", SEARCHES["reconstruction, sequential"])


def test_an_untouched_choice_needs_no_artifact(tmp_path):
    choice = load_choice(tmp_path, Commit("a", (3, 1), None, None))
    assert (choice.kept, choice.coefficients, choice.weight) == ((3, 1), None, None)
    searched(tmp_path / "plain", SEARCHES["l1"])
    assert not (tmp_path / "plain/units").exists()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 300), st.binary(max_size=3))
def test_whatever_follows_a_cut_only_whole_lines_are_read_or_the_file_is_refused(tmp_path_factory, cut, junk):
    path = written(tmp_path_factory.mktemp("stage"))
    data = path.read_bytes()[:cut] + junk
    path.write_bytes(data)
    try:
        lines, size = read(path)
    except Failed:
        assert b"\n" in junk
        return
    assert lines == LINES[: len(lines)] and data[:size].count(b"\n") == len(lines)
