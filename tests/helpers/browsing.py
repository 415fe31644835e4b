"""Drives JupyterLab and pages in a real browser, for tests and benchmarks."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # All cells are on the page, not only those in view.
    "notebook-extension/tracker": {"windowingMode": "none"},
}
SHELL = "window.jupyterapp.shell"
CONNECTED = "sessionContext?.session?.kernel?.connectionStatus === 'connected'"
# The alternative texts and sources of the visible pictures of a widget.
PICTURES = """
inside => [...document.querySelectorAll(inside + ' figure img')]
    .filter(image => image.offsetParent)
    .map(image => image.alt + image.src)
"""


def launch(tool):
    """A headless Chromium of the system, or playwright's own."""
    return tool.chromium.launch(
        executable_path=next(filter(None, map(shutil.which, NAMES)), None), args=FLAGS
    )


@contextlib.contextmanager
def jupyterlab(folder, scratch, env):
    """The address of a JupyterLab that shows `folder`.

    Its settings, workspaces and log lie in `scratch`.
    """
    for name, content in SETTINGS.items():
        path = scratch / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        f"--ServerApp.port={port}",
        "--ServerApp.ip=127.0.0.1",
        "--IdentityProvider.token=secret",
        f"--ServerApp.root_dir={folder}",
        "--allow-root",
        "--LabApp.expose_app_in_browser=True",
    ]
    with open(scratch / "lab.log", "w") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            stdout=log,
            stderr=log,
            env=env
            | {
                "JUPYTERLAB_SETTINGS_DIR": str(scratch / "settings"),
                "JUPYTERLAB_WORKSPACES_DIR": str(scratch / "workspaces"),
            },
        )
    try:
        address = f"http://127.0.0.1:{port}"
        while not _answers(address):
            assert server.poll() is None, (scratch / "lab.log").read_text()
            time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def _answers(address):
    """Whether JupyterLab answers at this address."""
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"{address}/api?token=secret").close()
        return True


def open_notebook(tab, lab, path):
    """Open a notebook in the JupyterLab at the address `lab`, and wait until it is ready."""
    tab.goto(f"{lab}/lab/tree/{path}?token=secret&reset")
    tab.wait_for_selector(".jp-NotebookPanel .jp-Cell")
    tab.wait_for_function("window.jupyterapp?.shell.currentWidget?.context?.isReady")
    tab.evaluate(f"{SHELL}.currentWidget.context.ready")


def run_all(tab, save=True):
    """Run all cells with a real kernel, and save the notebook."""
    tab.wait_for_function(f"{SHELL}.currentWidget.{CONNECTED}")
    tab.evaluate(f"{SHELL}.currentWidget.sessionContext.ready")
    tab.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    if save:
        tab.evaluate("window.jupyterapp.commands.execute('docmanager:save')")


def pictures(tab, inside=".jp-OutputArea"):
    """The alternative texts and sources of the visible pictures of a widget."""
    return tab.evaluate(PICTURES, inside)
