"""Run and group directories become a report directory."""

from pathlib import Path

from pipeline.config.errors import BadInput
from pipeline.config.files import replacing
from pipeline.report.canvas import standalone
from pipeline.report.figures.accuracy import draw_accuracy, draw_arms
from pipeline.report.figures.comparison import draw_comparison
from pipeline.report.figures.cost import draw_cost, draw_latency
from pipeline.report.figures.search import draw_paths, draw_widths
from pipeline.report.pages import Content, html_page, latex_tables, markdown_page
from pipeline.report.results import write_results
from pipeline.report.runs import Collection, gather
from pipeline.report.table import Section, sections_of


def build_report(paths: list[Path], out: Path) -> Path:
    """Write report.html, report.md, results.csv, tables.tex and figures/ below `out`; the path of report.html.

    Raises BadInput when a path is no run or group, none of the runs is finished, or their dense baselines differ.
    """
    out = Path(out)
    collection = gather(paths)
    sections = [(section, figures_of(section, f"net{number}")) for number, section in enumerate(sections_of(collection)[0])]
    content = Content(_title(collection), collection, sections)
    texts = {"report.md": markdown_page(content), "tables.tex": latex_tables(content), "report.html": html_page(content)}
    drawn = {f"figures/{figure.name}.svg": standalone(figure.svg) for _, figures in sections for figure in figures if figure.svg}
    try:
        _write(out, drawn | texts, collection)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise BadInput(f"{out}: no report can be written there ({error.strerror}); give another --out") from error
    return out / "report.html"


def figures_of(section: Section, prefix: str) -> list:
    return [
        draw_accuracy(section, f"{prefix}-accuracy"),
        draw_comparison(section, f"{prefix}-comparison"),
        draw_arms(section, f"{prefix}-arms"),
        *draw_paths(section, prefix),
        draw_widths(section, f"{prefix}-widths"),
        draw_latency(section, f"{prefix}-latency"),
        draw_cost(section, f"{prefix}-cost"),
    ]


def _title(collection: Collection) -> str:
    names = [group.name for group in collection.groups]
    return ", ".join(dict.fromkeys(names)) or ", ".join(dict.fromkeys(run.row["model"] for run in collection.done))


def _write(out: Path, texts: dict[str, str], collection: Collection) -> None:
    """All files; figures of an earlier report that this one does not have go."""
    with replacing(out / "results.csv") as temporary:
        write_results(temporary, collection.done)
    for name, text in texts.items():
        with replacing(out / name) as temporary:
            temporary.write_bytes(text.encode())
    for figure in (out / "figures").glob("net*.svg"):
        if f"figures/{figure.name}" not in texts:
            figure.unlink()
