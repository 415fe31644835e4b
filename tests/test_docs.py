"""The prose: short pages, links that lead somewhere, commands that exist, a site that builds."""

import functools
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
OTHERS = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PROSE = [README, *PAGES, *OTHERS]
ORDER = [
    "# lensnb",
    "## Two commands",
    "## One picture",
    "## The chain",
    "## Your own images",
    "## One result",
    "## The code",
    "## Ten lines",
    "## Citation",
    "## Licence",
]
OLD_NAMES = ("DPM-Solver+ ", "dpm solver", "python -m lensnb.", "Frechet lens distance (FLD)")


def name(path):
    """A page's name in the test's report."""
    return str(path.relative_to(ROOT))


def words(path):
    return len(path.read_text().split())


def code_of(path):
    """All code of a page: fenced blocks and code spans, one piece of text each."""
    text = path.read_text()
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.M | re.S)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    return [*blocks, *spans]


def commands(pages, program):
    """Every use of a program in the code of some pages: (page, the rest of its line)."""
    found = []
    for page in pages:
        for line in "\n".join(code_of(page)).splitlines():
            command = line.split("#")[0]
            found += [
                (name(page), rest.strip())
                for rest in re.findall(rf"(?:^|\s|-m ){program} (.*)", command)
            ]
    return found


# Length and order ---------------------------------------------------------------------------------


def test_the_readme_has_at_most_1000_words():
    assert words(README) <= 1000


def test_the_readme_keeps_its_order():
    text = re.sub(r"^```.*?^```", "", README.read_text(), flags=re.M | re.S)
    assert re.findall(r"^#+ .*", text, re.M) == ORDER


def test_the_readme_begins_with_two_sentences():
    opening = README.read_text().split("\n\n")[1]
    assert len(re.findall(r"[.?!](?:\s|$)", opening)) == 2


def test_the_readmes_result_table_has_at_most_five_columns():
    section = README.read_text().split("## One result")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) >= 3 and all(row.count("|") <= 6 for row in rows)


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=name)
def test_a_page_has_fewer_than_1500_words(page):
    assert words(page) < 1500


# Links --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PROSE, ids=name)
def test_relative_links_and_images_lead_to_files(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    for target in targets:
        if not target.startswith(("http:", "https:", "mailto:", "#")):
            assert (page.parent / target.split("#")[0]).exists(), target


def test_every_image_has_an_alternative_text_and_every_picture_of_docs_is_shown():
    texts = [page.read_text() for page in PROSE]
    images = [image for text in texts for image in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text)]
    assert images and all(len(alt) > 20 for alt, _ in images)
    shown = {Path(target).name for _, target in images}
    assert {path.name for path in (ROOT / "docs").glob("*.png")} <= shown


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages_link_to_nothing_outside_of_docs(page):
    for target in re.findall(r"\]\(([^)\s#]+)", page.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).resolve().is_relative_to(ROOT / "docs"), target


def test_every_page_stands_in_the_navigation_and_on_the_front_page():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    flat = re.findall(r"[\w/-]+\.md", str(site["nav"]))
    assert sorted(flat) == sorted(str(p.relative_to(ROOT / "docs")) for p in PAGES)
    front = (ROOT / "docs/index.md").read_text()
    assert all(f"({p.name})" in front for p in (ROOT / "docs").glob("*.md") if p.name != "index.md")


# What is named exists -----------------------------------------------------------------------------


def test_every_make_target_and_variable_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    variables = set(re.findall(r"^(?:export )?([A-Z_]+) *\??:?=", makefile, re.M))
    variables |= {"LENSNB_OUTPUTS"}  # read by the package
    used = commands(PROSE, "make")
    assert len(used) > 20
    for page, rest in used:
        goals = [word for word in re.sub(r"\w+=(\"[^\"]*\"|\S*)", "", rest).split() if word]
        assert goals and goals[0] in targets, f"{page}: make {rest}"
        for variable in re.findall(r"(?:^|\s)([A-Z_]+)=", rest):
            assert variable in variables, f"{page}: make {rest}"


def test_every_make_target_and_variable_is_described():
    makefile = (ROOT / "Makefile").read_text()
    front = (ROOT / "docs/index.md").read_text()
    phony = re.search(r"^\.PHONY:(.*)$", makefile, re.M)[1].split()
    assert all(f"`make {target}`" in front for target in phony)
    given = re.findall(r"^([A-Z]+) *\?=", makefile, re.M)
    assert all(f"| `{variable}` |" in front for variable in given)


