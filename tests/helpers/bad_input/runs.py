"""Cases of weights, checkpoints and run folders.

They are damaged, of another recipe or version, on a full or closed disk, or odd and good.
"""

import json
import os

import safetensors.numpy
import torch
import yaml

from bad_input.make import Case, Payload, noise, payload

IT = "outputs/it"
WEIGHTS = f"{IT}/models/diffusion/model.safetensors"
CHECKPOINT = f"{IT}/models/.diffusion.partial/checkpoint.pt"


def nothing(folder):
    """Leave the folder as it is: the command itself is what is wrong."""


def resized(path, content):
    """Replace a file by these bytes, and let the artefact's list of files agree to it."""

    def make(folder):
        (folder / path).write_bytes(content)
        seal = (folder / path).with_name("artefact.json")
        tree = json.loads(seal.read_text())
        tree["files"][(folder / path).name]["bytes"] = len(content)
        seal.write_text(json.dumps(tree))

    return make


def written(path, content=""):
    """Replace a file by this text."""

    def make(folder):
        (folder / path).write_text(content)

    return make


def removed(path):
    """Delete a file."""

    def make(folder):
        (folder / path).unlink()

    return make


def closed(*paths):
    """Take the right to write into these folders."""

    def make(folder):
        for path in paths:
            (folder / path).chmod(0o555)

    return make


def half(path):
    """Cut a file after 4000 bytes."""

    def make(folder):
        resized(path, (folder / path).read_bytes()[:4000])(folder)

    return make


def of_another_width(folder):
    """Replace the weights by those of a network of another width."""
    weights = {
        key: noise(7, *value.shape[1:])
        for key, value in safetensors.numpy.load_file(folder / WEIGHTS).items()
        if value.ndim
    }
    resized(WEIGHTS, safetensors.numpy.save(weights))(folder)


def not_numbers(folder):
    """Replace all weights by NaN."""
    weights = safetensors.numpy.load_file(folder / WEIGHTS)
    spoilt = {key: value * float("nan") for key, value in weights.items()}
    resized(WEIGHTS, safetensors.numpy.save(spoilt))(folder)


def unfinished(checkpoint):
    """Leave the diffusion model as a training that broke off, with these bytes as its checkpoint.

    checkpoint : bytes, or an object that torch saves.
    """

    def make(folder):
        partial = folder / IT / "models/.diffusion.partial"
        os.rename(folder / IT / "models/diffusion", partial)
        for name in ("artefact.json", "model.safetensors", "history.csv", "timing.json"):
            (partial / name).unlink()
        if isinstance(checkpoint, bytes):
            (folder / CHECKPOINT).write_bytes(checkpoint)
        else:
            torch.save(checkpoint, folder / CHECKPOINT)

    return make


def newer(path):
    """Give a recipe or a note a format that is not known yet."""

    def make(folder):
        tree = yaml.safe_load((folder / path).read_text())
        (folder / path).write_text(json.dumps(tree | {"format": 2, "lensnb": "9.1"}))

    return make


def newer_training(folder):
    """Leave a training that broke off under a newer lensnb."""
    unfinished(b"")(folder)
    newer(f"{IT}/models/.diffusion.partial/recipe.yaml")(folder)


def closed_outputs(folder):
    """Make the outputs folder before the run, and close it."""
    (folder / "outputs").mkdir()
    closed("outputs")(folder)


def older(folder):
    """Give the data the format of an older lensnb."""
    tree = json.loads((folder / IT / "data/artefact.json").read_text()) | {"format": 0}
    (folder / IT / "data/artefact.json").write_text(json.dumps(tree))
    (folder / IT / "data/recipe.yaml").write_text("format: 0\n")


def spoilt_recipe(folder):
    """Replace the recipe of the data by as many braces."""
    path = folder / IT / "data/recipe.yaml"
    path.write_text("{" * len(path.read_text()))


def bad(make, *says, command="sample", **more):
    """A case that begins with a finished run."""
    return Case(make, says, command, finished=True, **more)


def redrawn(make, *says):
    """A case whose weights are read, because more samples are asked for than are there."""
    return bad(make, *says, overrides="sample.n=9", damaged=("models/diffusion",))


def bad_checkpoint(checkpoint):
    """A case of a training that goes on from a bad checkpoint."""
    says = ("checkpoint.pt", "not a checkpoint", "delete it")
    return bad(unfinished(checkpoint), *says, command="launch")


def bad_note(content):
    """A case whose data has a damaged note."""
    path = f"{IT}/data/artefact.json"
    says = ("data/artefact.json", "damaged", "delete it")
    return bad(written(path, content), *says, damaged=("data",))


