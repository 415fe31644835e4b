"""The command line `lensnb`: run, compare, train, check, report, draw, export, and others.

An InputError becomes one line on stderr and exit status 2. Paths belong to the folder in which the
command is given.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lensnb import io
from lensnb.apps.home import replace_unwritable_home
from lensnb.errors import STOPPED, InputError, told

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train, sample and honestly compare generators of gravitational-lens images.",
)
SET = typer.Option(
    "--set", "-s", metavar="KEY=VALUE", help="Change the recipe: train.steps=2000. Repeatable."
)


def _at_home(path: Path | None) -> Path | None:
    """A path with ~ for the home folder, which a shell leaves alone in quotes and after "="."""
    try:
        return path and path.expanduser()
    except RuntimeError:  # an unknown user after ~
        return path


def _written(*names: str, **told: Any) -> Any:
    """An option that names a file or folder to write or read."""
    return typer.Option(*names, callback=_at_home, **told)


def main(arguments: list[str] | None = None) -> None:
    """The command line.

    It exits with 0, with 2 after one sentence on stderr, with 130 after Ctrl-C, and with 1 if a
    job of a run failed and has said why.
    """
    app(args=arguments, prog_name="lensnb")


@app.callback()
def _start() -> None:
    # jsonschema, which nbformat imports, would compile a grammar of web addresses for 3 s.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    os.environ.setdefault("LENSNB_FROM", str(Path.cwd()))  # relative paths belong there
    outputs = os.environ.get("LENSNB_OUTPUTS")
    if outputs:  # the notebooks work in the project's folder
        os.environ["LENSNB_OUTPUTS"] = str(Path(outputs).expanduser().absolute())
    replace_unwritable_home()


def _told(command: Callable[[], object], stopped: str = STOPPED) -> None:
    """Run a command and leave with its exit status."""
    status = told(command, stopped)
    if status:
        raise typer.Exit(status)


# ---- run


@app.command()
def run(
    recipes: Annotated[
        list[str] | None, typer.Argument(metavar="[RECIPE]...", show_default="params/quick.yaml")
    ] = None,
    changes: Annotated[list[str] | None, SET] = None,
    step: Annotated[
        str | None, typer.Option(help="One part alone: 02_train, models/gan or report.")
    ] = None,
    seeds: Annotated[str, typer.Option(help='Training seeds, such as "0 1 2".')] = "",
    generators: Annotated[str, typer.Option(help='Only these, such as "gan".')] = "",
    samplers: Annotated[str, typer.Option(help='Only these methods, such as "ddim dpm".')] = "",
    smoke: Annotated[bool, typer.Option(help="A few steps and images: does it run?")] = False,
    cores: Annotated[int, typer.Option(help="Jobs at a time.", envvar="LENSNB_CORES")] = 2,
    profile: Annotated[
        str,
        typer.Option(help="A cluster's profile, such as profiles/slurm.", envvar="LENSNB_PROFILE"),
    ] = "",
    fresh: Annotated[
        bool, typer.Option(help="Take nothing from other runs.", envvar="LENSNB_FRESH")
    ] = False,
    spread: Annotated[
        bool,
        typer.Option(
            help="Each model and each method is a job of its own.", envvar="LENSNB_SPREAD"
        ),
    ] = True,
) -> None:
    """Make a run: data, training, images, evaluation, comparison, report.

    What is current is not made again. The last line names the report.
    """
    given = {
        "RECIPE": shlex.join(_recipe_of(name) for name in recipes or ()),
        "SET": _overrides(changes),
        "SEEDS": seeds,
        "GENERATORS": generators,
        "SAMPLERS": samplers,
        "SMOKE": "1" if smoke else "",
    }
    os.environ["LENSNB_FRESH"] = "1" if fresh else ""
    given = {f"LENSNB_{key}": value for key, value in given.items() if value}
    environment = dict(os.environ) | given
    environment.pop("LENSNB_CALL", None)  # of a call that this one runs in
    if given or not step:
        environment.pop("LENSNB_RUNS", None)
        os.environ["LENSNB_FROM"] = environment["LENSNB_FROM"] = str(Path.cwd())
    if step:
        of_engine = "LENSNB_CALL" in os.environ  # which has Ctrl-C, too, and tells of it
        _told(lambda: _make(environment, step), "" if of_engine else STOPPED)
    else:
        _told(lambda: _run(environment, cores, profile, spread))


def _recipe_of(name: str) -> str:
    """The recipe file that is meant: a path, a run's recipe, or a recipe by its bare name."""
    from lensnb.apps import project
    from lensnb.runs.run_folder import outputs_folder

    if Path(name).suffix in (".yaml", ".yml"):
        shipped = project.recipe(name)
        return name if io.locate(name).is_file() or shipped is None else str(shipped)
    there = outputs_folder() / name / "recipe.yaml"
    shipped = project.recipe(f"{name}.yaml")
    return str(there if there.is_file() else shipped or name)


