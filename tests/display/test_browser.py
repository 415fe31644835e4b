"""The notebooks in a real JupyterLab in a real browser, and the report from the disk.

Screenshots go to outputs/screenshots/.
"""

import json
import os
import shutil
from pathlib import Path

import nbformat
import pytest
import yaml
from browsing import PICTURES, jupyterlab, launch, open_notebook, pictures, run_all

from lensnb import io
from lensnb.runs import artefact
from lensnb.runs.run_folder import STEPS
from tools import publish_notebooks

ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "outputs" / "screenshots"
PATIENCE = 3_600_000  # ms, against a hang, not a slow machine
# Whether draws and probabilities are right is tested where the notebooks are executed as they are.
FEW_STEPS = """
import functools
from lensnb import likelihood, posterior
posterior.draw = functools.partial(posterior.draw, steps=3)
way = posterior.states  # draw gives it its steps, the notebook does not
posterior.states = lambda *given, **more: way(
    *given, **({} if len(given) > 4 else {"steps": 3}) | more
)
log_density = likelihood.log_density
likelihood.log_density = lambda prior, images, **_: log_density(prior, images, steps=2, probes=2)
"""


@pytest.fixture(scope="module")
def browser():
    """A real browser; without one the tests are skipped, unless LENSNB_BROWSER=required."""
    playwright = pytest.importorskip("playwright.sync_api")
    SHOTS.mkdir(parents=True, exist_ok=True)
    with playwright.sync_playwright() as tool:
        try:
            made = launch(tool)
        except playwright.Error as error:
            if os.environ.get("LENSNB_BROWSER") == "required":
                raise
            reason = str(error).splitlines()[0]
            pytest.skip(
                "no Chromium here (install it, or call `playwright install chromium`): " + reason
            )
        yield made
        made.close()


@pytest.fixture(scope="module")
def project(browser, tiny_chain, tmp_path_factory):
    """A copy of the project's notebooks, and the tiny chain as papermill ran and signed it.

    The parameter cells of the notebooks hold the tiny recipe.
    """
    folder = tmp_path_factory.mktemp("project")
    for part in ("notebooks", "params"):
        shutil.copytree(ROOT / part, folder / part)
    shutil.copytree(
        tiny_chain.outputs / "tiny", folder / "outputs/tiny", copy_function=shutil.copy2
    )
    env = os.environ | {
        "LENSNB_OUTPUTS": str(folder / "outputs"),
        "JUPYTER_DATA_DIR": str(tiny_chain.jupyter),
        "OMP_NUM_THREADS": "1",
    }
    tiny = yaml.safe_load((folder / "params/tiny.yaml").read_text()) | {"run": "inlab"}
    for path in (folder / "notebooks").glob("*.ipynb"):
        notebook = publish_notebooks.read(path)
        publish_notebooks.tagged(notebook, "parameters")[0].source += "\n" + "\n".join(
            f"{key} = {value!r}" for key, value in tiny.items()
        )
        if path.stem == "07_posterior":
            publish_notebooks.code_cells(notebook)[1].source += FEW_STEPS
        for cell in publish_notebooks.code_cells(notebook):
            cell.outputs = []
            cell.execution_count = None
        path.write_text(json.dumps(notebook))
    return folder, env


@pytest.fixture(scope="module")
def lab(project):
    """The address of a JupyterLab over the project, with its token."""
    folder, env = project
    with jupyterlab(folder, folder, env) as address:
        yield address


def new_tab(browser):
    """A tab of the browser, which notes what goes wrong on its pages."""
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(PATIENCE)
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    return page


@pytest.fixture
def tab(browser):
    page = new_tab(browser)
    yield page
    page.close()


CHANGED = f"""
([before, inside]) => {{
    const now = ({PICTURES})(inside);
    return now.length && JSON.stringify(now) !== JSON.stringify(before) ? now : false;
}}
"""


def changed(tab, before, inside=".jp-OutputArea"):
    """Wait until the pictures differ from `before`, and return them."""
    return tab.wait_for_function(CHANGED, arg=[before, inside]).json_value()


