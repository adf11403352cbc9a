"""Names that a stranger chose stay names in HTML, SVG, Markdown and LaTeX: the structure is that of a tame page."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pipeline.report import canvas
from pipeline.report.escape import fenced, latex, markdown, printable
from pipeline.report.pages import Content, html_page, latex_tables, markdown_page
from pipeline.report.runs import gather
from pipeline.report.table import sections_of
from tests.report.directories import GREEDY, config_of, make_run

HOSTILE = [
    "<script>alert(1)</script>", "</title><img src=x onerror=alert(1)>", "a|b", "`code` ``` ~~~", "]]>", "<!--", "-->", "&amp;&#60;", '"\'', "{{ 7*7 }}",
    "{% raw %}", "\\input{x} $x^2$ 50% #1 ~_^&{}", "[a](javascript:alert(1))", "![](http://x.invalid/y)", "http://x.invalid/", "\u202eabc", "\x00\x07\x1b[31m",
    "two\nlines\r\n\u2028three", "- item", "# head", "1. one", "---", "=== ", "> quote", "+ a", "[x", "*", "\\\\", "\\", "--", "<br>", "</style>", "</svg>", "_a_", "$",
]  # fmt: skip
texts = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
markdown_reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    root = tmp_path_factory.mktemp("tame")
    runs = [make_run(root, config_of(prune, arm=arm)) for prune in (GREEDY, {}) for arm in ("none", "finetune")]
    failed = make_run(root, config_of(GREEDY, arm="reinit-epochs"), done=False, error="tame")
    return gather([*runs, failed])


def named(collection, text: str) -> Content:
    """The same collection with `text` wherever a stranger could have put one."""
    words = dict.fromkeys(("model", "dataset", "git", "device", "note", "finished_utc"), text)
    done = [replace(run, row=run.row | words | {"versions": {text: text}}, folder=Path("runs") / text.replace("/", "_").replace("\0", "")) for run in collection.done]
    done = [replace(run, row=run.row | {"selector": text} if run.row["selector"] == "l1" else run.row) for run in done]
    gaps = [replace(gap, error=text) for gap in collection.gaps]
    changed = replace(collection, done=done, gaps=gaps)
    return Content(text, changed, [(section, []) for section in sections_of(changed)[0]])


class Reader(HTMLParser):
    """Tags with the names of their attributes, and the text outside style and script."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.odd = [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, *(name for name, _ in attributes)))

    def handle_endtag(self, tag):
        self.tags.append(f"/{tag}")

    def handle_data(self, data):
        self.text.append(data)

    def handle_comment(self, data):
        self.odd.append(data)

    def unknown_decl(self, data):
        self.odd.append(data)

    handle_pi = handle_comment


slow = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@slow
@given(texts)
def test_html_keeps_its_structure_and_shows_the_name(content, text):
    tame, page = Reader(html_page(named(content, "tame"))), Reader(html_page(named(content, text)))
    assert page.tags == tame.tags and page.odd == tame.odd == []
    assert printable(text) in "".join(page.text)


@slow
@given(texts)
def test_markdown_keeps_its_structure_and_shows_the_name(content, text):
    tame, page = (markdown_reader.parse(markdown_page(named(content, name))) for name in ("tame", text))
    assert [token.type for token in page] == [token.type for token in tame]
    inline = [child for token in page if token.type == "inline" for child in token.children]
    assert {child.content for child in inline if child.type == "html_inline"} <= {"<br>"}
    assert not {child.type for child in inline} & {"link_open", "image", "code_inline", "em_open", "strong_open", "s_open"}


@given(texts)
def test_markdown_of_a_name_is_its_text_alone(text):
    (opening, inline, closing) = markdown_reader.parse(f"x {markdown(text)} x")
    assert "".join(child.content if child.type in ("text", "text_special") else f"<{child.type}>" for child in inline.children) == f"x {_shown(text)} x"
    table = markdown_reader.parse(f"| a | b |\n|---|---|\n| {markdown(text)} | y |\n")
    assert [token.type for token in table].count("td_open") == 2


def _shown(text: str) -> str:
    """Markdown keeps neither spaces at the ends nor runs of them apart from what stands between words."""
    return printable(text).strip() if printable(text).strip(" ") else ""


@given(texts)
def test_a_fence_holds_whatever_is_inside(text):
    inside = "\n".join(printable(line) for line in [text, "```", text])
    (block,) = markdown_reader.parse(fenced(inside))
    assert block.type == "fence" and block.content.rstrip("\n") == inside.rstrip("\n")


ESCAPES = r"\\(?:text\w+\{\}|ldots\{\}|[{}$&#_%])|\$\\pm\$|\{[\[\]*]\}|-\{\}"


@given(texts)
def test_latex_leaves_no_letter_that_means_something(text):
    plain = re.sub(ESCAPES, "", latex(text))
    assert not set(plain) & set("\\{}$&#^_%~<>|\"'`[]*\n\r\x00")
    assert "--" not in plain


@slow
@given(texts)
def test_latex_tables_keep_their_columns(content, text):
    def shape(page):
        rows = [line for line in page.splitlines() if line.endswith(r"\\")]
        return [len(re.findall(r"(?<!\\)&", row)) for row in rows], page.count("\n")

    assert shape(latex_tables(named(content, text))) == shape(latex_tables(named(content, "tame")))


@settings(max_examples=15, deadline=None)
@given(texts)
def test_a_figure_is_sound_xml_that_shows_the_name(text):
    def paint(figure, axes):
        axes[0].plot([1, 2])
        axes[0].set_title(printable(text))
        axes[0].set_xticks([0, 1], [printable(text), "b"])
        canvas.legend(figure, [printable(text), "other"])

    svg = canvas.draw(paint, 1, 1, 2, "name", printable(text))
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(canvas.standalone(svg)).iter()}
    assert tags <= {"svg", "title", "style", "g", "path", "use", "defs", "text", "tspan", "clipPath", "rect"}
    shown = ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("}text")]
    if printable(text).strip():
        assert [one.split() for one in shown].count(printable(text).split()) >= 2


def test_letters_of_other_scripts_stay():
    assert printable("größer 模型 ∞") == "größer 模型 ∞"
