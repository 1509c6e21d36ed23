"""The page in headless Chromium, opened from disk: what a reader does with it, and that it talks to nobody.

Needs Debian's packages chromium and chromium-driver, and selenium; skips where they are absent.
"""

import base64
import json
import shutil
import time

import numpy as np
import pytest

from l2s.report.page import write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (extra 'dev')")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver on the path")
ENGINES = {"niivue": ("--enable-unsafe-swiftshader",), "slices": ("--disable-gpu", "--disable-3d-apis")}
HOSTILE = '<script>window.hacked=1</script><img src=x onerror="window.hacked=2">'
OUTLINE_2 = ".plane[data-axis='2'] g.lesion[data-lesion='2'] .area"
SET = "const n = document.querySelector(arguments[0]); n.value = arguments[1]; n.dispatchEvent(new Event(arguments[2]))"
SLOW_S = 60  # a busy machine draws WebGL in software


class Browser:
    """One Chromium and what it has said and asked for since the last page was opened."""

    def __init__(self, flags):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking", *flags):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))

    def open(self, path, width=1400, height=900):
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        )
        self.driver.get("about:blank")
        self.driver.get_log("browser"), self.driver.get_log("performance")
        self.driver.get(path.as_uri())
        self.wait("return document.getElementById('stage').dataset.engine")
        return self

    def wait(self, script):
        end = time.monotonic() + SLOW_S
        while not (value := self.js(script)):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)
        return value

    def js(self, script, *args):
        return self.driver.execute_script(script, *args)

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def click(self, selector):
        element = self.find(selector)
        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def at(self) -> list[int]:
        """The crosshair: viewer index z, y, x."""
        return [int(v) for v in self.find("#where").get_attribute("data-index").split()]

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def asked_for(self) -> list[str]:
        """Addresses of all requests but the page itself and what lies inside of it."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        assert sum(url.startswith("file:") for url in urls) == 1
        return [url for url in urls if not url.startswith(("file:", "data:", "blob:", "about:"))]

    def picture(self, selector) -> np.ndarray:
        """The element on the screen, (rows, columns, 3)."""
        import io

        from PIL import Image

        self.js("arguments[0].scrollIntoView({block: 'center'})", self.find(selector))
        with Image.open(io.BytesIO(self.find(selector).screenshot_as_png)) as image:
            return np.asarray(image.convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def browsers():
    started = {}

    def get(engine) -> Browser:
        if engine not in started:
            started[engine] = Browser(ENGINES[engine])
        return started[engine]

    yield get
    for browser in started.values():
        browser.driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory, case, truth, make):
    folder = tmp_path_factory.mktemp("pages")
    write_report(folder / "case.html", case, "l2s 9.9")
    write_report(folder / "none.html", make(lesions=()), "l2s 9.9")
    write_report(folder / "pair.html", make(HOSTILE), "l2s 9.9", baseline=make("earlier"), truth=truth)
    apart = ((z, y, x) for z in range(5, 75, 4) for y in range(10, 50, 8) for x in range(18, 70, 10))
    many = tuple(tuple((v, v + 1) for v in next(apart)) + (5 + k / 100,) for k in range(300))
    write_report(folder / "many.html", make(lesions=many), "l2s 9.9")
    write_report(folder / "short.html", make(planes=slice(36, 52)), "l2s 9.9")
    return folder


def hottest(case, number) -> list[int]:
    """Where the page must put the crosshair: the lesion's maximum; body box and factors as the page's own data say."""
    place = case.study.grid.mm_to_index_zyx(case.table["lesions"][number - 1]["maximum_mm_xyz"])
    return [round(float(v)) for v in place]


@pytest.fixture(params=list(ENGINES))
def opened(request, browsers, pages) -> Browser:
    browser = browsers(request.param).open(pages / "case.html")
    assert browser.js("return document.getElementById('stage').dataset.engine") == request.param
    return browser


def shift(browser, case) -> np.ndarray:
    """PET index minus viewer index, from the page's geometry."""
    data = json.loads(browser.js("return document.getElementById('report-data').textContent"))
    assert data["factors"] == [1, 1, 1]
    return np.rint(case.study.grid.mm_to_index_zyx(data["origin"])).astype(int)


