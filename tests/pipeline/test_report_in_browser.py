"""The pages of runs in a real browser, from disk: they draw, obey the keyboard, fetch nothing, and stay harmless."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

from pipeline.report import compare_page, run_page
from pipeline.state import RunFolder
from tests.pipeline.runs import HOSTILE, write_run

pytestmark = [pytest.mark.processes, pytest.mark.exhaustive]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TIMEOUT_MS = 120_000
CONTRAST = """([text, paper]) => {
  const light = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
      .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [a, b] = [light(getComputedStyle(document.querySelector(text)).color),
    light(getComputedStyle(document.querySelector(paper)).backgroundColor)];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""


@dataclass
class Opened:
    """A page, and what it did that it should not."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed here, and these tests look at pages in one")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=TIMEOUT_MS)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    report = run_page.write(*write_run(root, "one"))
    write_run(root, "two", learning_rate=0.5)
    folders = [RunFolder(root / "one"), RunFolder(root / "two")]
    return {"report": report, "compare": compare_page.write(folders, root / "compare.html")}


def opened(browser: Browser, file: Path, *, scheme: str = "light", width: int = 1200) -> Opened:
    """Open a file from disk, and have all figures come near."""
    page = browser.new_page(
        viewport={"width": width, "height": 900}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page.set_default_timeout(TIMEOUT_MS)
    found = Opened(page)

    def fetches(request: Request) -> None:
        if not request.url.startswith("data:"):
            found.fetched.append(request.url)

    page.on("console", lambda message: found.complaints.append(message.text))
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.on("dialog", lambda dialog: (found.complaints.append(dialog.message), dialog.dismiss()))
    page.on("request", fetches)
    page.goto(file.as_uri())
    for plot in page.locator(".plot").all():
        plot.scroll_into_view_if_needed()
        expect(plot.locator("svg.main-svg").first).to_be_visible(timeout=TIMEOUT_MS)
    page.evaluate("scrollTo(0, 0)")
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report", "compare"])
def test_a_page_draws_all_figures_fetches_nothing_and_can_be_read(
    browser: Browser, pages: dict[str, Path], name: str, scheme: str
) -> None:
    found = opened(browser, pages[name], scheme=scheme)
    assert (found.complaints, found.fetched) == ([], [pages[name].as_uri()])
    assert found.page.title() == {"report": "one", "compare": "one and two"}[name], "no text of a model acted"
    for text, paper in [("body", "body"), (".hint", "body"), ("figcaption", "figure"), ("h3", "figure")]:
        assert found.page.evaluate(CONTRAST, [text, paper]) >= 4.5, f"{text} on {paper}"
    is_dark = found.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 26)"
    assert is_dark == (scheme == "dark")
    found.page.close()


def test_figures_follow_when_the_screen_becomes_dark(browser: Browser, pages: dict[str, Path]) -> None:
    page = opened(browser, pages["report"]).page
    line = page.locator(".plot .scatterlayer .lines path").first
    light = line.evaluate("path => getComputedStyle(path).stroke")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        "([path, light]) => getComputedStyle(document.querySelector(path)).stroke !== light",
        arg=[".plot .scatterlayer .lines path", light],
    )
    assert page.evaluate(CONTRAST, [".hint", "body"]) >= 4.5
    page.close()


def test_groups_are_read_by_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    found = opened(browser, pages["report"])
    page, place = found.page, found.page.locator("#place")
    expect(place).to_have_text("group 1 of 4")
    expect(page.locator("#group .text").first).to_have_text(f"user: {HOSTILE}")
    page.keyboard.press("j")
    expect(place).to_have_text("group 2 of 4")
    expect(page.locator("#group")).to_contain_text("Without signal")
    page.keyboard.press("k")
    page.keyboard.press("k")
    expect(place).to_have_text("group 1 of 4")
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type("SEVEN j")
    expect(place).to_have_text("no group")
    page.keyboard.press("Backspace")
    page.keyboard.press("Backspace")
    expect(place).to_have_text("group 1 of 1")
    page.keyboard.press("Escape")
    expect(page.locator("#search")).not_to_be_focused()
    assert found.complaints == []
    page.close()


def test_groups_are_picked_and_put_in_order(browser: Browser, pages: dict[str, Path]) -> None:
    page = opened(browser, pages["report"]).page
    place, prompt = page.locator("#place"), page.locator("#group .text").first
    page.get_by_label("Stage", exact=True).select_option("exam")
    expect(place).to_have_text("group 1 of 2")
    page.get_by_label("Step", exact=True).select_option("grpo/dev/accuracy")
    expect(place).to_have_text("group 1 of 1")
    page.get_by_label("Stage", exact=True).select_option("grpo")
    expect(place).to_have_text("group 1 of 2")
    page.get_by_label("Prompt", exact=True).select_option("b")
    expect(prompt).to_have_text("user: what is seven?")
    page.get_by_label("Prompt", exact=True).select_option("")
    page.get_by_label("Groups", exact=True).select_option("high")
    expect(prompt).to_have_text("user: what is seven?")
    page.get_by_label("Groups", exact=True).select_option("spread")
    scores = page.locator("#group .answer .marks b:first-child")
    expect(scores).to_have_text(["score 1", "score 0", "score none"])
    page.get_by_label("Answers", exact=True).select_option("surprise")
    expect(scores).to_have_text(["score 1", "score 0", "score none"])
    page.get_by_label("Answers", exact=True).select_option("advantage")
    expect(scores).to_have_text(["score 1", "score 0", "score none"])
    expect(page.locator("#group .cause")).to_have_text(f"timeout: {HOSTILE}")
    shading = (
        page.locator("#group .answer")
        .first.locator(".text span")
        .evaluate_all(
            "spans => spans.map(span => Number(getComputedStyle(span).backgroundColor.match(/[\\d.]+/g)[3] ?? 1))"
        )
    )
    assert shading == sorted(shading) and shading[0] == 0 < shading[-1], "the less likely, the darker"
    page.close()


@pytest.mark.parametrize("name", ["report", "compare"])
def test_a_narrow_window_needs_no_sideways_scrolling(browser: Browser, pages: dict[str, Path], name: str) -> None:
    page = opened(browser, pages[name], width=360).page
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()


def test_what_has_the_focus_is_seen(browser: Browser, pages: dict[str, Path]) -> None:
    page = opened(browser, pages["report"]).page
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_in_viewport()
    for _ in range(3):
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    unnamed = "[...document.querySelectorAll('select, input')].filter((each) => !each.labels.length).length"
    assert page.evaluate(unnamed) == 0
    page.close()