@functools.cache
def help_of(*subcommand):
    """What `lensnb ... --help` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "lensnb", *subcommand, "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_subcommand_exists_with_its_options():
    used = [(page, rest.split()) for page, rest in commands(PROSE, "lensnb")]
    used = [(page, rest) for page, rest in used if rest and re.fullmatch("[a-z]+", rest[0])]
    assert {rest[0] for _, rest in used} >= {"run", "train", "report", "draw", "init", "check"}
    for page, (subcommand, *rest) in used:
        assert re.search(rf"^\W*{subcommand}\b", help_of(), re.M), f"{page}: lensnb {subcommand}"
        for option in (word for word in rest if re.fullmatch(r"--?[a-z-]+", word)):
            assert re.search(rf"(?<![\w-]){option}\b", help_of(subcommand)), f"{page}: {option}"


def test_every_recipe_is_described_and_every_recipe_that_is_named_exists():
    page = (ROOT / "docs/recipes.md").read_text()
    for recipe in (ROOT / "params").glob("*.yaml"):
        assert f"`params/{recipe.name}`" in page, recipe.name
    for page in PROSE:
        for recipe in re.findall(r"params/[\w-]+\.yaml", page.read_text()):
            assert (ROOT / recipe).is_file() or recipe == "params/mine.yaml", f"{page}: {recipe}"


def test_every_file_of_the_repository_that_is_named_exists():
    pattern = (
        r"(?<![\w/.<>-])(?:lensnb|tests|tools|benchmarks|profiles|requirements)"
        r"/[\w/.-]+\.[a-z]+"
    )
    for page in [README, *PAGES, ROOT / "CONTRIBUTING.md"]:
        for file in re.findall(pattern, page.read_text()):
            assert (ROOT / file).is_file(), f"{name(page)}: {file}"


def test_every_module_that_is_run_exists():
    for page in PROSE:
        for module in re.findall(r"python -m (tools[\w.]*)", page.read_text()):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), f"{name(page)}: {module}"


def test_one_change_one_place_names_files_and_the_registries_in_them():
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## One change, one place")[1]
    section = section.split("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) > 10 and all(len(row) == 4 for row in rows)
    for change, files, registries, tests in rows[1:]:
        named = re.findall(r"`([\w/.-]+/[\w/.-]*)`", files)
        assert named, change
        assert all((ROOT / path).exists() for path in named), files
        assert all((ROOT / path).is_file() for path in re.findall(r"`([^`]+)`", tests)), tests
        for registry in re.findall(r"`([A-Z_]+)`", registries):
            text = (ROOT / named[0]).read_text()
            assert re.search(rf"^{registry}\b", text, re.M), f"{registry} in {named[0]}"


def test_names_that_changed_are_gone():
    for page in [README, *PAGES, ROOT / "CONTRIBUTING.md"]:
        text = page.read_text()
        assert not [old for old in OLD_NAMES if old in text], name(page)
        assert not re.search(r"\bfld\b|\bFLD\b|\bcritic\b", text), name(page)
        assert not re.search(r"\d sigma\b", text), name(page)


# Citation, licence, site --------------------------------------------------------------------------


def test_the_citation_has_the_version_and_the_licence_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["cff-version"] == "1.2.0" and citation["title"] and citation["authors"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert all(paper["title"] and paper["authors"] for paper in citation["references"])


def test_the_changelog_has_the_version_of_the_package():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.search(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)[1]
    assert newest == version


def test_the_workflow_runs_the_users_command_on_every_supported_python():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    job = workflow["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert "make test PYTHON=python" in [step.get("run") for step in job["steps"]]


def test_the_site_builds_without_a_warning_and_without_a_network(tmp_path):
    """Every connection is refused: a build that needed one would fail."""
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\n"
        "def refuse(*arguments, **options):\n"
        "    raise OSError('no network in this test')\n"
        "socket.socket.connect = refuse\n"
        "socket.create_connection = refuse\n"
    )
    site = tmp_path / "site"
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "WARNING" not in done.stderr
    sampler = (site / "api/sampler.html").read_text()
    assert "arXiv:2211.01095" in sampler  # the docstring of DPM-Solver++
    fetched = re.findall(r"(?:src|href)=\"(https?:[^\"]+\.(?:js|css|woff2?))\"", sampler)
    assert not fetched


# How docstrings become Markdown -------------------------------------------------------------------


def test_docstrings_keep_their_words_and_show_their_parameters_as_a_list():
    from tools.docstrings import as_markdown

    text = """Returns x_0 * 2 of `a_b`.

x : rows (n, d)
    and more
seed : of [all][draws]

>>> f(1)
2"""
    assert as_markdown(text).split("\n") == [
        r"Returns x\_0 \* 2 of `a_b`.",
        "",
        "",
        "- x : rows (n, d)",
        "and more",
        r"- seed : of \[all\]\[draws\]",
        "",
        "```python",
        ">>> f(1)",
        "2",
        "```",
    ]
