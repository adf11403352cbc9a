"""Words in a bash script: whatever they hold, bash reads them back as they were, and they stay on one line."""

import os
import shlex


def quoted(word: str) -> str:
    """One word for bash. What is not printable is escaped byte by byte: a script must hold no stray line ends."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(_escaped(char) for char in word) + "'"


def quoted_all(words) -> str:
    """Several words, as an array holds them."""
    return " ".join(quoted(word) for word in words)


def _escaped(char: str) -> str:
    if char in "\\'":
        return f"\\{char}"
    if char.isprintable():
        return char
    return "".join(f"\\x{byte:02x}" if byte >= 0x80 else f"\\{byte:03o}" for byte in os.fsencode(char))
