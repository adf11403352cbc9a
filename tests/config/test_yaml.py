"""YAML as the project reads it: numbers are numbers, words stay words, faults are one BadInput."""

import math

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.config.errors import BadInput
from pipeline.config.yaml import dump, parse


@pytest.mark.parametrize("text, value", [
    ("1e-4", 1e-4), ("1E3", 1e3), ("2.5e-3", 2.5e-3), (".5", 0.5), ("-1.", -1.0), ("+3.0", 3.0), ("12", 12), ("-7", -7), ("0", 0),
])
def test_numbers_are_numbers_however_they_are_written(text, value):
    found = parse(text, "here")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("word", [
    "on", "off", "yes", "no", "On", "OFF", "Yes", "No", "y", "n", "True", "FALSE", "none", "007", "0x1f", "0o7", "1_000", "12:30:45", "2024-01-01",
    "2024-13-45", "1e", "e4", ".", ".inf", ".nan", "nan", "=", "<<", "50%", "220M",
])
def test_words_stay_words(word):
    assert parse(f"key: {word}", "here") == {"key": word}


def test_only_true_and_false_are_booleans_and_null_is_null():
    assert parse("[true, false, null, ~, ]", "here") == [True, False, None, None]
    assert parse("", "here") is None


@pytest.mark.parametrize("text, words", [
    ("a: 1\nb: 2\na: 3\n", ["config.yaml, line 3", "'a' is there twice"]),
    ("a:\n  x: 1\n  x: 1\n", ["line 3", "'x' is there twice"]),
    ("{a: 1, a: 2}", ["config.yaml", "'a' is there twice"]),
    ("a: {b: [1, 2}\n", ["config.yaml", "not valid YAML"]),
    ("a: 1\n\tb: 2\n", ["line 2", "not valid YAML"]),
    ("1: 2", ["key 1 is not a word"]),
    ("true: 2", ["key True is not a word"]),
    ("? [a]\n: 2", ["is not a word"]),
    ("a: *missing", ["undefined alias"]),
    ("a: 1\n---\nb: 2\n", ["another document"]),
    ("a: !!python/object/apply:os.system ['true']", ["not valid YAML"]),
    ("a: !!int word", ["not valid YAML"]),
    ("[" * 5000, ["not valid YAML"]),
    ("a: 1" + "0" * 5000, ["not valid YAML"]),
    ("a: \x07", ["not valid YAML"]),
])
def test_a_text_that_is_no_plain_yaml_is_one_error_of_one_line(text, words):
    with pytest.raises(BadInput) as caught:
        parse(text, "config.yaml")
    message = str(caught.value)
    assert "\n" not in message and message.startswith("config.yaml") and all(word in message for word in words), message


WORDS = st.text(max_size=12) | st.sampled_from("1e4 .5e3 off yes 2024-01-01 0x10 null ~ = << 1_0 12:30 true a:b".split() + [" x ", "a: b"])
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300)
@example({"\x85": None, "k": "\u2028x\x85"})
@given(PLAIN)
def test_what_is_dumped_is_read_back_equal_and_of_equal_type(value):
    found = parse(dump({"key": value}), "here")["key"]
    assert found == value and repr(found) == repr(value)


@settings(max_examples=200)
@given(PLAIN)
def test_other_readers_read_no_number_or_boolean_where_there_was_a_word(value):
    found = yaml.safe_load(dump({"key": value}))["key"]
    if isinstance(value, str):
        assert found == value
    if isinstance(value, float) and not math.isinf(value):
        assert found == value


@given(st.text(max_size=40))
def test_any_text_is_a_value_or_a_bad_input(text):
    try:
        parse(text, "here")
    except BadInput as error:
        assert str(error).startswith("here") and "\n" not in str(error)