@pytest.mark.parametrize("name", publish_notebooks.NOTEBOOKS)
def test_a_notebook_opens_runs_and_shows_no_error(name, tab, lab, project):
    open_notebook(tab, lab, f"notebooks/{name}.ipynb")
    run_all(tab)
    notebook = publish_notebooks.read(project[0] / "notebooks" / f"{name}.ipynb")
    cells = publish_notebooks.code_cells(notebook)
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    assert not [o for c in cells for o in c.outputs if o.output_type == "error"]
    promised = sum(
        "widget-view" in mime for c in cells for o in c.outputs for mime in o.get("data", {})
    )
    boxes = ".jp-OutputArea-output .jupyter-widgets.widget-box"
    tab.wait_for_function(
        f"count => document.querySelectorAll('{boxes}').length >= count", arg=promised
    )
    assert "Error displaying widget" not in tab.inner_text("body") and tab.problems == []
    tab.screenshot(path=SHOTS / f"{name}.png")


def test_a_run_in_jupyterlab_wrote_the_files_of_papermill(project, lab):
    outputs = project[0] / "outputs"
    digests = [
        {
            str(p.parent.relative_to(outputs / run)): artefact.digest(p.parent)
            for p in (outputs / run).rglob("artefact.json")
        }
        for run in ("tiny", "inlab")
    ]
    assert len(digests[0]) == 11
    for digest in digests:
        del digest["figures"]  # one of the figures shows seconds
    assert digests[0] == digests[1]
    assert all(
        io.sha256(outputs / "tiny/figures" / name) == io.sha256(outputs / "inlab/figures" / name)
        for name in ("gallery.png", "ratios.pdf")
    )


def test_handles_keys_play_and_choices_change_the_picture_of_a_signed_run(tab, lab):
    open_notebook(tab, lab, "outputs/tiny/notebooks/03_sample.ipynb")
    tab.wait_for_selector(".jp-OutputArea .noUi-handle")
    shown = pictures(tab)
    assert any("DDPM, step 1 of" in picture for picture in shown)
    handle = tab.locator(".noUi-handle").first
    handle.scroll_into_view_if_needed()
    handle.focus()
    tab.keyboard.press("ArrowRight")
    shown = changed(tab, shown)
    box = handle.bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 400, box["y"], steps=5)
    tab.mouse.up()
    shown = changed(tab, shown)
    assert any("step 12 of 12" in picture for picture in shown)  # dragged to the end
    tab.screenshot(path=SHOTS / "journey.png")
    tab.locator(".jp-OutputArea select").nth(0).select_option(index=1)  # another image
    shown = changed(tab, shown)
    tab.locator(".jp-OutputArea select").nth(1).select_option(label="DDIM")
    shown = changed(tab, shown)
    assert any("DDIM, step" in picture for picture in shown)
    assert not any("DDPM, step" in picture for picture in shown)
    handle.focus()
    tab.keyboard.press("Home")
    shown = changed(tab, shown)
    tab.locator(".jupyter-widgets.widget-play button, .widget-play button").first.click()
    changed(tab, changed(tab, shown))  # the picture moves on by itself


@pytest.fixture(scope="module")
def lens(browser, lab):
    """A tab with the front page, whose cells have run."""
    tab = new_tab(browser)
    open_notebook(tab, lab, "notebooks/00_start.ipynb")
    run_all(tab, save=False)
    tab.wait_for_selector(".noUi-handle")
    yield tab
    tab.close()


BESIDE = """
() => {
    const knobs = [...document.querySelectorAll('.jp-OutputArea .widget-slider')];
    const image = document.querySelector('.jp-OutputArea figure img');
    const last = knobs[knobs.length - 1].getBoundingClientRect();
    const cell = image.closest('.jp-OutputArea-output');
    const labels = [...document.querySelectorAll('.jp-OutputArea .widget-label')];
    return {
        beside: image.getBoundingClientRect().left >= last.right,
        fits: cell.scrollWidth <= cell.clientWidth + 1,
        cut: labels.filter(l => l.scrollWidth > l.clientWidth + 1).map(l => l.textContent),
    };
}
"""


def test_the_knobs_of_a_lens_fit_into_a_cell(lens):
    for width, beside in ((1280, True), (1440, True), (760, False)):
        lens.set_viewport_size({"width": width, "height": 800})
        lens.wait_for_selector(".jp-OutputArea figure img")
        lens.locator(".jp-OutputArea .widget-slider").first.scroll_into_view_if_needed()
        lens.wait_for_function(f"""({BESIDE})().beside === {json.dumps(beside)}""")
        assert lens.evaluate(BESIDE) == {"beside": beside, "fits": True, "cut": []}, width
        lens.screenshot(path=SHOTS / f"lens-{width}.png")