def _make(environment: Mapping[str, str], part: str) -> None:
    """Make one part of each run that is meant."""
    from lensnb.apps import execute
    from lensnb.runs import jobs

    for params in jobs.recipes_meant(environment):
        page = execute.make(part, params)
        print(f"{part}: done, see {os.path.relpath(page)}")


def _run(environment: Mapping[str, str], cores: int, profile: str, spread: bool) -> None:
    """Make whole runs by the workflow engine."""
    from lensnb.runs import jobs
    from lensnb.runs.run_folder import Run

    _refuse_no_project()
    runs = [Run(params) for params in jobs.recipes_meant(environment)]
    resolved = [str(run.write_recipe()) for run in runs]
    if jobs.plan([run.params for run in runs], spread):
        own = {"LENSNB_RUNS": shlex.join(resolved), "LENSNB_SPREAD": "1" if spread else ""}
        _snakemake(dict(environment) | own, cores, profile)
    for run in runs:
        print(f"report: {os.path.relpath(run.folder('report') / 'index.html')}")


def _snakemake(environment: Mapping[str, str], cores: int, profile: str) -> None:
    profile = os.path.expanduser(profile)
    where = ["--profile", os.path.abspath(profile)] if profile else ["--cores", str(cores)]
    # The run folders say what is done, so the engine needs no memory of its own.
    quiet = ["--quiet", "all", "--nolock", "--rerun-incomplete", "--drop-metadata"]
    project = str(io.home())
    command = [sys.executable, "-m", "snakemake", *where, *quiet, "--directory", project]
    command += ["--snakefile", str(io.home() / "Snakefile")]
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    stopped = False
    with subprocess.Popen(command, env={**environment, "PATH": path}) as engine:
        while engine.returncode is None:
            try:
                engine.wait()
            except KeyboardInterrupt:  # the engine has it, too, and lets its jobs save first
                stopped = True
    if stopped:
        raise KeyboardInterrupt
    if engine.returncode:
        raise typer.Exit(engine.returncode)


def _refuse_no_project() -> None:
    """Refuse a folder without the notebooks."""
    if not (io.home() / "notebooks").is_dir() or not (io.home() / "Snakefile").is_file():
        raise InputError(
            f"{io.home()}: no notebooks here; lensnb init FOLDER lays out a project, "
            "and the command belongs into that folder"
        )


def _overrides(changes: list[str] | None) -> str:
    """All changes as one text that `load_recipe` takes apart again.

    A change is KEY=VALUE, or several of them with spaces in between. A value with spaces needs no
    quotes of its own, if the change stands alone.
    """
    return " ".join(map(_quoted, filter(None, changes or ())))


def _quoted(change: str) -> str:
    try:
        pieces = shlex.split(change)
    except ValueError:  # load_recipe says what is wrong
        return change
    return change if all("=" in piece for piece in pieces) else shlex.quote(change)


# ---- train, check, report, draw


@app.command()
def train(recipe: str, changes: Annotated[list[str] | None, SET] = None) -> None:
    """Make the data and train the generators of a recipe, without notebooks.

    On several GPUs: accelerate launch --num_processes 4 -m lensnb train RECIPE
    """
    from lensnb.apps import launch

    _told(lambda: launch.launch(_recipe_of(recipe), _overrides(changes)))


@app.command()
def check(recipe: str, changes: Annotated[list[str] | None, SET] = None) -> None:
    """Check a recipe: print it whole, what it will take, and what would be made anew."""
    from lensnb.apps import check as checks

    _told(lambda: checks.check(_recipe_of(recipe), _overrides(changes)))


@app.command()
def report(run: Annotated[str, typer.Argument(help="A run's name, or a recipe.")]) -> None:
    """Make the report of a finished run anew: outputs/<run>/report/index.html."""
    from lensnb import pipeline
    from lensnb.apps import execute

    def make() -> None:
        page = execute.make("report", pipeline.open_run(_recipe_of(run)).params)
        print(f"report: {os.path.relpath(page)}")

    _told(make)


@app.command()
def draw(
    name: Annotated[str, typer.Argument(help='"reference", a run, or a folder.')] = "reference",
    n: Annotated[int, typer.Option("-n", min=1, help="Images.")] = 16,
    output: Annotated[Path, _written("-o", help="The .npy file to write.")] = Path("out.npy"),
    method: Annotated[str | None, typer.Option(help="Such as ddim; else the cheapest.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Draw images from a trained generator into a .npy file (n, C, H, W)."""
    _told(lambda: _draw(name, n, output, method, seed))


def _draw(name: str, n: int, output: Path, method: str | None, seed: int) -> None:
    from lensnb import pretrained

    if output.suffix != ".npy":
        raise InputError(f"{output}: expected a name that ends in .npy")
    if not output.absolute().parent.is_dir():
        raise InputError(f"{output.absolute().parent}: no such folder; make it first")
    images = pretrained.load(name, method).draw(n, seed=seed)
    io.write_images(output, images.shape, [images])
    print(f"{output}: {' x '.join(map(str, images.shape))}, float32")


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="A run's name.")],
    to: Annotated[Path, _written(help="The folder to write; it must be new.")],
) -> None:
    """Write the trained models of a run to a folder that lensnb.load and lensnb draw read."""
    _told(lambda: _export(run, to))


