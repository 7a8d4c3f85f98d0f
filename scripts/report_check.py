"""Opens a report in headless Chromium, uses it with mouse and keyboard as a person does, and says what works.

    netkin report --published --out report.html
    python scripts/report_check.py report.html          # Debian: apt-get install chromium chromium-driver

Clicks, keys and pointer moves are the browser's own (WebDriver); nothing is put into the page. The exit code is 1 if a check fails.
`--screenshot FILE.png [--dark] [--width 1280] [--height 1400] [--at SECTION]` takes a picture instead.
"""
import argparse
import base64
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """A session of chromedriver, which speaks WebDriver (W3C) over HTTP."""

    def __init__(self, width, height):
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
        port = next(found[1] for line in self.driver.stdout if (found := re.search(r"successfully on port (\d+)", line)))
        self.address = f"http://127.0.0.1:{port}/session"
        self.profile = tempfile.TemporaryDirectory()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-color-profile=srgb"]
        options += [f"--user-data-dir={self.profile.name}", f"--window-size={width},{height}"]
        wanted = {"goog:chromeOptions": {"args": options}, "goog:loggingPrefs": {"browser": "ALL"}}
        self.address += "/" + self.call("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.call("", method="DELETE")
        self.driver.terminate()
        self.driver.wait()
        self.profile.cleanup()

    def call(self, path, body=None, method="POST"):
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def chromium(self, command, **parameters):
        return self.call("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def script(self, text, *arguments):
        return self.call("/execute/sync", {"script": text, "args": list(arguments)})

    def find(self, selector):
        return self.call("/element", {"using": "css selector", "value": selector})[ELEMENT]

    def click(self, selector):
        self.call(f"/element/{self.find(selector)}/click")

    def keys(self, selector, text):
        self.call(f"/element/{self.find(selector)}/value", {"text": text})

    def point(self, selector):
        """Moves the pointer to the middle of an element, which is scrolled to."""
        element = self.find(selector)
        self.script("arguments[0].scrollIntoView({block: 'center'})", {ELEMENT: element})
        move = {"type": "pointerMove", "duration": 0, "origin": {ELEMENT: element}, "x": 0, "y": 0}
        away = {"type": "pointerMove", "duration": 0, "x": 1, "y": 1}
        self.call("/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": [away, move]}]})

    def tip(self):
        return self.script("const tip = document.getElementById('tip'); return tip.hidden ? '' : tip.textContent")

    def colour(self):
        return self.script("return getComputedStyle(document.body).backgroundColor")

    def dark(self, wanted):
        value = "dark" if wanted else "light"
        self.chromium("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def size(self, width, height):
        self.chromium(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )


def check(browser, page):
    """(what, whether) for everything that a person may do."""
    has = lambda selector: browser.script("return document.querySelectorAll(arguments[0]).length", selector)
    rows = """const height = (text) => parseFloat(text.getAttribute("transform").split(" ")[1]);
        return [...document.querySelectorAll("#heat-map text.row")].sort((a, b) => height(a) - height(b)).map((text) => text.textContent)"""
    picture = "return document.querySelector('#heat-map image').getAttribute('href')"
    marks = "return [...document.querySelectorAll('.mark path')].map((path) => path.getAttribute('fill') + path.getAttribute('d')).join()"
    width = "return document.getElementById('heat-map').clientWidth"

    before = browser.script(picture)
    browser.click("#order option[value=name]")
    names = browser.script(rows)
    in_order = browser.script("return arguments[0].every((name, i, all) => !i || all[i - 1].localeCompare(name) <= 0)", names)
    yield "a click sorts the names", in_order
    yield "the cells are drawn anew", not names or browser.script(picture) != before
    whole = browser.script(width)
    browser.click("#larger")
    yield "a click makes the map larger", abs(browser.script(width) / whole - 1.5) < 0.01
    browser.click("#whole")
    yield "a click fits it again", browser.script(width) == whole

    known = browser.script("return JSON.parse(document.getElementById('data').textContent).images !== null")
    cell = r" – .*: -?[0-9.]+" + (r" \[-?[0-9.]+, -?[0-9.]+\], n = \d+" if known else "")
    browser.point("#heat-map")
    told = browser.tip()
    yield f"the pointer reads a cell: {told}", re.search(cell, told)
    browser.keys("#heat-map-box", "\ue014")
    told = browser.tip()
    yield f"the arrow key reads a cell: {told}", re.search(r" – ", told)
    further = "return [...document.querySelectorAll('#measures-section svg, #layers-section svg')].map((map) => map.id)"
    for map in browser.script(further):
        browser.point(f"#{map}")
        told = browser.tip()
        yield f"the pointer reads a cell of {map}: {told}", re.search(r" – ", told)
    browser.keys("#heat-map-box", "+")
    yield "the plus key makes it larger", browser.script(width) > whole
    browser.keys("#heat-map-box", "0")
    browser.keys("#heat-map-box", "\ue00c")
    yield "the escape key takes the label away", not browser.tip()
    browser.click("#copy")
    time.sleep(0.2)
    yield "a click copies", browser.script("return document.getElementById('copy').textContent") == "Copied"

    if has("#map-colour option") > 1:
        old = browser.script(marks)
        browser.click("#map-colour option:nth-child(2)")
        yield "the map is coloured anew", browser.script(marks) != old and has("#legend li")
    browser.point(".mark path")
    told = browser.tip()
    yield f"the pointer reads a mark: {told}", told
    browser.script("document.getElementById('map-colour').focus()")
    tab = [{"type": "keyDown", "value": "\ue004"}, {"type": "keyUp", "value": "\ue004"}]
    browser.call("/actions", {"actions": [{"type": "key", "id": "keys", "actions": tab}]})
    yield "the tab key goes to a mark and reads it", browser.script("return document.activeElement.matches('.mark')") and browser.tip()
    if has("#ensembles"):
        yield "every point tells its members", has("#ensembles .point") == has("#ensembles .point title") > 0
        browser.click("summary")
        yield "a click shows the weights", browser.script("return document.querySelector('details').open")

    light = browser.colour()
    browser.click("#theme")
    yield "a click makes it dark", browser.colour() != light
    browser.click("#theme")
    yield "another makes it light", browser.colour() == light
    browser.call("/refresh")
    browser.dark(True)
    yield "it is dark where the system is", browser.colour() != light
    browser.dark(False)

    browser.size(400, 800)
    overflow = browser.script("return document.documentElement.scrollWidth - innerWidth")
    yield f"nothing sticks out of a narrow window ({overflow} px)", overflow <= 0
    browser.size(1280, 1000)
    browser.chromium("Emulation.setEmulatedMedia", media="print")
    yield "buttons are not printed", browser.script("return getComputedStyle(document.querySelector('.controls')).display") == "none"
    browser.chromium("Emulation.setEmulatedMedia", media="")
    printed = base64.b64decode(browser.chromium("Page.printToPDF")["data"])
    yield f"it can be printed ({len(printed) >> 10} KiB of PDF)", printed.startswith(b"%PDF")
    errors = [entry["message"] for entry in browser.call("/se/log", {"type": "browser"}) if entry["level"] == "SEVERE"]
    yield f"no error, and nothing refused: {errors}", not errors
    browser.chromium("Emulation.setScriptExecutionDisabled", value=True)
    browser.call("/url", {"url": page})
    shown = browser.chromium("DOM.getDocument", depth=-1)["root"]
    yield "without scripts the figures are there", "heat-map" in json.dumps(shown)


parser = argparse.ArgumentParser()
parser.add_argument("report", type=pathlib.Path)
parser.add_argument("--screenshot", type=pathlib.Path)
parser.add_argument("--dark", action="store_true")
parser.add_argument("--width", type=int, default=1280)
parser.add_argument("--height", type=int, default=1400)
parser.add_argument("--at", help="the id of a section that is scrolled to")
args = parser.parse_args()
page = args.report.resolve().as_uri()
with Browser(args.width, args.height) as browser:
    browser.size(args.width, args.height)
    browser.dark(args.dark)
    browser.call("/url", {"url": page})
    if args.screenshot:
        if args.at:
            browser.script("document.getElementById(arguments[0]).scrollIntoView()", args.at)
        args.screenshot.write_bytes(base64.b64decode(browser.call("/screenshot", method="GET")))
        sys.exit()
    results = [(what, bool(whether)) for what, whether in check(browser, page)]
print("\n".join(f"{'ok' if whether else 'FAILED'} {what}" for what, whether in results))
sys.exit(not all(whether for _, whether in results))
