"""Faults that a tar can have: each is a BadInput that names the shard, never a silently shorter set."""

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config.errors import BadInput
from pipeline.data.tar import Sample, png, read_shard, write_shard
from tests.data.test_images import picture

IMAGE = png(picture("L"))
KEYS = ("cat/000", "dog/000", "cat/001")


@pytest.fixture
def shard(tmp_path) -> Path:
    """Three samples: six members, as the library writes them."""
    write_shard(tmp_path / "shard.tar", [(key, "png", IMAGE, label) for label, key in enumerate(KEYS)])
    return tmp_path / "shard.tar"


def entry(name, data=b"", kind=tarfile.REGTYPE, **fields) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def sample(key, label=b"0", suffix="png"):
    return [entry(f"{key}.{suffix}", IMAGE), entry(f"{key}.cls", label)]


def tar(path: Path, *entries, form=tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as file:
        for info, data in entries:
            file.addfile(info, io.BytesIO(data))
    return path


def refusal(path, classes=3) -> str:
    with pytest.raises(BadInput) as caught:
        read_shard(path, classes)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_sound_shard_gives_its_samples_in_file_order_with_the_place_of_every_image(shard):
    samples = read_shard(shard, 3)
    assert [(s.key, s.label) for s in samples] == [(key, label) for label, key in enumerate(KEYS)]
    data = shard.read_bytes()
    assert all(data[s.offset : s.offset + s.size] == IMAGE for s in samples)


def ends(path) -> list[int]:
    """Where each member's header begins, and where the end marker does."""
    with tarfile.open(path) as file:
        members = file.getmembers()
        return [member.offset for member in members] + [file.offset]


@pytest.mark.parametrize("cut", ["0", "1", "511", "512", "513", "in an image", "before the second sample", "in a label", "before the end marker",
                                 "in the end marker", "one block of the end marker"])
def test_a_shard_cut_off_anywhere_is_refused(shard, cut):
    data, headers = shard.read_bytes(), ends(shard)
    end = headers[-1]
    bytes_kept = {"in an image": headers[2] + 600, "before the second sample": headers[2], "in a label": headers[1] + 512,
                  "before the end marker": end, "in the end marker": end + 700, "one block of the end marker": end + 512}
    shard.write_bytes(data[: bytes_kept[cut] if cut in bytes_kept else int(cut)])
    message = refusal(shard)
    assert "cut off" in message or "cannot be read as a tar" in message


def test_only_a_whole_end_marker_makes_a_cut_shard_sound(shard):
    data, end = shard.read_bytes(), ends(shard)[-1]
    shard.write_bytes(data[: end + 1024])
    assert len(read_shard(shard, 3)) == 3


@pytest.mark.parametrize("member", [1, 2, 4])
def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(shard, member):
    data, at = bytearray(shard.read_bytes()), ends(shard)[member]
    data[at + 3] ^= 0xFF
    shard.write_bytes(data)
    assert f"byte {at} begins neither a member nor the end" in refusal(shard)


def test_what_follows_the_end_is_refused_because_readers_would_not_see_it(shard):
    shard.write_bytes(shard.read_bytes() * 2)
    assert "begins neither" in refusal(shard)


def test_a_hole_of_zeros_is_not_taken_for_the_end(shard):
    data, headers = bytearray(shard.read_bytes()), ends(shard)
    data[headers[2] : headers[4]] = bytes(headers[4] - headers[2])
    shard.write_bytes(data)
    assert f"byte {headers[2]} begins neither" in refusal(shard)


@pytest.mark.parametrize("label, words", [
    (b"cat", "not an integer"), (b"", "not an integer"), (b"1.0", "not an integer"), (b"\xff", "not an integer"), (b"1 2", "not an integer"),
    (b"3", "outside 0..2"), (b"-1", "outside 0..2"), (b"9" * 30, "outside 0..2"), (b"9" * 5000, "not an integer"),
])
def test_a_label_that_is_no_class_is_named_with_its_sample(tmp_path, label, words):
    message = refusal(tar(tmp_path / "s.tar", *sample("a/0"), *sample("a/1", label)))
    assert "'a/1'" in message and words in message and len(message) < 400


def test_a_label_may_end_in_a_newline_and_images_may_have_upper_case_suffixes(tmp_path):
    made = tar(tmp_path / "s.tar", *sample("a/0", b"2\n", "PNG"), *sample("b", b" 1 ", "JPEG"), entry("c.WebP", IMAGE), entry("c.CLS", b"0"))
    assert [(s.key, s.label) for s in read_shard(made, 3)] == [("a/0", 2), ("b", 1), ("c", 0)]


@pytest.mark.parametrize("missing, words", [(0, "no image"), (1, "no label (.cls)")])
def test_a_sample_without_label_or_image_is_named(tmp_path, missing, words):
    parts = sample("a/1")
    del parts[missing]
    message = refusal(tar(tmp_path / "s.tar", *sample("a/0"), *parts))
    assert "'a/1'" in message and words in message


@pytest.mark.parametrize("again", [sample("a/0"), [entry("a/0.jpg", IMAGE)], [entry("./a/0.cls", b"1")]], ids=["both", "image", "label"])
def test_a_key_that_is_there_twice_is_named(tmp_path, again):
    message = refusal(tar(tmp_path / "s.tar", *sample("a/0"), *sample("a/1"), *again))
    assert "'a/0'" in message and "a second" in message


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"])
def test_a_member_that_is_no_plain_file_is_named_wherever_it_points(tmp_path, kind):
    message = refusal(tar(tmp_path / "s.tar", *sample("a/0"), entry("a/odd\n.png", kind=kind, linkname="../../etc/passwd")))
    assert r"'a/odd\n.png'" in message and "not a plain file" in message


def test_a_sparse_member_is_refused_because_its_bytes_are_not_in_one_place(tmp_path):
    message = refusal(tar(tmp_path / "s.tar", *sample("a/0"), entry("a/1.png", IMAGE, pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": "9"})))
    assert "'a/1.png'" in message and "sparse" in message


def test_folders_extra_files_and_hidden_ones_are_ignored_and_names_are_only_keys(tmp_path):
    extras = [entry("a", kind=tarfile.DIRTYPE), entry("a/0.json", b"{}"), entry("README", b"text"), entry("a/0.seg.png", b""),
              entry("a/._0.png", b""), entry("a/.png", b"")]
    made = tar(tmp_path / "s.tar", *extras, *sample("./a/0"), *sample("../../escape", b"1"), *sample("/absolute/file", b"2"))
    assert [s.key for s in read_shard(made, 3)] == ["a/0", "../../escape", "/absolute/file"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.tar"]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_long_and_foreign_names_are_read_in_either_form_of_header(tmp_path, form):
    long, foreign = "d" * 150 + "/" + "f" * 120, "caf\udce9/0"  # the second is no UTF-8
    made = tar(tmp_path / "s.tar", *sample(long), *sample("é/✓", b"1"), *sample(foreign, b"2"), form=form)
    assert [s.key for s in read_shard(made, 3)] == [long, "é/✓", foreign]


@pytest.mark.parametrize("data", [b"", b"this is no archive" * 600, IMAGE, b"\0" * 512, b"\x1f\x8b" + b"\0" * 2000])
def test_a_file_that_is_no_tar_is_refused(tmp_path, data):
    (tmp_path / "s.tar").write_bytes(data)
    assert "cannot be read as a tar" in refusal(tmp_path / "s.tar") or "cut off" in refusal(tmp_path / "s.tar")


def test_an_empty_archive_holds_no_samples(tmp_path):
    assert read_shard(tar(tmp_path / "s.tar"), 3) == []


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 10_239))
def test_no_cut_gives_a_shorter_set(shard, cut):
    data, end = shard.read_bytes(), ends(shard)[-1]
    broken = shard.with_name("cut.tar")
    broken.write_bytes(data[:cut])
    if cut >= end + 1024:
        assert read_shard(broken, 3) == read_shard(shard, 3)
    else:
        refusal(broken)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 6_000), st.integers(0, 255)), min_size=1, max_size=6))
def test_any_changed_bytes_are_a_bad_input_or_leave_a_whole_list_of_samples(shard, changes):
    data, broken = bytearray(shard.read_bytes()), shard.with_name("changed.tar")
    for at, value in changes:
        data[at] = value
    broken.write_bytes(data)
    try:
        found = read_shard(broken, 3)
    except BadInput as error:
        assert str(broken) in str(error)
        return
    assert len(found) == 3 and all(isinstance(s, Sample) and s.offset + s.size <= len(data) for s in found)
