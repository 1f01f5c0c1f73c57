"""The pages in a real browser: Debian's chromium, which ``make test-browser`` installs."""

import json
import os
import shutil

import pytest

from audited import small_audit
from finished import result
from shiftproof.report import audit_page, runs_page
from shiftproof.report.words import number
from shiftproof.results.audit import load_audit, save_audit

pytestmark = pytest.mark.release

WIDTHS = (400, 1400)
THEMES = ("light", "dark")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    found = small_audit()
    save_audit(found, folder / "audit.json")
    (folder / "audit.html").write_text(audit_page(found))
    (folder / "report.html").write_text(runs_page([result(stride=2), result(model="other")]))
    return folder


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in (
        "--headless=new",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
    ):
        options.add_argument(argument)
    if os.geteuid() == 0:  # chromium's sandbox refuses to run as root
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver


def visit(browser, path, *, width=1400, theme="light", script=True):
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})
    browser.get(path.as_uri())
    assert browser.get_log("browser") == []


def all_of(browser, selector):
    return browser.find_elements("css selector", selector)


def one(browser, selector):
    return browser.find_element("css selector", selector)


def colour(browser, selector, name):
    text = one(browser, selector).value_of_css_property(name)
    return [float(part) for part in text[text.index("(") + 1 : -1].split(",")[:3]]


@pytest.mark.parametrize("page", ["audit.html", "report.html"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("theme", THEMES)
def test_pages_fit_and_follow_the_theme(browser, pages, page, width, theme):
    visit(browser, pages / page, width=width, theme=theme)
    root = "return document.documentElement"
    assert browser.execute_script(f"{root}.scrollWidth") <= width
    assert (sum(colour(browser, "body", "background-color")) > 384) == (theme == "light")
    for selector in ("h1", "h2", "td", "small"):
        ground = sum(colour(browser, "body", "background-color"))
        assert abs(sum(colour(browser, selector, "color")) - ground) > 250, selector
    before = colour(browser, "body", "background-color")
    one(browser, "#theme").click()
    assert abs(sum(colour(browser, "body", "background-color")) - sum(before)) > 384
    for element in all_of(browser, "h1, h2, h3, figcaption, .view, .frames, .cells, .chart, .grid"):
        box = element.rect
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width + 1
    assert browser.get_log("browser") == []


def test_the_slider_moves_the_picture_and_all_strips(browser, pages):
    visit(browser, pages / "audit.html")
    found = load_audit(pages / "audit.json")
    pan = one(browser, ".hero .pan")
    slider = pan.find_element("css selector", "input")
    image = pan.find_element("css selector", ".view img")
    shifts = found.networks[0].strips[0].shifts
    assert (int(slider.get_attribute("min")), int(slider.get_attribute("max"))) == (
        shifts[0],
        shifts[-1],
    )
    places = set()
    for place in (0, len(shifts) // 2, len(shifts) - 1):
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
        browser.execute_script(script, slider, shifts[place])
        places.add(round(image.rect["x"], 1))
        texts = [e.text for e in pan.find_elements("css selector", ".now")]
        for network, text in zip(found.networks, texts, strict=True):
            strip = network.strips[0]
            assert found.class_names[strip.classes[place]] in text
            assert f"{strip.probabilities[place]:.2f}" in text
        heads = [e.rect["x"] for e in pan.find_elements("css selector", ".head")]
        assert len(set(heads)) == 1
    assert len(places) == 3
    assert browser.get_log("browser") == []


def test_a_cell_shows_the_picture_there_and_all_answers(browser, pages):
    from selenium.webdriver.common.action_chains import ActionChains

    visit(browser, pages / "audit.html")
    found = load_audit(pages / "audit.json")
    article = one(browser, ".picture")
    for motion in ("crop", "circular"):
        maps = {
            index: next(m for m in network.maps if (m.picture, m.motion) == (0, motion))
            for index, network in enumerate(found.networks)
            if any(m.motion == motion for m in network.maps)
        }
        cells = article.find_element("css selector", f'.map[data-motion="{motion}"] .cells')
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", cells)
        side = len(maps[0].shifts)
        step = cells.rect["width"] / side
        offset = (round(step * (0.5 - side / 2)), round(step * (side - 0.5 - side / 2)))
        ActionChains(browser).move_to_element_with_offset(cells, *offset).perform()
        text = article.find_element("css selector", ".readout").text
        for shown in maps.values():
            assert found.class_names[shown.classes[side - 1][0]] in text
            assert f"{shown.probabilities[side - 1][0]:.2f}" in text
        assert f"{abs(shown.shifts[0])} px left" in text
    assert browser.get_log("browser") == []


def test_maps_are_walked_with_the_keyboard(browser, pages):
    from selenium.webdriver.common.keys import Keys

    visit(browser, pages / "audit.html")
    found = load_audit(pages / "audit.json")
    cells = one(browser, ".picture .cells")
    browser.execute_script("arguments[0].focus()", cells)
    cells.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    shown = found.networks[0].maps[0]
    middle = shown.shifts.index(0)
    text = one(browser, ".picture .readout").text
    assert f"{found.step} px down, {found.step} px right" in text
    assert found.class_names[shown.classes[middle + 1][middle + 1]] in text


def test_the_numbers_on_the_page_are_those_of_the_file(browser, pages):
    visit(browser, pages / "audit.html")
    data = json.loads((pages / "audit.json").read_text())
    rows = all_of(browser, ".summary tbody tr")
    for index, network in enumerate(data["networks"]):
        changes = network["pan"]["changes"]
        cell = rows[0].find_elements("css selector", "td")[index].text
        assert f"{number(100 * changes['successes'] / changes['n'])} %" in cell
        assert f"{changes['successes']} of {changes['n']}" in cell


@pytest.mark.parametrize("page", ["audit.html", "report.html"])
def test_pages_are_readable_without_a_script(browser, pages, page):
    try:
        visit(browser, pages / page, script=False)
        assert all(e.is_displayed() for e in all_of(browser, "h1, h2, .summary td, .view img"))
        drawings = all_of(browser, ".frames svg, .cells svg, .chart svg, .grid svg")
        assert drawings
        assert all(e.rect["width"] > 100 and e.rect["height"] > 50 for e in drawings)
        assert not any(e.is_displayed() for e in all_of(browser, ".slider, #theme, .head, .cursor"))
        details = all_of(browser, "figure details summary")[0]
        details.click()
        assert details.find_element("xpath", "..//table").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_page_prints(browser, pages):
    visit(browser, pages / "audit.html", theme="dark")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert colour(browser, "body", "background-color") == [255, 255, 255]
        assert not one(browser, ".slider").is_displayed()
        printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
        assert len(printed["data"]) > 20_000
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
