"""Drawing with matplotlib, and making one SVG serve light and dark: its colours become classes that a style sheet fills in."""

import io
import re
import warnings
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

from pipeline.report.escape import printable

WIDTH = 8.6  # inches of every figure
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
LIGHT = {
    "ink": "#1d2733", "muted": "#5d6b7a", "grid": "#e4e8ed", "surface": "#ffffff", "s0": "#2f6fb7", "s1": "#d1603d", "s2": "#2e8b6f",
    "s3": "#8a5cb8", "s4": "#b8860b", "s5": "#c24d86", "s6": "#4d7a8c", "s7": "#7a6a58",
}  # fmt: skip
DARK = {
    "ink": "#e6e9ee", "muted": "#9aa7b5", "grid": "#2b333d", "surface": "#161b21", "s0": "#6fa8e8", "s1": "#f08a66", "s2": "#5cc4a3",
    "s3": "#b993e6", "s4": "#e0b548", "s5": "#ec86b6", "s6": "#86b8cc", "s7": "#c4b49e",
}  # fmt: skip
SERIES = [name for name in LIGHT if re.fullmatch(r"s\d", name)]
MARKERS = "osD^vPX*"
_ROLES = {colour: name for name, colour in LIGHT.items()}
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
STYLE = {
    "svg.fonttype": "none", "text.parse_math": False, "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 9.5,
    "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.edgecolor": LIGHT["muted"], "axes.labelcolor": LIGHT["muted"],
    "axes.titlecolor": LIGHT["ink"], "text.color": LIGHT["ink"], "xtick.color": LIGHT["muted"], "ytick.color": LIGHT["muted"],
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": LIGHT["grid"],
    "axes.facecolor": "none", "figure.facecolor": LIGHT["surface"], "savefig.facecolor": LIGHT["surface"], "legend.frameon": False,
    "lines.linewidth": 1.8, "lines.markersize": 5.5, "axes.linewidth": 0.8, "errorbar.capsize": 2.5,
}  # fmt: skip


def colour(number: int) -> str:
    return LIGHT[SERIES[number % len(SERIES)]]


def marker(number: int) -> str:
    return MARKERS[(number + number // len(SERIES)) % len(MARKERS)]


def draw(paint, rows: int, columns: int, height: float, name: str, title: str, **subplots) -> str:
    """The SVG of a figure with rows x columns axes, `height` inches; `paint(figure, axes)` draws, axes as a flat list."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that the measuring font lacks; the reader's fonts draw the text
        matplotlib.rcdefaults()  # no matplotlibrc of the machine
        matplotlib.rcParams.update(STYLE | {"svg.hashsalt": name})
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **subplots)
        paint(figure, list(axes.flat))
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return themed(file.getvalue(), name, title)


def two_lines(first: str, second: str) -> str:
    """A tick's label."""
    return f"{printable(first)}\n{printable(second)}"


def legend(figure, names: list[str], columns: int = 4) -> None:
    """Names of the series 0, 1, ... above the axes."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour(n), marker=marker(n)) for n in range(len(names))]
    figure.legend(handles, names, loc="outside upper left", ncols=min(columns, len(names)))


def themed(svg: str, name: str, title: str) -> str:
    """matplotlib's SVG without styles, metadata and foreign ids, its colours as classes with the light ones as attributes."""
    root = ElementTree.fromstring(svg)
    used = {reference for element in root.iter() for value in element.attrib.values() for reference in _references(value)}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _plain(element)
        if element.get("id") in used:
            element.set("id", f"{name}-{element.get('id')}")
        else:
            element.attrib.pop("id", None)
        for attribute, value in list(element.attrib.items()):
            element.set(attribute, _renamed(value, name, used))
    root.attrib |= {"class": "figure", "role": "img", "stroke-linejoin": "round", "font-family": "system-ui, 'DejaVu Sans', sans-serif"}
    heading = ElementTree.Element(f"{{{SVG}}}title")
    heading.text = title
    root.insert(0, heading)
    return ElementTree.tostring(root, encoding="unicode")


def _references(value: str) -> list[str]:
    return [value[1:]] if value.startswith("#") else _REFERENCE.findall(value)


def _renamed(value: str, name: str, used: set[str]) -> str:
    if value.startswith("#") and value[1:] in used:
        return f"#{name}-{value[1:]}"
    return _REFERENCE.sub(lambda match: f"url(#{name}-{match[1]})", value)


def _plain(element) -> None:
    """The style attribute as attributes of their own, which a strict content policy allows; colours also as classes."""
    classes = []
    for part in filter(None, element.attrib.pop("style", "").split(";")):
        attribute, value = (text.strip() for text in part.split(":", 1))
        if attribute == "font-family":
            continue
        element.set(attribute, value)
        if attribute in ("fill", "stroke") and value in _ROLES:
            classes.append(f"{attribute[0]}-{_ROLES[value]}")
    if classes:
        element.set("class", " ".join(classes))


def rules() -> str:
    """The style sheet's rules for the classes, over the variables `--<role>`."""
    return "".join(f".f-{role}{{fill:var(--{role})}}.s-{role}{{stroke:var(--{role})}}" for role in LIGHT)


def variables(colours: dict[str, str]) -> str:
    return "".join(f"--{role}:{value};" for role, value in colours.items())


def standalone(svg: str) -> str:
    """The figure as a file of its own, which follows the reader's colour scheme."""
    sheet = f":root{{{variables(LIGHT)}}}@media (prefers-color-scheme:dark){{:root{{{variables(DARK)}}}}}{rules()}"
    head, end, rest = svg.partition(">")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head}{end}<style>{sheet}</style>{rest}\n'


ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", XLINK)