def test_a_row_and_an_outline_move_the_crosshair(opened, case):
    first = shift(opened, case)
    for number in (2, 3, 1):
        opened.click(f"#lesions tr[data-lesion='{number}']")
        assert (np.array(opened.at()) + first).tolist() == hottest(case, number)
        assert f"lesion {number}" in opened.find("#where").text
        assert opened.find(f"tr[data-lesion='{number}']").get_attribute("aria-current") == "true"
    opened.js("document.querySelector(arguments[0]).dispatchEvent(new MouseEvent('click', {bubbles: true}))", OUTLINE_2)
    assert (np.array(opened.at()) + first).tolist() == hottest(case, 2)
    suv = case.table["lesions"][1]["suv_max"]
    assert f"SUV {suv:.2f}" in opened.find("#where").text
    # beside all lesions: the hottest voxel behind the pointer. Lesion 2 is the hottest in its own line of sight, 2 voxels off its outline
    opened.js("state.index = [5, 5, 5]")
    opened.js("pickBehind(document.querySelector('.plane[data-axis=\"1\"]'), arguments[0])", point_on_front(opened, case, 2))
    assert (np.array(opened.at()) + first).tolist() == hottest(case, 2)
    assert opened.complaints() == []
    assert opened.asked_for() == []


def point_on_front(browser, case, number) -> dict:
    """Where on the screen a lesion's maximum lies in the front view, worked out from the picture's box alone."""
    z, _, x = np.array(hottest(case, number)) - shift(browser, case)
    shape = json.loads(browser.js("return document.getElementById('report-data').textContent"))["shape"]
    box = browser.js("return document.querySelector('.plane[data-axis=\"1\"] svg').getBoundingClientRect()")
    return {
        "clientX": box["left"] + (x + 0.5) / shape[2] * box["width"],
        "clientY": box["top"] + (1 - (z + 0.5) / shape[0]) * box["height"],
    }


def test_both_engines_show_the_same(browsers, pages):
    """One picture each, and the same voxel under the same pointer: NiiVue's geometry is checked against our own."""
    shots, places = {}, {}
    for engine in ENGINES:
        browser = browsers(engine).open(pages / "case.html")
        browser.click("#lesions tr[data-lesion='2']")
        browser.click("input[name=mode][value=ct]")
        browser.click("input[name=mode][value=pet]")
        time.sleep(0.3)
        shots[engine] = browser.picture("#stage")
        places[engine] = []
        stage = browser.find("#stage")
        for dx, dy in ((-280, 30), (-40, -60), (200, 80)):
            ActionChains(browser.driver).move_to_element_with_offset(stage, dx, dy).click().perform()
            places[engine].append(browser.at())
        assert browser.complaints() == []
    assert np.abs(np.array(places["niivue"]) - places["slices"]).max() <= 1, places
    assert len({tuple(p) for p in places["niivue"]}) == 3
    a, b = shots["niivue"], shots["slices"]
    assert a.shape == b.shape
    assert a.std() > 10  # no empty stage
    assert np.abs(a - b).mean() < 6  # grey values; they smooth in their own ways


def test_controls_change_the_picture(opened):
    before = opened.picture("#stage")
    for selector, event, value in (
        ("input[name=mode][value=ct]", None, None),
        ("input[name=mode][value=fused]", None, None),
        ("#suv", "input", "4"),
        ("#ct-window", "change", "-1350 150"),
        ("#planes", "change", "1"),
        ("#zoom", "input", "3"),
        ("#show-labels", None, None),
    ):
        if event:
            opened.js(SET, selector, value, event)
        else:
            opened.click(selector)
        time.sleep(0.1)
        after = opened.picture("#stage")
        # one plane alone may ask for a lower stage
        assert after.shape != before.shape or np.abs(after - before).mean() > 0.05, selector
        before = after
    assert opened.find("#suv-out").text == "4"
    assert opened.complaints() == []


def test_keys_alone_reach_everything(opened):
    body = opened.find("body")
    seen = []
    for _ in range(40):
        ActionChains(opened.driver).send_keys(Keys.TAB).perform()
        seen.append(
            opened.js("const a = document.activeElement; return a.id || a.dataset.lesion || a.textContent.trim() || a.value")
        )
    for expected in ("theme", "print", "1", "suv", "ct-window", "planes", "zoom", "stage"):
        assert expected in seen, seen
    opened.js("document.querySelector('#lesions tr[data-lesion=\"1\"]').focus()")
    ActionChains(opened.driver).send_keys(Keys.ARROW_DOWN).perform()
    assert opened.js("return document.activeElement.dataset.lesion") == "2"
    assert opened.js("return document.querySelector('tr.picked').dataset.lesion") == "2"
    opened.js("document.getElementById('stage').focus({preventScroll: true})")
    before = np.array(opened.at())
    ActionChains(opened.driver).send_keys(Keys.ARROW_RIGHT, Keys.ARROW_UP, Keys.PAGE_DOWN).perform()
    assert (np.array(opened.at()) - before).tolist() == [1, 1, 1]
    opened.js("document.activeElement.blur()")
    body.send_keys("n")
    assert opened.js("return document.querySelector('tr.picked').dataset.lesion") == "3"
    body.send_keys("p")
    assert opened.js("return document.querySelector('tr.picked').dataset.lesion") == "2"
    assert opened.complaints() == []


