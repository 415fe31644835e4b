"""Weights, checkpoints and run folders: damaged, of another recipe or version, on a full or closed disk, or odd and good."""

import json
import os

import safetensors.numpy
import torch
import yaml

from bad_input.make import Case, Payload, noise, payload

IT = "outputs/it"
WEIGHTS = f"{IT}/models/diffusion/model.safetensors"
CHECKPOINT = f"{IT}/models/.diffusion.partial/checkpoint.pt"


def resized(path, content):
    """A file of these bytes, with the artefact's list of files agreeing to it."""

    def make(folder):
        (folder / path).write_bytes(content)
        seal = (folder / path).with_name("artefact.json")
        tree = json.loads(seal.read_text())
        tree["files"][(folder / path).name]["bytes"] = len(content)
        seal.write_text(json.dumps(tree))

    return make


def written(path, content=""):
    return lambda folder: (folder / path).write_text(content)


def removed(path):
    return lambda folder: (folder / path).unlink()


def of_another_width(folder):
    weights = {
        key: noise(7, *value.shape[1:])
        for key, value in safetensors.numpy.load_file(folder / WEIGHTS).items()
        if value.ndim
    }
    resized(WEIGHTS, safetensors.numpy.save(weights))(folder)


def not_numbers(folder):
    weights = safetensors.numpy.load_file(folder / WEIGHTS)
    resized(
        WEIGHTS,
        safetensors.numpy.save({key: value * float("nan") for key, value in weights.items()}),
    )(folder)


def half(path):
    return lambda folder: resized(path, (folder / path).read_bytes()[:4000])(folder)


def unfinished(content):
    """The diffusion model as a training leaves it that broke off, with this checkpoint."""

    def make(folder):
        os.rename(folder / IT / "models/diffusion", folder / IT / "models/.diffusion.partial")
        for name in ("artefact.json", "model.safetensors", "history.csv", "timing.json"):
            (folder / IT / "models/.diffusion.partial" / name).unlink()
        path = folder / CHECKPOINT
        content(path) if callable(content) else path.write_bytes(content)

    return make


def newer(path):
    """A recipe or a note of a format that is not known yet."""

    def make(folder):
        tree = yaml.safe_load((folder / path).read_text())
        (folder / path).write_text(json.dumps(tree | {"format": 2, "lensnb": "9.1"}))

    return make


def older(folder):
    tree = json.loads((folder / IT / "data/artefact.json").read_text()) | {"format": 0}
    (folder / IT / "data/artefact.json").write_text(json.dumps(tree))
    (folder / IT / "data/recipe.yaml").write_text("format: 0\n")


def spoilt_recipe(folder):
    path = folder / IT / "data/recipe.yaml"
    path.write_text("{" * len(path.read_text()))


def redrawn(make, *says):
    """Weights that are read, for more samples than are there."""
    return bad(make, *says, overrides="sample.n=9", damaged=("models/diffusion",))


def bad(make, *says, command="sample", **more):
    return Case(make, says, command, finished=True, **more)


def closed(path):
    return lambda folder: (folder / path).chmod(0o555)


def made_again(stage):
    """Whether a stage is there, whole and of this format."""

    def holds(folder):
        from lensnb import io
        from lensnb.runs import artefact

        return (
            artefact.is_whole(folder / IT / stage)
            and artefact.recipe_of(folder / IT / stage)["format"] == io.FORMAT
        )

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
    "weights missing": bad(
        removed(WEIGHTS),
        "models/diffusion",
        "not there or not whole",
        "02_train",
        damaged=("models/diffusion",),
    ),
    "weights empty": bad(
        written(WEIGHTS),
        "models/diffusion",
        "not there or not whole",
        "02_train",
        damaged=("models/diffusion",),
    ),
    # checkpoints
    "checkpoint empty": bad(
        unfinished(b""), "checkpoint.pt", "not a checkpoint", "delete it", command="launch"
    ),
    "checkpoint of random bytes": bad(
        unfinished(noise(2000).tobytes()),
        "checkpoint.pt",
        "not a checkpoint",
        "delete it",
        command="launch",
    ),
    "checkpoint that is a pickle": bad(
        unfinished(payload()), "checkpoint.pt", "not a checkpoint", "delete it", command="launch"
    ),
    "checkpoint with code": bad(
        unfinished(lambda path: torch.save(ANOTHER | {"parts": Payload()}, path)),
        "checkpoint.pt",
        "not a checkpoint",
        "delete it",
        command="launch",
    ),
    "checkpoint of another recipe": bad(
        unfinished(lambda path: torch.save(ANOTHER, path)),
        "checkpoint.pt",
        "not a checkpoint",
        "delete it",
        command="launch",
    ),
    # run folders
    "step not run": Case(
        lambda f: None, ("models/diffusion", "not there or not whole", "02_train"), "sample"
    ),
    "note of an artefact damaged": bad(
        written(f"{IT}/data/artefact.json", "{"),
        "data/artefact.json",
        "damaged",
        "delete it",
        damaged=("data",),
    ),
    "note of an artefact a list": bad(
        written(f"{IT}/data/artefact.json", "[]"),
        "data/artefact.json",
        "damaged",
        "delete it",
        damaged=("data",),
    ),
    "note of an artefact without files": bad(
        written(f"{IT}/data/artefact.json", '{"files": 3}'),
        "data/artefact.json",
        "damaged",
        "delete it",
        damaged=("data",),
    ),
    "run.json damaged": bad(
        written(f"{IT}/run.json", "\0"),
        "run.json",
        "damaged",
        "delete it",
        command="launch",
        overrides="gan.steps=3",
    ),
    "other parameters": bad(
        lambda f: None,
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
        lambda f: (unfinished(b"")(f), newer(f"{IT}/models/.diffusion.partial/recipe.yaml")(f)),
        ".diffusion.partial",
        *NEWER,
        command="launch",
    ),
    "run of a newer lensnb": bad(
        newer(f"{IT}/run.json"), "run.json", *NEWER, command="launch", overrides="gan.steps=3"
    ),
    # disks
    "outputs closed to us": Case(
        lambda f: ((f / "outputs").mkdir(), closed("outputs")(f)),
        ("outputs", "Permission denied", "LENSNB_OUTPUTS"),
        "launch",
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
        lambda f: None, ("outputs/it/data", "File too large", "make room"), "launch", largest=20_000
    ),
    "disk full of weights": bad(
        lambda f: None,
        "outputs/it/models",
        "make room",
        command="launch",
        overrides="train.steps=3",
        largest=40_000,
    ),
    "disk full of samples": bad(
        lambda f: None, "outputs/it/samples", "make room", overrides="sample.n=16", largest=8_000
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
        lambda f: [closed(p)(f) for p in (f"{IT}/models/diffusion", f"{IT}/models", IT)],
        command="launch",
        holds=made_again("models/diffusion"),
    ),
}
