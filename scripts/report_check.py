"""Opens a report in headless Chromium, uses it as a person does, and says what works.

    netkin report --published --out report.html
    python scripts/report_check.py report.html          # needs `chromium` (Debian: apt-get install chromium)

Sorting, zooming, hovering, going by keyboard, colouring the map and changing to dark are done by events in the page; the exit code is 1
if one fails. `--screenshot FILE.png [--dark] [--width 1280] [--height 1400]` takes a picture instead.
"""
import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

CHECK = r"""
const results = [];
const check = (name, good) => results.push((good ? "ok " : "FAILED ") + name);
const find = (id) => document.getElementById(id);
const choose = (id, value) => { find(id).value = value; find(id).dispatchEvent(new Event("change")); };
const height = (text) => parseFloat(text.getAttribute("transform").split(" ")[1]);
const rows = () => [...document.querySelectorAll("#heat-map text.row")].sort((a, b) => height(a) - height(b)).map((text) => text.textContent);
const picture = () => document.querySelector("#heat-map image").getAttribute("href");
const before = picture();
choose("order", "name");
check("names are sorted", rows().every((name, i, all) => i === 0 || all[i - 1].localeCompare(name) <= 0));
check("cells are drawn anew", picture() !== before);
const width = find("heat-map").clientWidth;
find("larger").click();
check("the map grows", Math.abs(find("heat-map").clientWidth / width - 1.5) < 0.01);
find("whole").click();
check("the map fits again", find("heat-map").clientWidth === width);
find("heat-map-box").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
check("the keyboard reads a cell: " + find("tip").textContent, !find("tip").hidden);
const bounds = find("heat-map").getBoundingClientRect();
find("heat-map").dispatchEvent(new PointerEvent("pointermove", { clientX: bounds.left + bounds.width / 2, clientY: bounds.top + bounds.height / 2, bubbles: true }));
check("the pointer reads a cell: " + find("tip").textContent, / – .*: -?[0-9.]+/.test(find("tip").textContent));
const fill = () => [...document.querySelectorAll(".mark path")].map((path) => path.getAttribute("fill") + path.getAttribute("d")).join();
const marks = fill();
if (find("map-colour").options.length > 1) {
  choose("map-colour", "component-0");
  check("the map is coloured anew", fill() !== marks && find("legend").children.length > 0);
}
const dark = () => getComputedStyle(document.body).backgroundColor;
const light = dark();
find("theme").click();
check("light becomes dark", dark() !== light);
document.body.textContent = "RESULTS " + results.join(" | ") + " END";
"""


def chromium(page, *options):
    with tempfile.TemporaryDirectory() as profile:
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        command += [f"--user-data-dir={profile}", "--hide-scrollbars", *options, page.resolve().as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout


parser = argparse.ArgumentParser()
parser.add_argument("report", type=pathlib.Path)
parser.add_argument("--screenshot", type=pathlib.Path)
parser.add_argument("--dark", action="store_true")
parser.add_argument("--width", type=int, default=1280)
parser.add_argument("--height", type=int, default=1400)
args = parser.parse_args()
size = f"--window-size={args.width},{args.height}"
if args.screenshot:
    options = ["--blink-settings=preferredColorScheme=0"] if args.dark else []
    chromium(args.report, size, *options, f"--screenshot={args.screenshot.resolve()}")
    sys.exit()
with tempfile.TemporaryDirectory() as folder:
    page = pathlib.Path(folder) / "report.html"
    page.write_text(args.report.read_text().replace("</body>", f"<script>{{{CHECK}}}</script></body>"))
    found = re.search("RESULTS (.*) END", chromium(page, size, "--dump-dom"))
results = found[1].split(" | ") if found else ["FAILED the page does not run"]
print("\n".join(results))
sys.exit(any(result.startswith("FAILED") for result in results))