def test_the_table_sorts(browsers, pages):
    browser = browsers("slices").open(pages / "case.html")

    def order():
        return browser.js("return [...document.querySelectorAll('#lesions tbody tr')].map((r) => r.dataset.lesion).join(' ')")

    browser.click("#lesions th.col-suv_max button")
    assert order() == "2 1 3"
    assert browser.find("#lesions th.col-suv_max").get_attribute("aria-sort") == "descending"
    browser.click("#lesions th.col-suv_max button")
    assert order() == "3 1 2"
    browser.click("#lesions th.col-number button")
    assert order() == "1 2 3"


def test_the_rotating_view_turns(browsers, pages):
    browser = browsers("slices").open(pages / "case.html")
    browser.click("input[name=mip][value=spin]")
    assert not browser.find("#stills").is_displayed()
    front = browser.picture("#turntable")
    ends = "return [...document.querySelectorAll('#turntable .ends text')].slice(0, 2).map((t) => t.textContent).join('')"
    assert browser.js(ends) == "RL"
    browser.find("#angle").send_keys(*[Keys.ARROW_RIGHT] * 15)
    assert browser.find("#angle-out").text == "90°"
    assert browser.js(ends) == "AP"
    assert np.abs(browser.picture("#turntable") - front).mean() > 1
    browser.find("#angle").send_keys(*[Keys.ARROW_RIGHT] * 15)
    assert browser.js(ends) == "LR"
    browser.js(
        "document.querySelector('#turntable g.tag[data-lesion=\"2\"]').dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    )
    assert browser.js("return document.querySelector('tr.picked').dataset.lesion") == "2"
    browser.click("#play")
    browser.wait("return document.getElementById('angle').value !== '30'")
    browser.click("#play")


@pytest.mark.parametrize("name", ["case", "pair", "none"])
def test_narrow_windows_scroll_down_only(browsers, pages, name):
    browser = browsers("slices")
    for width in (420, 320, 1100, 1400):
        browser.open(pages / f"{name}.html", width, 800)
        assert browser.js("return document.documentElement.scrollWidth") <= width, width
    assert browser.complaints() == []
    assert browser.asked_for() == []


def rectangles(browser, selector) -> list[dict]:
    return browser.js(
        "return [...document.querySelectorAll(arguments[0])].map((n) => n.getBoundingClientRect().toJSON())", selector
    )


@pytest.mark.parametrize(("width", "height"), [(1400, 1800), (1280, 720)])
def test_front_and_side_stand_side_by_side_on_the_first_screen(browsers, pages, width, height):
    browser = browsers("slices").open(pages / "case.html", width, height)
    front, side = rectangles(browser, ".plane svg")
    assert front["top"] == side["top"]
    assert side["left"] > front["right"]
    assert max(front["bottom"], side["bottom"]) <= height
    assert front["width"] / front["height"] == pytest.approx(
        browser.js("const b = document.querySelector('.plane svg').viewBox.baseVal; return b.width / b.height"), rel=0.01
    )
    letters = browser.js(
        "const s = document.querySelector('.plane svg'); const k = s.getBoundingClientRect().width / s.viewBox.baseVal.width;"
        "return k * parseFloat(getComputedStyle(s.querySelector('g.lesion text')).fontSize)"
    )
    table = "const b = document.querySelector('.scroll.table'); return b.scrollWidth - b.clientWidth"
    assert browser.js(table) == 0
    assert browser.find("#lesions td.col-cue_share").is_displayed()
    assert letters > 10.5  # smaller ones cannot be read


def test_three_hundred_lesions_keep_their_numbers_and_labels(browsers, pages):
    browser = browsers("slices").open(pages / "many.html")
    assert browser.js("return document.querySelectorAll('.plane[data-axis=\"1\"] g.lesion text').length") == 60
    for number in ("290", "299"):
        browser.click(f"#lesions tr[data-lesion='{number}']")
        passing = "return [...document.querySelectorAll('.plane text.passing')].map((n) => n.textContent)"
        assert browser.js(passing) == [number] * 2
        assert f"lesion {number}" in browser.find("#where").text
        tags = "return [...document.querySelectorAll('#turntable g.tag')].slice(60).map((n) => n.textContent)"
        assert browser.js(tags) == [number]
    browser.click("#lesions tr[data-lesion='2']")
    assert browser.js(passing) == []
    assert browser.js(tags) == []
    assert "300 rows" in browser.find(".count").text
    content = "return getComputedStyle(document.querySelector('.count'), '::after').content"
    assert browser.js(content) == '", scroll"'
    box = browser.find(".scroll.table").size["height"]
    assert box // browser.find("#lesions tbody tr").size["height"] >= 12
    assert browser.complaints() == []
    browser.open(pages / "case.html")
    assert browser.js(content) == "none"


@pytest.mark.parametrize(("engine", "width"), [("niivue", 1400), ("slices", 1400), ("slices", 420)])
def test_a_short_scan_fills_its_stage(browsers, pages, engine, width):
    """At least half of the stage is picture: the planes are 440 x 300, 440 x 96 and 300 x 96 mm."""
    browser = browsers(engine).open(pages / "short.html", width, 900)
    filled = browser.js(
        "const s = document.getElementById('stage'); const [w, h] = [s.clientWidth, s.clientHeight];"
        "return tilesOf(w, h).map((t) => fitted(t)).reduce((sum, t) => sum + t.width * t.height, 0) / (w * h)"
    )
    assert filled > 0.5
    time.sleep(0.2)
    assert (browser.picture("#stage").mean(axis=2) < 250).mean() > 0.4  # tissue of SUV 1 is light grey
    assert browser.complaints() == []


def test_the_truth_has_an_outline_of_its_own(browsers, pages):
    browser = browsers("slices").open(pages / "pair.html")
    assert len(rectangles(browser, ".plane path.truth")) == 2
    browser.click("#lesions tr[data-lesion='1']")
    assert "truth" not in browser.find("#where").text
    # the voxel that lesion 1 shares with the truth, and one of the truth alone
    first = np.array(json.loads(browser.js("return JSON.stringify(report.origin)")))
    shared = np.rint((np.array([57, 33, 65]) * [5, 5, 6] + [-220, -150, -240] - first) / [5, 5, 6]).astype(int)[::-1]
    browser.js("moveTo(arguments[0])", shared.tolist())
    assert "lesion 1 in the truth" in " ".join(browser.find("#where").text.split())
    browser.js("moveTo(arguments[0])", (shared + [1, 0, 0]).tolist())
    assert browser.find("#where").text.count("lesion") == 0
    assert "in the truth" in browser.find("#where").text
    with_truth = browser.picture("#stage")
    browser.js("volumes.truth.array.fill(0); drawer.update('all')")
    gone = np.abs(browser.picture("#stage") - with_truth).sum(axis=2) > 60
    assert gone.any()
    red, green, blue = with_truth[gone].mean(axis=0)
    assert blue > red + 40
    browser.click("input[name=mip][value=spin]")
    assert browser.find("#turntable path.truth").get_attribute("d").startswith("M")
    assert browser.complaints() == []


def test_a_hostile_name_is_a_name(browsers, pages):
    browser = browsers("slices").open(pages / "pair.html")
    assert HOSTILE in browser.find("h1").text
    assert browser.js("return typeof window.hacked") == "undefined"
    # even a script that got in would not run: the page's policy knows ours only
    browser.js("const s = document.createElement('script'); s.textContent = 'window.hacked = 3'; document.body.append(s)")
    assert browser.js("return typeof window.hacked") == "undefined"
    browser.js("fetch('https://example.org/').catch(() => { window.refused = true })")
    browser.wait("return window.refused")
    assert any("Content Security Policy" in line for line in browser.complaints())
    browser.click("#lesions-baseline tr[data-lesion='b2']")
    assert browser.js("return document.querySelectorAll('.plane g.lesion.picked').length") == 2
    browser.click("#lesions tr[data-lesion='4']")
    assert "missed lesion" in browser.find("#where").text


def test_no_lesion(browsers, pages):
    browser = browsers("niivue").open(pages / "none.html")
    assert "No lesion marked" in browser.find("#headline").text
    ActionChains(browser.driver).send_keys("n").perform()
    assert browser.find("#where").text.startswith("SUV")
    assert browser.complaints() == []
    assert browser.asked_for() == []


def test_dark_and_print(browsers, pages):
    browser = browsers("slices").open(pages / "case.html")
    colour = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    assert min(browser.js(colour)) > 200
    browser.click("#theme")
    assert max(browser.js(colour)) < 60
    assert browser.find("#theme").get_attribute("aria-pressed") == "true"
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert min(browser.js(colour)) > 200
    assert not browser.find("#stage").is_displayed()
    assert browser.js("return getComputedStyle(document.querySelector('.scroll.table')).maxHeight") == "none"
    assert browser.find(".plane svg").is_displayed()
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    pdf = base64.b64decode(browser.driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    assert pdf.startswith(b"%PDF")
