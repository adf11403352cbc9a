"""Names that a stranger chose, made harmless for Markdown and LaTeX; jinja2 and ElementTree do HTML and SVG."""

import re
import unicodedata

_MARKDOWN = re.compile(r"[!-/:-@\[-`{-~]")  # all ASCII punctuation may be escaped; not all of it need be
_MARKDOWN_SAFE = set(".,:;%/()'?=-+")
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}", "'": r"\textquotesingle{}", "[": "{[}", "]": "{]}", "*": "{*}", "…": r"\ldots{}", "±": r"$\pm$",
}  # fmt: skip


def printable(text: str) -> str:
    """Control characters, which no format here can hold, become U+FFFD; line breaks become spaces."""
    flat = re.sub(r"[\t\n\v\f\r\x85\u2028\u2029]+", " ", text)
    return "".join("\ufffd" if _is_foreign(letter) else letter for letter in flat)


def _is_foreign(letter: str) -> bool:
    """Controls, lone surrogates, what XML forbids, and the marks that turn the direction of the text around them."""
    turns = "\u202a" <= letter <= "\u202e" or "\u2066" <= letter <= "\u2069"
    return turns or letter in "\ufffe\uffff" or unicodedata.category(letter) in ("Cc", "Cs")


def markdown(text) -> str:
    """As text anywhere in Markdown, also in a table's cell."""

    def escaped(match):
        letter = match[0]
        if letter in "<>&":
            return {"<": "&lt;", ">": "&gt;", "&": "&amp;"}[letter]
        return letter if letter in _MARKDOWN_SAFE else f"\\{letter}"

    flat = _MARKDOWN.sub(escaped, printable(str(text)).strip())
    return re.sub(r"^(\d+)([.)])(?=\s|$)|^([-+=])", lambda match: f"{match[1]}\\{match[2]}" if match[1] else f"\\{match[3]}", flat)


def fenced(text: str) -> str:
    """As a code block: its fence is longer than any run of backticks inside."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def latex(text) -> str:
    """As text anywhere in LaTeX, also at the start of a table's row."""
    return re.sub("-(?=-)", "-{}", "".join(_LATEX.get(letter, letter) for letter in printable(str(text))))