def absent(make):
    """A case in which the diffusion model is no longer whole."""
    says = ("models/diffusion", "not there or not whole", "02_train")
    return bad(make, *says, damaged=("models/diffusion",))


def made_again(stage):
    """The check that a stage is there, whole and of the present format."""

    def holds(folder):
        from lensnb import io
        from lensnb.runs import artefact

        path = folder / IT / stage
        return artefact.is_whole(path) and artefact.recipe_of(path)["format"] == io.FORMAT

    return holds


ANOTHER = {
    "step": 1,
    "history": [],
    "recent": [],
    "watched": [],
    "seconds": 1.0,
    "parts": {"net": {"w": torch.zeros(3)}},
}
NEWER = ("made by a newer lensnb", "9.1", "update lensnb", "run=")
AGAIN = ("not the weights of this recipe", "02_train")

CASES = {
    # weights
    "weights of another recipe": redrawn(of_another_width, "model.safetensors", *AGAIN),
    "weights cut short": redrawn(half(WEIGHTS), "model.safetensors", *AGAIN),
    "weights of random bytes": redrawn(
        resized(WEIGHTS, noise(2000).tobytes()), "model.safetensors", *AGAIN
    ),
    "weights that are a pickle": redrawn(
        resized(WEIGHTS, payload() * 3), "model.safetensors", *AGAIN
    ),
    "weights that are no numbers": redrawn(
        not_numbers, "sample.methods.ddim", "9 of 9 images", "02_train"
    ),
    "weights missing": absent(removed(WEIGHTS)),
    "weights empty": absent(written(WEIGHTS)),
    # checkpoints
    "checkpoint empty": bad_checkpoint(b""),
    "checkpoint of random bytes": bad_checkpoint(noise(2000).tobytes()),
    "checkpoint that is a pickle": bad_checkpoint(payload()),
    "checkpoint with code": bad_checkpoint(ANOTHER | {"parts": Payload()}),
    "checkpoint of another recipe": bad_checkpoint(ANOTHER),
    # run folders
    "step not run": Case(
        nothing, ("models/diffusion", "not there or not whole", "02_train"), "sample"
    ),
    "note of an artefact damaged": bad_note("{"),
    "note of an artefact a list": bad_note("[]"),
    "note of an artefact without files": bad_note('{"files": 3}'),
    "run.json damaged": bad(
        written(f"{IT}/run.json", "\0"),
        "run.json",
        "damaged",
        "delete it",
        command="launch",
        overrides="gan.steps=3",
    ),
    "other parameters": bad(
        nothing,
        "models/diffusion",
        "other parameters",
        "02_train",
        overrides="train.steps=5",
    ),
    "file for a folder": bad(
        written(f"{IT}/evaluation", "a note"), "evaluation", "LENSNB_OUTPUTS", command="evaluate"
    ),
    # versions
    "data of a newer lensnb": bad(
        newer(f"{IT}/data/artefact.json"), "data", *NEWER, command="data"
    ),
    "weights of a newer lensnb": bad(
        newer(f"{IT}/models/diffusion/artefact.json"), "models/diffusion", *NEWER
    ),
    "training of a newer lensnb": bad(
        newer_training, ".diffusion.partial", *NEWER, command="launch"
    ),
    "run of a newer lensnb": bad(
        newer(f"{IT}/run.json"), "run.json", *NEWER, command="launch", overrides="gan.steps=3"
    ),
    # disks
    "outputs closed to us": Case(
        closed_outputs, ("outputs", "Permission denied", "LENSNB_OUTPUTS"), "launch"
    ),
    "stage closed to us": bad(
        closed(f"{IT}/models"),
        "models",
        "Permission denied",
        "LENSNB_OUTPUTS",
        command="launch",
        overrides="gan.steps=3",
    ),
    "disk full of images": Case(
        nothing, ("outputs/it/data", "File too large", "make room"), "launch", largest=20_000
    ),
    "disk full of weights": bad(
        nothing,
        "outputs/it/models",
        "make room",
        command="launch",
        overrides="train.steps=3",
        largest=40_000,
    ),
    "disk full of samples": bad(
        nothing, "outputs/it/samples", "make room", overrides="sample.n=16", largest=8_000
    ),
    # odd and good
    "data of an older lensnb": bad(
        older, command="data", damaged=("data",), holds=made_again("data")
    ),
    "half an artefact": bad(
        removed(f"{IT}/data/images.npy"),
        command="data",
        damaged=("data",),
        holds=made_again("data"),
    ),
    "recipe of an artefact damaged": bad(
        spoilt_recipe, command="data", damaged=("data",), holds=made_again("data")
    ),
    "finished run closed to us": bad(
        closed(f"{IT}/models/diffusion", f"{IT}/models", IT),
        command="launch",
        holds=made_again("models/diffusion"),
    ),
}
