"""What a notebook's parameters cell defined, in a real IPython namespace."""

import pytest
from IPython.core.interactiveshell import InteractiveShell
from papermill.translators import translate_parameters

import lensnb
from lensnb.errors import InputError

CELL = """# what may be changed
run: str = "x"  # a name
seed: int = 3
train: dict = {"steps": 5}
"""


@pytest.fixture
def shell(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setattr("torch.set_num_threads", lambda n: None)
    InteractiveShell.clear_instance()
    made = InteractiveShell.instance()
    made.history_manager.enabled = False
    yield made
    InteractiveShell.clear_instance()


def run(shell, *cells):
    """Run cells, then `lensnb.open_run(globals())` as a cell of its own; the run that it gives."""
    for cell in (*cells, "import lensnb; opened = lensnb.open_run(globals())"):
        done = shell.run_cell(cell, store_history=True)
        if done.error_in_exec:
            raise done.error_in_exec
    return shell.user_ns["opened"]


def test_the_cell_becomes_a_recipe(shell):
    params = run(shell, CELL).params
    assert (params.run, params.seed, params.train.steps) == ("x", 3, 5)


def test_start_up_files_and_pylab_are_left_alone(shell):
    """They put names such as `sample`, `seed` and `data` into the namespace without a cell."""
    from numpy import random

    shell.user_ns |= {"sample": random.sample, "seed": random.seed, "data": 5, "e": 2.7, "n": 3}
    params = run(shell, '# what may be changed\nrun: str = "x"').params
    assert params.run == "x" and params.seed == 0 and params.data.n == 5000


def test_later_cells_may_define_what_they_like(shell):
    first = run(shell, CELL)
    again = run(
        shell,
        "n = 5\nhistory = {}\nlonger = 'a word'",
        "seed = 9\nsample = 3 * [1]",
        "for seed in range(7):\n    pass",
        "# Parameters of my plot\nwidth = 3",
    )
    assert again.params == first.params


def test_what_papermill_injects_counts(shell):
    params = run(shell, CELL, '# Parameters\nseed = 7\nrun = "y"\n').params
    assert (params.run, params.seed, params.train.steps) == ("y", 7, 5)


def test_a_section_that_papermill_injects_keeps_its_other_keys(shell):
    """The docs name this form: of a dotted key papermill would make an attribute."""
    cell = translate_parameters("python3", "python", {"data": {"n": 40}}, "Parameters")
    params = run(shell, CELL, cell).params
    assert (params.data.n, params.data.size, params.run) == (40, 64, "x")
    with pytest.raises(InputError, match="unknown key data.nn; did you mean data.n"):
        run(shell, CELL, "# Parameters\ndata = {'nn': 40}\n")


@pytest.mark.parametrize(
    "cells", [['run: str = "x"\ntrian: dict = {"steps": 3}'], [CELL, "# Parameters\ntrian = {}\n"]]
)
def test_a_misspelt_key_is_refused(shell, cells):
    with pytest.raises(InputError, match=r"unknown key trian; did you mean train\?"):
        run(shell, *cells)


def test_a_wrong_value_is_refused(shell):
    with pytest.raises(InputError, match="the parameters cell: seed"):
        run(shell, 'run: str = "x"\nseed: int = -1')


@pytest.mark.parametrize("magic", ["%%time", "%%capture kept"])
def test_a_cell_magic_does_not_hide_the_cell(shell, magic):
    assert run(shell, f"{magic}\n{CELL}").params.seed == 3


def test_an_expression_has_its_present_value(shell):
    cell = '# what may be changed\nseed: int = 2 + 3\nrun: str = "x"'
    assert run(shell, cell).params.seed == 5


def test_without_a_history_annotations_and_values_count(shell):
    """As nbval executes cells."""
    shell.user_ns |= {"seed": 4, "sample": print}
    shell.user_ns_hidden["seed"] = shell.user_ns["seed"]  # of a start-up file
    for cell in ('# what may be changed\nrun: str = "x"', "# Parameters\ntrain = {'steps': 5}"):
        shell.run_cell(cell, store_history=False)
    shell.run_cell("import lensnb; opened = lensnb.open_run(globals())", store_history=False)
    params = shell.user_ns["opened"].params
    assert (params.run, params.seed, params.train.steps) == ("x", 0, 5)


def test_without_a_parameters_cell_nothing_is_opened(shell):
    with pytest.raises(InputError, match="no parameters cell was executed before"):
        run(shell, "seed = 3")


@pytest.mark.parametrize(
    "source, expected",
    [
        (None, "open_run: expected the name of a run"),
        (3, "found int; expected the name of a run"),
        ([1], "found list; expected the name of a run"),
        ("nosuchrun", "nosuchrun: no run of this name"),
        ("params/quik.yaml", "quik.yaml: no such recipe; did you mean .*quick.yaml"),
        ({"trian": {}}, "unknown key trian; did you mean train?"),
        (globals(), "for notebooks; in a script"),
    ],
    ids=["nothing", "number", "list", "name", "path", "key", "script"],
)
def test_anything_else_is_refused(source, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("LENSNB_OUTPUTS", str(tmp_path))
    with pytest.raises(InputError, match=expected):
        lensnb.open_run(source)


def test_a_run_a_recipe_and_keywords_open(tmp_path, monkeypatch):
    monkeypatch.setenv("LENSNB_OUTPUTS", str(tmp_path))
    monkeypatch.setattr("torch.set_num_threads", lambda n: None)
    made = lensnb.open_run(run="mine", seed=3)
    made.write_recipe()
    assert lensnb.open_run("mine").params == made.params
    assert lensnb.open_run("params/tiny.yaml").params.run == "tiny"
    with pytest.raises(InputError, match=r"mime: no run of this name .*did you mean mine\?"):
        lensnb.open_run("mime")
    with pytest.raises(InputError, match="and not two of them"):
        lensnb.open_run("mine", seed=3)
