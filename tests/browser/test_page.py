"""The page in a real browser: it looks right in light, dark and on a phone, sorts, and asks for nothing."""

import os
import shutil
import struct
import zlib
from pathlib import Path

import pytest

from pipeline.report.build import build_report
from tests.report.directories import GREEDY, config_of, make_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install -y chromium")
HOSTILE = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
LIGHT, DARK = (255, 255, 255), (22, 27, 33)
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    """A report of two pruners, two budgets, all arms, two seeds, with a hole whose reason is hostile."""
    root = tmp_path_factory.mktemp("browser")
    runs = [
        make_run(root / "runs", config_of(prune, budget, arm, seed))
        for prune in (GREEDY, {}) for budget in (0.5, 0.25) for arm in ("none", "finetune", "reinit-epochs") for seed in (0, 1)
    ]  # fmt: skip
    runs.append(make_run(root / "runs", config_of({"selector": "random"}, 0.5, "finetune"), done=False, error=HOSTILE))
    return build_report(runs, root / "out")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, page_file):
    """Open the report; afterwards nothing was asked for, and the console is empty."""
    opened = []

    def opener(**options):
        page = browser.new_context(**options).new_page()
        heard = {"requests": [], "console": []}
        page.on("request", lambda request: heard["requests"].append(request.url))
        page.on("console", lambda message: heard["console"].append(message.text))
        page.on("pageerror", lambda error: heard["console"].append(str(error)))
        page.on("dialog", lambda dialog: heard["console"].append(dialog.message))
        page.goto(page_file.as_uri())
        opened.append((page, heard))
        return page

    yield opener
    for page, heard in opened:
        assert heard == {"requests": [page_file.as_uri()], "console": []}
        page.context.close()


def first_pixel(png: bytes) -> tuple:
    """The red, green and blue of a PNG's first pixel: every filter leaves it as it is."""
    data, at, packed = png[8:], 0, b""
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        packed += data[at + 8 : at + 8 + size] if data[at + 4 : at + 8] == b"IDAT" else b""
        at += size + 12
    return tuple(zlib.decompress(packed)[1:4])


def column(page, table: int, place: int) -> list[str]:
    cells = page.locator("table.sortable").nth(table).locator("tbody tr").all()
    return [row.locator("th, td").nth(place).inner_text().split("\n")[0] for row in cells]


@pytest.mark.parametrize("scheme, background", [("light", LIGHT), ("dark", DARK)])
def test_the_page_follows_the_readers_colour_scheme(open_page, scheme, background):
    page = open_page(color_scheme=scheme)
    assert first_pixel(page.screenshot(full_page=True)) == background
    ink, surface = (page.evaluate(f"getComputedStyle(document.querySelector('svg .{name}')).fill") for name in ("f-ink", "f-surface"))
    assert surface == f"rgb{background}"
    assert (ink == "rgb(230, 233, 238)") == (scheme == "dark")


def test_the_switch_goes_round_the_themes_and_back_to_the_readers(open_page):
    page = open_page(color_scheme="light")
    seen = []
    for _ in range(3):
        page.click("#theme")
        seen.append((page.inner_text("#theme"), first_pixel(page.screenshot())))
    assert seen == [("Theme: light", LIGHT), ("Theme: dark", DARK), ("Theme: automatic", LIGHT)]


def test_a_click_on_a_header_sorts_by_number_and_another_turns_it_round(open_page):
    page = open_page()
    button = page.locator("table.sortable").first.locator("thead button").nth(2)  # untrained
    before = column(page, 0, 2)
    assert before[:2] == ["80.50 ± 0.71", "80.00"] and before[2].startswith("failed: <script>")
    button.click()
    assert column(page, 0, 2) == before
    assert page.locator("th[aria-sort=descending]").count() == 1
    button.click()
    assert column(page, 0, 2) == ["80.00", "80.50 ± 0.71", before[2]], "gaps stay last"
    assert page.locator("th[aria-sort=ascending]").count() == 1


def test_numbers_sort_as_numbers_and_words_as_words(open_page):
    page = open_page()
    cost = page.locator("table.sortable").nth(3)
    cost.locator("thead button").nth(4).click()
    images = [int(text.replace(",", "")) for text in column(page, 3, 4)]
    assert images == sorted(images, reverse=True) and len(set(images)) > 1
    cost.locator("thead button").nth(1).click()
    pruners = column(page, 3, 1)
    assert pruners == sorted(pruners) and len(set(pruners)) == 2


def test_a_header_is_reached_and_used_by_keyboard(open_page):
    page = open_page()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('th')?.innerText.startsWith('Pruner') ?? false"):
            break
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("Pruner")
    assert column(page, 0, 0) == ["l1", "random", "reconstruction + lsq"]


def test_on_a_phone_only_tables_and_figures_scroll_sideways(open_page):
    page = open_page(viewport=PHONE, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    wide = page.evaluate("[...document.querySelectorAll('.scroll')].filter(part => part.scrollWidth > part.clientWidth).length")
    assert wide > 0
    assert page.evaluate("Math.min(...[...document.querySelectorAll('svg.figure')].map(svg => svg.getBoundingClientRect().width))") > 500


def test_a_hostile_reason_is_shown_and_not_run(open_page):
    page = open_page()
    assert HOSTILE in page.inner_text("#gaps ~ .scroll")
    assert "taken" not in page.title()
    assert page.evaluate("[document.scripts.length, document.images.length]") == [1, 0]


def test_the_policy_refuses_what_was_not_built_in(browser, page_file, tmp_path):
    """Even a name that slipped through would do nothing."""
    forged = tmp_path / "forged.html"
    image = (page_file.parent / "figures/net0-accuracy.svg").as_uri()
    forged.write_text(page_file.read_text().replace("</main>", f"{HOSTILE}<img src='{image}'></main>"))
    page = browser.new_page()
    answered = []
    page.on("requestfinished", lambda request: answered.append(request.url))
    page.goto(forged.as_uri())
    assert "taken" not in page.title()
    assert answered == [forged.as_uri()]
    page.close()


def test_a_figure_on_its_own_follows_the_scheme_too(browser, page_file):
    figure = page_file.parent / "figures/net0-accuracy.svg"
    for scheme, background in (("light", LIGHT), ("dark", DARK)):
        page = browser.new_context(color_scheme=scheme).new_page()
        page.goto(figure.as_uri())
        assert first_pixel(page.screenshot()) == background
        page.context.close()
