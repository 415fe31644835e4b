"""How fast the widgets are: from a key to the picture, and from a knob to a live draw.

    python benchmarks/widgets.py

Needs the quick run and a Chromium. Both the report and JupyterLab are measured. The browser's own
clock counts from the key to the moment at which the new picture is decoded.
"""

import os
import re
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

import browsing  # noqa: E402 - the line above makes it importable

STEP = """
async ([handle, key]) => {
  const images = () => [...document.querySelectorAll('figure img')].filter(i => i.offsetParent);
  const shown = () => images().map(i => i.alt).join();
  const target = document.querySelectorAll(handle)[0];
  const before = shown();
  const start = performance.now();
  target.focus();
  if (target.type === 'range') {
    target.stepUp();
    target.dispatchEvent(new Event('input'));
  } else {
    const press = { key, keyCode: 39, which: 39, bubbles: true };
    target.dispatchEvent(new KeyboardEvent('keydown', press));
  }
  const late = () => performance.now() - start > 5000;
  while (shown() === before && !late()) await new Promise(requestAnimationFrame);
  await Promise.all(images().map(i => i.decode()));
  return performance.now() - start;
}
"""
CAPTIONS = "[...document.querySelectorAll('figcaption')].map(f => f.textContent)"


def steps(page: Any, handle: str, count: int = 12) -> list[float]:
    """Milliseconds from a key to the picture, `count` times."""
    page.wait_for_selector(handle)
    return [page.evaluate(STEP, [handle, "ArrowRight"]) for _ in range(count)]


def tell(where: str, times: list[float]) -> None:
    """Print the median and the worst of some times."""
    print(
        f"{where}: {statistics.median(times):.0f} ms a step "
        f"(median of {len(times)}, worst {max(times):.0f})"
    )


def main() -> None:
    """Measure the report, the executed notebook in JupyterLab, and a live draw."""
    with sync_playwright() as tool, tempfile.TemporaryDirectory() as scratch:
        browser = browsing.launch(tool)
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.goto(f"file://{ROOT}/outputs/quick/report/03_sample.html")
        tell("report, journey", steps(page, "input[type=range]:not([disabled])"))
        with browsing.jupyterlab(ROOT, Path(scratch), dict(os.environ)) as address:
            browsing.open_notebook(page, address, "outputs/quick/notebooks/03_sample.ipynb")
            times = steps(page, ".jp-OutputArea .noUi-handle")
            tell("JupyterLab, journey of the executed notebook", times)
            browsing.open_notebook(page, address, "notebooks/03_sample.ipynb")
            browsing.run_all(page, save=False)
            page.wait_for_timeout(2000)
            texts = page.evaluate(CAPTIONS)
            print("live:", next(t for t in texts if re.search(r"images in [\d.]+ s", t)))
        browser.close()


if __name__ == "__main__":
    main()
