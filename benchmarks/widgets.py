"""How fast the sliders are: from a key to the picture, in the report and in JupyterLab, and from a knob to live draws.

Needs the quick run and a Chromium. The clock is the browser's own, from the key to the moment at which the new picture is decoded.
"""

import os
import re
import statistics
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import browsing  # noqa: E402

STEP = """async ([handle, key]) => {
  const shown = () => [...document.querySelectorAll('figure img')].filter(i => i.offsetParent).map(i => i.alt).join();
  const target = document.querySelectorAll(handle)[0], before = shown(), start = performance.now();
  target.focus();
  if (target.type === 'range') { target.stepUp(); target.dispatchEvent(new Event('input')); }
  else target.dispatchEvent(new KeyboardEvent('keydown', { key, keyCode: 39, which: 39, bubbles: true }));
  while (shown() === before && performance.now() - start < 5000) await new Promise(requestAnimationFrame);
  await Promise.all([...document.querySelectorAll('figure img')].filter(i => i.offsetParent).map(i => i.decode()));
  return performance.now() - start;
}"""


def steps(page, handle, count=12):
    """Milliseconds from a key to the picture, each of `count` times."""
    page.wait_for_selector(handle)
    return [page.evaluate(STEP, [handle, "ArrowRight"]) for _ in range(count)]


def told(where, times):
    print(
        f"{where}: {statistics.median(times):.0f} ms a step (median of {len(times)}, worst {max(times):.0f})"
    )


def main():
    with sync_playwright() as tool, tempfile.TemporaryDirectory() as scratch:
        browser = browsing.launch(tool)
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.goto(f"file://{ROOT}/outputs/quick/report/03_sample.html")
        told("report, journey", steps(page, "input[type=range]:not([disabled])"))
        with browsing.jupyterlab(ROOT, Path(scratch), dict(os.environ)) as address:
            browsing.open_notebook(page, address, "outputs/quick/notebooks/03_sample.ipynb")
            told(
                "JupyterLab, journey of the executed notebook",
                steps(page, ".jp-OutputArea .noUi-handle"),
            )
            browsing.open_notebook(page, address, "notebooks/03_sample.ipynb")
            browsing.run_all(page, save=False)
            page.wait_for_timeout(2000)
            texts = page.evaluate(
                "[...document.querySelectorAll('figcaption')].map(f => f.textContent)"
            )
            print("live:", next(t for t in texts if re.search(r"images in [\d.]+ s", t)))
        browser.close()


if __name__ == "__main__":
    main()
