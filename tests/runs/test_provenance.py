"""Provenance: which changes of the project make a run a "modified" one."""

import json
import subprocess

import nbformat
import pytest

from lensnb.runs import provenance


def git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A committed project with one notebook and one module."""
    for part in ("notebooks", "params"):
        (tmp_path / part).mkdir()
    cells = [nbformat.v4.new_markdown_cell("# A"), nbformat.v4.new_code_cell("1 + 1")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks/a.ipynb")
    (tmp_path / "code.py").write_text("x = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change(path, edit):
    tree = json.loads(path.read_text())
    edit(tree)
    path.write_text(json.dumps(tree))


def test_an_executed_notebook_is_no_modification_but_another_cell_is(project):
    assert provenance.provenance()["modified"] is False
    notebook = project / "notebooks/a.ipynb"

    def execute(tree):
        tree["cells"][1]["execution_count"] = 7
        tree["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "2"}]
        tree["metadata"]["widgets"] = {"state": {}}

    change(notebook, execute)
    assert provenance.provenance()["modified"] is False
    git(project, "add", "-A")
    assert provenance.provenance()["modified"] is False
    change(notebook, lambda tree: tree["cells"][1].update(source=["1 + 2"]))
    assert provenance.provenance()["modified"] is True
    notebook.unlink()
    assert provenance.provenance()["modified"] is True


def test_changed_code_is_a_modification_and_a_new_file_is_none(project):
    (project / "notes.txt").write_text("mine")
    assert provenance.provenance()["modified"] is False
    (project / "code.py").write_text("x = 2\n")
    assert provenance.provenance()["modified"] is True
