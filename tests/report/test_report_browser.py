"""The report in a real browser: from disk, by mouse and by keyboard, in both themes, on a phone."""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import report_data as made
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="needs Chromium and its driver (Debian: apt install chromium chromium-driver)",
)
PHONE, DESKTOP = (360, 780), (1280, 900)
PATIENCE_S = 30
HEADINGS, CONTENT = ("h1", "h2", "h3", "h4"), "p, li, td, dd, img, summary, pre"
TRAINING = 'section[aria-labelledby="training"]'
DOT = '[data-chart="cases"] .mark-symbol path'

# Ratio of contrast (WCAG 2) of each text that is seen, and of what lies behind it. Text over the
# cells of a chart, whose shade has an opacity, is asked for below.
CONTRASTS = """
const number = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => {
  const linear = (c) => c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4;
  const [x, y, z] = [r, g, b].map(linear);
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = number(getComputedStyle(at).backgroundColor);
    if (colour.length === 3 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
const found = [];
for (const element of document.querySelectorAll("body *, dialog *")) {
  const own = [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE);
  const words = own.map((node) => node.data.trim()).join("");
  if (!words || !element.checkVisibility() || element.closest("script, option")) continue;
  const style = getComputedStyle(element);
  const ink = number(element.ownerSVGElement ? style.fill : style.color);
  const [low, high] = [light(ink), light(behind(element))].sort((a, b) => a - b);
  found.push([(high + 0.05) / (low + 0.05), element.tagName, words.slice(0, 40)]);
}
return found;
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    study = made.study(tmp_path_factory.mktemp("browser"))
    made.draw(study)
    return made.report(study, **made.failing(study)).as_uri()


def browser_options() -> webdriver.ChromeOptions:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    return options


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = browser_options()
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(DRIVER)) as driver:
        yield driver


Open = Callable[..., webdriver.Chrome]


@pytest.fixture
def opened(browser: webdriver.Chrome, page: str) -> Open:
    def open_it(size: tuple[int, int] = DESKTOP, scheme: str = "light") -> webdriver.Chrome:
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        prefers = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": prefers})
        browser.get(page)
        browser.execute_script("localStorage.clear()")
        browser.get_log("browser")
        browser.get_log("performance")
        return load(browser)

    def load(driver: webdriver.Chrome) -> webdriver.Chrome:
        driver.refresh()
        until(
            driver, lambda: driver.execute_script("return document.documentElement.dataset.drawn")
        )
        return driver

    return open_it


def until(driver: webdriver.Chrome, condition: Callable[[], Any]) -> Any:
    return WebDriverWait(driver, PATIENCE_S, 0.05).until(lambda _: condition())


def one(driver: Any, selector: str) -> WebElement:
    found: WebElement = driver.find_element(By.CSS_SELECTOR, selector)
    return found


def texts(driver: Any, selector: str) -> list[str]:
    return [element.text for element in driver.find_elements(By.CSS_SELECTOR, selector)]


def shown(driver: webdriver.Chrome, element: WebElement) -> WebElement:
    driver.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element
    )
    return element


def dot_of(driver: webdriver.Chrome, case: str) -> WebElement:
    """A dot of the chart of cases, by the case that it says it is."""
    dots = driver.find_elements(By.CSS_SELECTOR, DOT)
    labels = [dot.get_attribute("aria-label") or "" for dot in dots]
    return dots[[f"case: {case};" in label for label in labels].index(True)]


def test_it_opens_from_disk_without_errors_and_without_a_network(opened: Open) -> None:
    driver = opened()
    assert driver.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert asked and all(url.startswith(("file:", "data:")) for url in asked)
    drawn = driver.find_elements(By.CSS_SELECTOR, ".panel:not(.empty) .plot > svg, .plot svg")
    assert len(drawn) == len(driver.find_elements(By.CSS_SELECTOR, ".panel:not(.empty)")) > 5


def test_a_strangers_name_runs_nothing(opened: Open) -> None:
    driver = opened()
    shown(driver, one(driver, "#case-table tbody button")).click()
    title = one(driver, "#case-title").get_property("textContent")
    assert title == f"{sorted(made.CASES)[0]}, LiTS"
    assert (
        driver.execute_script("return document.querySelectorAll('main b b, img[onerror]').length")
        == 0
    )
    assert driver.get_log("browser") == []


@pytest.mark.parametrize("by_keyboard", [False, True], ids=["mouse", "keyboard"])
def test_tables_are_sorted_and_say_how(opened: Open, by_keyboard: bool) -> None:
    driver = opened()
    table = one(driver, "table.results")
    head = table.find_elements(By.CSS_SELECTOR, "th[data-column]")[2]
    button = shown(driver, one(head, "button"))

    def press() -> None:
        if by_keyboard:
            driver.execute_script("arguments[0].focus()", button)
            driver.switch_to.active_element.send_keys(Keys.ENTER)
        else:
            button.click()

    assert head.get_attribute("aria-sort") is None
    press()
    assert head.get_attribute("aria-sort") == "ascending"
    assert texts(table, "tbody th") == ["nnunet", "meddinov3"]
    press()
    assert head.get_attribute("aria-sort") == "descending"
    assert texts(table, "tbody th") == ["meddinov3", "nnunet"]
    shown(driver, one(table, "th[data-column] button")).click()
    assert head.get_attribute("aria-sort") is None, "one column at a time"


def test_pointing_at_a_dot_shows_its_case(opened: Open) -> None:
    driver = opened()
    dot = shown(driver, dot_of(driver, "c2"))
    ActionChains(driver).move_to_element(dot).perform()
    tip = until(driver, lambda: one(driver, "#vg-tooltip-element.visible"))
    assert "c2" in tip.text and "60.0" in tip.text and "nnU-Net" in tip.text


def test_a_dot_and_a_name_open_the_case_and_escape_returns(opened: Open) -> None:
    driver = opened()
    dialog = one(driver, "dialog#case")
    ActionChains(driver).move_to_element(shown(driver, dot_of(driver, "c2"))).click().perform()
    until(driver, dialog.is_displayed)
    assert one(driver, "#case-title").text == "c2, LiTS"
    until(driver, lambda: texts(driver, "#case-views b"))
    assert texts(driver, "#case-views b") == ["Image", "Reference", "nnU-Net", "MedDINOv3"]
    sizes = "return [...document.querySelectorAll('#case-views canvas')].map((c) => c.width)"
    assert driver.execute_script(sizes) == [64] * 8, "an image and a layer each"
    assert "60.0" in texts(driver, "#case-views figcaption")[2]
    driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    until(driver, lambda: not dialog.is_displayed())
    assert "plot" in driver.switch_to.active_element.get_attribute("class")

    button = driver.find_elements(By.CSS_SELECTOR, "#case-table tbody button")[1]
    shown(driver, button)
    button.send_keys(Keys.ENTER)
    until(driver, dialog.is_displayed)
    inside = "return document.getElementById('case').contains(document.activeElement)"
    assert driver.execute_script(inside)
    driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert one(driver, "#case-title").text != "c2, LiTS", "the next case"
    driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    until(driver, lambda: not dialog.is_displayed())
    assert driver.switch_to.active_element == button


def first_case(driver: webdriver.Chrome) -> None:
    """Open the first case of the table, and wait for its pictures."""
    shown(driver, one(driver, "#case-table tbody button")).click()
    until(driver, lambda: driver.find_elements(By.CSS_SELECTOR, "#case-views canvas"))


# The colours of a view's layer, each once, as `r,g,b`.
LAYER = """
const canvas = document.querySelectorAll("#case-views .layer")[arguments[0]];
const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
const colours = new Set();
for (let at = 0; at < data.length; at += 4)
  if (data[at + 3]) colours.add(`${data[at]},${data[at + 1]},${data[at + 2]}`);