def _export(run: str, to: Path) -> None:
    from lensnb import sharing

    folder = sharing.export(run, to)
    files = ", ".join(sorted(path.name for path in folder.iterdir()))
    print(f"{folder}: {files}")
    print(f'draw from it: lensnb draw {folder} -n 16, or lensnb.load("{folder}")')


# ---- compare


@app.command()
def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Names; the first is the base.")
    ],
    to: Annotated[Path | None, _written(help="A folder for tables and figures.")] = None,
    all_rows: Annotated[
        bool, typer.Option("--all", help="Measures without a difference, too.")
    ] = False,
) -> None:
    """Compare finished runs: recipes, and each measure with the error of the difference.

    Nothing is trained or drawn.
    """
    _told(lambda: _compare(runs, to, all_rows))


def _compare(runs: list[str], to: Path | None, all_rows: bool) -> None:
    from lensnb import pipeline

    found = pipeline.compare(runs)
    print(found.told(all_rows))
    if to:
        print(f"\n{to}: {', '.join(found.save(to))}")


# ---- judge


@app.command()
def judge(
    made: Annotated[
        list[str], typer.Argument(metavar="MADE...", help="Files or folders of generated images.")
    ],
    real: Annotated[str, typer.Option(help="Real images that no generator has seen.")],
    train: Annotated[
        str | None, typer.Option(help="The images that the generator learned from.")
    ] = None,
    pixel_scale: Annotated[float | None, typer.Option(help="Arcsec a pixel.")] = None,
    psf: Annotated[
        float | None, typer.Option(help="FWHM of the PSF [arcsec]: a lens model is fitted.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Images on each side, at most.")] = 2000,
    fit: Annotated[int, typer.Option(min=0, help="Images that a lens model is fitted to.")] = 32,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    to: Annotated[Path | None, typer.Option(help="A folder for the page and the tables.")] = None,
) -> None:
    """Judge images of any generator against real ones: table, verdict and one page."""
    from lensnb.apps import judging

    def make() -> None:
        options: dict[str, Any] = {
            "pixel_scale": pixel_scale,
            "psf": psf,
            "n": n,
            "fit": fit,
            "seed": seed,
        }
        print(judging.judge(made, real, train, device=device, to=to, **options))
        if to is not None:
            print(f"\nreport: {os.path.relpath(to / 'index.html')}")

    _told(make)


# ---- posterior


@app.command("posterior")
def posterior_draws(
    data: Annotated[Path, typer.Argument(help="A .npy file of one image, or of several.")],
    mask: Annotated[
        Path | None, typer.Option(help="A .npy file: 0 where a pixel is missing.")
    ] = None,
    noise: Annotated[
        str | None, typer.Option(help="Standard deviation: a number or a .npy map.")
    ] = None,
    exposure: Annotated[
        float | None, typer.Option(help="Counts a unit of brightness: adds photon noise.")
    ] = None,
    psf: Annotated[Path | None, typer.Option(help="A .npy file: the blur.")] = None,
    fwhm: Annotated[float | None, typer.Option(help="Width of a Gaussian blur [pixels].")] = None,
    factor: Annotated[
        int | None, typer.Option(help="The data's pixels are so much larger.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Draws.")] = 64,
    output: Annotated[Path, _written("-o", help="The .npy file to write.")] = Path("draws.npy"),
    model: Annotated[str, typer.Option(help='"reference", or the name of a run.')] = "reference",
    method: Annotated[str, typer.Option(help="mmps, pigdm, dps or smc.")] = "mmps",
    steps: Annotated[int, typer.Option(min=2, help="Noise levels.")] = 20,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Draw images that agree with incomplete, blurred or noisy data, with a model as the prior."""
    from lensnb.apps import observed

    instrument = observed.Instrument(mask, noise, exposure, psf, fwhm, factor)
    _told(lambda: observed.sample(data, instrument, model, n, output, method, steps, seed))


# ---- recipes and projects


@app.command()
def recipes() -> None:
    """List the recipes, one line each. A recipe may be named without its folder."""
    from lensnb.apps import project

    def show() -> None:
        for path in project.recipes():
            lines = path.read_text(encoding="utf-8").splitlines() or [""]
            print(f"{path.stem:18s} {lines[0].lstrip('# ')}")

    _told(show)


@app.command()
def init(folder: Annotated[Path, typer.Argument(callback=_at_home)]) -> None:
    """Lay out notebooks, recipes and the workflow in a new folder."""
    from lensnb.apps import project

    _told(lambda: project.lay_out(folder))
