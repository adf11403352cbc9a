"""Following a file: whole lines, each once, whatever happens to the file."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.stages.tail import Tail


@settings(deadline=None)
@given(st.lists(st.binary(max_size=12), max_size=12))
def test_however_a_file_is_written_every_whole_line_is_given_once(tmp_path_factory, chunks):
    path = tmp_path_factory.mktemp("tail") / "file"
    tail, found = Tail(path), []
    for chunk in chunks:
        with open(path, "ab") as file:
            file.write(chunk)
        found += tail.look()
    whole = b"".join(chunks).split(b"\n")[:-1]
    assert found == [line.decode("utf-8", "replace") for line in whole]


def test_a_file_that_is_not_there_yet_has_no_lines(tmp_path):
    tail = Tail(tmp_path / "file")
    assert tail.look() == []
    (tmp_path / "file").write_text("one\n")
    assert tail.look() == ["one"] and not tail.began_anew


def test_a_torn_line_that_is_cut_and_written_again_comes_once(tmp_path):
    path = tmp_path / "file"
    path.write_text("one\ntwo\nthr")
    tail = Tail(path)
    assert tail.look() == ["one", "two"]
    path.write_text("")  # the moment in which whoever resumes rewrites it
    assert tail.look() == []
    path.write_text("one\ntwo\nfour\n")
    assert tail.look() == ["four"] and not tail.began_anew


def test_another_file_in_its_place_is_read_from_its_beginning(tmp_path):
    path = tmp_path / "file"
    path.write_text("10:00 one\n10:01 two\n")
    tail = Tail(path)
    assert len(tail.look()) == 2
    (tmp_path / "new").write_text("11:00 one\n11:01 two\n11:02 three\n")
    (tmp_path / "new").replace(path)
    assert tail.look() == ["11:00 one", "11:01 two", "11:02 three"] and tail.began_anew
    path.write_text("12\n")
    tail.look()
    assert tail.look() == ["12"] and tail.began_anew