return [...colours].sort();
"""
LIVER, TUMOUR = "0,114,178", "213,94,0"
REFERENCE, SHIFTED, EXACT = 1, 2, 3


def test_a_worst_case_opens_and_escape_returns_to_it(opened: Open) -> None:
    driver = opened()
    button = shown(driver, one(driver, "button[data-case]"))
    button.click()
    title = one(driver, "#case-title").get_property("textContent")
    assert title == f"{button.get_attribute('data-case')}, LiTS"
    driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    until(driver, lambda: driver.switch_to.active_element == button)


def test_a_slider_goes_through_the_slices_of_a_case(opened: Open) -> None:
    driver = opened()
    first_case(driver)
    place, slider = one(driver, "#case-place"), one(driver, "#case-slice")
    assert place.text == "slice 3 of 4"
    assert driver.execute_script(LAYER, REFERENCE) == [LIVER, TUMOUR]
    slider.send_keys(Keys.ARROW_LEFT)
    assert place.text == slider.get_attribute("aria-valuetext") == "slice 2 of 4"
    assert driver.execute_script(LAYER, REFERENCE) == [LIVER], "no tumour there"
    assert one(driver, "#case-title").text.startswith("c1"), "arrows move the slider alone"


def test_errors_are_shown_where_a_method_and_the_reference_differ(opened: Open) -> None:
    driver = opened()
    first_case(driver)
    missed, extra, other = "64,140,255", "255,176,0", "255,255,255"
    assert not one(driver, "#case-errors").is_displayed()
    Select(one(driver, "#case-show")).select_by_value("errors")
    assert one(driver, "#case-errors").is_displayed()
    assert driver.execute_script(LAYER, EXACT) == []
    assert driver.execute_script(LAYER, SHIFTED) == sorted([missed, extra, other])
    assert driver.execute_script(LAYER, REFERENCE) == [LIVER, TUMOUR]
    swatches = """return [...document.querySelectorAll('#case-errors .swatch')].map((s) =>
      getComputedStyle(s).backgroundColor.match(/\\d+/g).join(","))"""
    assert driver.execute_script(swatches) == [missed, extra, other]


def test_a_case_tells_each_structures_score_and_leaves_one_alone(opened: Open) -> None:
    driver = opened()
    first_case(driver)
    table = one(driver, "#case-structures")
    assert texts(table, "tbody th") == ["liver", made.LESION]
    assert texts(table, "tbody tr:first-child td") == ["50.0", "50.0"]
    button = shown(driver, one(table, "tbody button.alone"))
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert driver.execute_script(LAYER, EXACT) == [LIVER]
    button.click()
    assert driver.execute_script(LAYER, EXACT) == [LIVER, TUMOUR]


def test_the_first_screen_shows_what_came_out(opened: Open) -> None:
    driver = opened((1280, 800))
    for selector in ("h1", ".lead", ".badges", ".hero img", ".brief"):
        box = one(driver, selector).rect
        assert box["height"] > 0 and box["y"] + box["height"] <= 800, selector
    assert texts(driver, ".panes span") == ["Reference", "MedDINOv3", "nnU-Net"]
    for badge in driver.find_elements(By.CSS_SELECTOR, "a.badge"):
        target = (badge.get_attribute("href") or "").partition("#")[2]
        assert driver.find_elements(By.ID, target), target


def test_targets_are_large_enough_to_hit(opened: Open) -> None:
    driver = opened(PHONE)
    driver.execute_script("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    first_case(driver)
    small = driver.execute_script("""
      const targets = "button, select, input, summary, nav a, a.badge, a.button";
      return [...document.querySelectorAll(targets)].filter((e) => e.checkVisibility())
        .map((e) => [e.outerHTML.slice(0, 80), e.getBoundingClientRect()])
        .filter(([, box]) => box.width < 24 || box.height < 24)""")
    assert small == []


def test_what_sorts_or_scrolls_has_a_name_of_its_own(opened: Open) -> None:
    driver = opened()
    driver.execute_script("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    until(driver, lambda: driver.find_elements(By.CSS_SELECTOR, f"{TRAINING} .numbers td"))
    names = """return [...document.querySelectorAll('table')].map((table) =>
      [...table.querySelectorAll('thead button')].map((b) => b.getAttribute('aria-label')))"""
    tables = driver.execute_script(names)
    assert sum(map(len, tables)) > 20
    for buttons in tables:
        assert len(set(buttons)) == len(buttons) and all(n.endswith(": sort") for n in buttons)
    nameless = driver.execute_script("""
      return [...document.querySelectorAll("main [tabindex='0'], dialog [tabindex='0']")]
        .filter((e) => !e.closest(".plot, summary"))
        .filter((e) => e.getAttribute("role") !== "group" || !e.getAttribute("aria-label"))
        .map((e) => e.outerHTML.slice(0, 100))""")
    assert nameless == []


def test_the_opacity_of_labels_can_be_changed(opened: Open) -> None:
    driver = opened()
    first_case(driver)
    opacity = "return getComputedStyle(document.querySelector('#case-views .layer')).opacity"
    assert float(driver.execute_script(opacity)) == 0.5
    one(driver, "#case-opacity").send_keys(Keys.HOME)
    assert float(driver.execute_script(opacity)) == 0


def test_choices_change_charts_and_tables(opened: Open) -> None:
    driver = opened()
    cells = "#case-table tbody td"
    before = texts(driver, cells)
    Select(one(driver, "#case-metric")).select_by_value("HD95")
    until(driver, lambda: texts(driver, cells) != before)
    assert set(texts(driver, cells)) == {"3.0"}
    Select(one(driver, "#case-metric")).select_by_value("DSC")
    Select(one(driver, "#case-structure")).select_by_visible_text(made.LESION)
    until(driver, lambda: "\N{EN DASH}" in texts(driver, cells))
    until(driver, lambda: len(driver.find_elements(By.CSS_SELECTOR, DOT)) == len(made.METHODS))

    def pick_liver() -> bool:
        # The chart is drawn anew after a choice, so that a click may meet the one before.
        with suppress(StaleElementReferenceException):
            cell = one(driver, '[data-chart="structures"] .mark-rect path')
            ActionChains(driver).move_to_element(shown(driver, cell)).click().perform()
        structure = Select(one(driver, "#case-structure")).first_selected_option.text
        return structure == "liver"

    until(driver, pick_liver)


def test_a_legend_leaves_what_is_picked_by_keyboard_too(opened: Open) -> None:
    driver = opened()
    group = f"{TRAINING} .group"
    button = one(driver, f"{group} .legend button")
    assert button.text == "total"
    shown(driver, button).send_keys(Keys.SPACE)
    assert button.get_attribute("aria-pressed") == "true"
    faint = f"{group} .mark-line path[opacity='0.08']"
    until(driver, lambda: driver.find_elements(By.CSS_SELECTOR, faint))
    button.send_keys(Keys.SPACE)
    until(driver, lambda: not driver.find_elements(By.CSS_SELECTOR, faint))


def test_charts_have_their_numbers_as_tables(opened: Open) -> None:
    driver = opened()
    fold = one(driver, f"{TRAINING} details[data-numbers]")
    shown(driver, one(fold, "summary")).send_keys(Keys.ENTER)
    until(driver, lambda: "iBOT" in texts(fold, "td"))


def test_the_theme_can_be_chosen_and_is_remembered(opened: Open) -> None:
    driver = opened()
    ink = """return [getComputedStyle(document.body).backgroundColor,
      getComputedStyle(document.querySelector('.plot svg text')).fill]"""
    light = driver.execute_script(ink)
    toggle = one(driver, "#theme")
    assert toggle.get_attribute("aria-pressed") == "false"
    toggle.click()
    dark = driver.execute_script(ink)
    assert toggle.get_attribute("aria-pressed") == "true"
    assert all(a != b for a, b in zip(light, dark, strict=True)), "page and charts"
    driver.refresh()
    until(driver, lambda: driver.find_elements(By.CSS_SELECTOR, ".plot svg text"))
    assert driver.execute_script(ink) == dark
    assert one(driver, "#theme").get_attribute("aria-pressed") == "true"
    one(driver, "#theme").click()
    assert driver.execute_script(ink) == light


def test_the_systems_theme_holds_until_one_is_chosen(opened: Open) -> None:
    driver = opened(scheme="dark")
    assert one(driver, "#theme").get_attribute("aria-pressed") == "true"
    colour = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert colour == "rgb(20, 23, 27)"


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_nothing_runs_over_the_edge(opened: Open, size: tuple[int, int]) -> None:
    driver = opened(size)
    widths = "return [document.documentElement.scrollWidth, innerWidth]"
    needed, given = driver.execute_script(widths)
    assert given == size[0] and needed <= given
    shown(driver, one(driver, "#case-table tbody button")).click()
    box = "const d = document.getElementById('case'); return [d.scrollWidth, d.clientWidth]"
    inner, outer = driver.execute_script(box)
    assert inner <= outer


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out(opened: Open, scheme: str) -> None:
    driver = opened(scheme=scheme)
    driver.execute_script("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    until(driver, lambda: driver.find_elements(By.CSS_SELECTOR, f"{TRAINING} .numbers td"))
    found = driver.execute_script(CONTRASTS)
    shown(driver, one(driver, "#case-table tbody button")).click()
    found += driver.execute_script(CONTRASTS)
    assert len(found) > 100
    assert [entry for entry in found if entry[0] < 4.5] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_numbers_in_shaded_cells_and_lines_stand_out(opened: Open, scheme: str) -> None:
    driver = opened(scheme=scheme)
    colours = driver.execute_script("""
      const probe = document.body.appendChild(document.createElement("i"));
      const names = ["ink", "shade", "paper", ...Array.from({length: 10}, (_, n) => `c${n + 1}`)];
      return names.map((name) => {
        probe.style.color = `var(--${name})`;
        return [name, getComputedStyle(probe).color.match(/\\d+/g).map(Number)];
      });""")
    named = dict(colours)
    assert contrast(named["ink"], named["shade"]) >= 4.5
    assert all(contrast(named[f"c{n}"], named["paper"]) >= 3 for n in range(1, 11))


def contrast(one: list[int], other: list[int]) -> float:
    """Ratio of contrast of two colours, as WCAG 2 has it."""

    def light(colour: list[int]) -> float:
        shares = [part / 255 for part in colour]
        linear = [s / 12.92 if s <= 0.03928 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_keyboard_gets_to_the_content_and_sees_where_it_is(opened: Open) -> None:
    driver = opened()
    one(driver, "body").send_keys(Keys.TAB)
    skip = driver.switch_to.active_element
    assert skip.text == "Skip to the content" and skip.location["x"] >= 0
    skip.send_keys(Keys.ENTER)
    assert driver.switch_to.active_element.get_attribute("id") == "content"
    reached = set()
    for _ in range(40):
        driver.switch_to.active_element.send_keys(Keys.TAB)
        at = driver.switch_to.active_element
        reached.add(at.tag_name)
        outline = driver.execute_script("return getComputedStyle(arguments[0]).outlineStyle", at)
        assert outline != "none", at.get_attribute("outerHTML")[:200]
    assert {"button", "summary", "select"} <= reached


def test_it_prints_in_black_on_white(opened: Open) -> None:
    driver = opened(scheme="dark")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    colours = """const page = getComputedStyle(document.body);
      const nav = getComputedStyle(document.querySelector("nav"));
      return [page.backgroundColor, page.color, nav.display]"""
    assert driver.execute_script(colours) == ["rgb(255, 255, 255)", "rgb(27, 31, 36)", "none"]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_nothing_is_cut_off_on_paper(opened: Open) -> None:
    driver = opened()
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    millimetres = 210 - 2 * 12
    metrics = {"width": round(millimetres * 96 / 25.4), "height": 1000, "deviceScaleFactor": 1}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**metrics, "mobile": False})
    over = driver.execute_script("""
      return [...document.querySelectorAll("main svg, main img, main td, main th, main li")]
        .filter((e) => e.checkVisibility() && e.getBoundingClientRect().right > innerWidth + 1)
        .map((e) => e.outerHTML.slice(0, 100))""")
    assert over == []
    exact = """return [...document.querySelectorAll(".swatch, svg.key, .badge .sign")]
      .map((e) => getComputedStyle(e).printColorAdjust)"""
    assert set(driver.execute_script(exact)) == {"exact"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_without_scripts_the_results_are_there_and_no_heading_stands_alone(page: str) -> None:
    options = browser_options()
    options.add_experimental_option(
        "prefs", {"profile.managed_default_content_settings.javascript": 2}
    )
    with webdriver.Chrome(options, webdriver.ChromeService(DRIVER)) as driver:
        driver.get(page)
        assert "need JavaScript" in one(driver, "main").text
        assert texts(driver, "#case-table tbody th")[1] == "c2"
        assert texts(driver, "#case-table tbody tr:last-child td") == ["60.0", "60.0"]
        for blank in (".panel", ".controls", "details[data-numbers]", "#theme", "th button"):
            elements = driver.find_elements(By.CSS_SELECTOR, blank)
            assert not any(element.is_displayed() for element in elements), blank
        titles = texts(driver, "noscript .picture :is(h3, h4)")
        assert {"Losses of the stages", "DSC by structure, lits"} <= set(titles)
        # Something to read or to look at stands between a heading and the next one of its rank.
        parts = driver.find_elements(By.CSS_SELECTOR, f"main :is({CONTENT}, h2, h3, h4)")
        visible = [part.tag_name for part in parts if part.is_displayed()]
        for before, after in itertools.pairwise([*visible, "h1"]):
            assert before not in HEADINGS or after not in HEADINGS or after > before