def test_a_knob_asks_the_kernel_for_a_new_lens(lens):
    lens.set_viewport_size({"width": 1300, "height": 1000})
    shown = pictures(lens)
    lens.locator(".noUi-handle").first.focus()
    lens.keyboard.press("ArrowRight")
    assert any("Einstein radius 1.21 arcsec" in picture for picture in changed(lens, shown))
    lens.locator(".jp-OutputArea input[type=checkbox]").first.click()
    lens.wait_for_selector(".jp-OutputArea figure svg[aria-label='critical curve, caustic']")
    lens.screenshot(path=SHOTS / "lens.png")


def test_without_trust_a_still_picture_is_seen(tab, lab, project):
    name = "untrusted.ipynb"
    notebook = publish_notebooks.read(project[0] / "outputs/tiny/notebooks/03_sample.ipynb")
    notebook.cells[0].source += "\n\nA copy that nobody has signed."
    nbformat.write(notebook, project[0] / name)
    open_notebook(tab, lab, name)
    still = tab.locator(".jp-OutputArea-output img[src^='data:image/png']")
    still.last.wait_for()
    shown = [o for c in publish_notebooks.code_cells(notebook) for o in c.outputs]
    assert still.count() >= sum("image/png" in o.get("data", {}) for o in shown) > 2
    assert "Box(children" not in tab.inner_text("body") and tab.problems == []
    still.last.scroll_into_view_if_needed()
    tab.screenshot(path=SHOTS / "untrusted.png")


def test_the_report_opens_from_the_disk_without_a_network_and_its_sliders_work(
    browser, project, tmp_path
):
    report = shutil.copytree(project[0] / "outputs/tiny/report", tmp_path / "sent to a colleague")
    context = browser.new_context(offline=True, viewport={"width": 1300, "height": 1000})
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE)
    asked = []
    problems = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.goto(f"file://{report}/index.html")
    assert (
        "numbers are read together" in tab.inner_text("main") and tab.locator("table").count() >= 3
    )
    assert tab.evaluate(
        "[...document.images].every(i => i.complete && i.naturalWidth > 0 && i.alt)"
    )
    tab.screenshot(path=SHOTS / "report.png", full_page=True)
    assert "Only" in tab.inner_text(".banner")  # the tiny run has few images
    assert tab.evaluate(
        "[...document.querySelectorAll('figure > a')].every(a => a.href.endsWith('.pdf'))"
    )
    for width in (1280, 400):
        tab.set_viewport_size({"width": width, "height": 800})
        tab.screenshot(path=SHOTS / f"report-{width}.png")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        if width == 1280:  # verdict, picture and table are seen at once
            places = "main li >> nth=0", "main img >> nth=0", "main tbody tr >> nth=0"
            assert all(tab.locator(place).bounding_box()["y"] < 700 for place in places)
    tab.set_viewport_size({"width": 1300, "height": 1000})
    tab.get_by_role("link", name="03_sample").first.click()
    tab.wait_for_url("**/03_sample.html")
    assert tab.locator("math").count() > 5 and "$" not in tab.inner_text("main p >> nth=3")
    slider = tab.locator("input[type=range]:not([disabled])").first
    shown = pictures(tab, "main")
    assert any("DDPM, step 1 of 12" in picture for picture in shown)
    slider.focus()
    tab.keyboard.press("ArrowRight")
    shown = changed(tab, shown, "main")
    tab.keyboard.press("End")
    shown = changed(tab, shown, "main")
    assert any("step 12 of 12" in picture for picture in shown)
    tab.locator("select:not([disabled])").nth(1).select_option(label="GAN")
    shown = changed(tab, shown, "main")
    tab.locator("button").first.click()
    changed(tab, shown, "main")
    # The sliders of the live draw need a kernel.
    assert tab.locator("input[type=range][disabled]").count() >= 2
    tab.screenshot(path=SHOTS / "report_sample.png", full_page=True)
    for step in STEPS:
        tab.goto(f"file://{report}/{step}.html")
        assert tab.locator("h1").count() == 1
    context.close()
    assert problems == [] and all(url.startswith(("file://", "data:")) for url in asked)
