"""The model card and the data card of an exported folder, as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from lensnb.display.citation import Citation
from lensnb.display.style import name
from lensnb.evaluation.measures import label

HEAD = """---
library_name: lensnb
tags: [gravitational-lensing, image-generation]
---
"""
LOADING = """## How to draw from it

```python
import lensnb
images = lensnb.load("path/of/this/folder").draw(16, seed=1)   # (16, C, H, W), in the data's units
```

The folder is all that is needed: no run and no images. On the same machine with the same number of
threads the images are those of the run, bit by bit. Loading executes nothing: weights are
safetensors, all else is text and one plain array.
"""
PROGRAM = """`denoiser.pt2` is the denoiser with its preconditioning, x0 = D(x, sigma, context). It
is a program for `torch.export.load`, which needs no lensnb. Its images are in model units
(`dataset.json`, `scaling`). {agreement}
"""


def of_model(citation: Citation, methods: Mapping[str, Mapping[str, Any]], agreement: str) -> str:
    """README.md: what the models are, how to draw from them, how good they are, how to cite.

    methods : name -> its model, sampler and steps; agreement : what the program was checked for
    """
    title = f"# {citation.params['run']}: generators of images, made with lensnb\n"
    program = PROGRAM.format(agreement=agreement) if agreement else ""
    parts = [
        HEAD + title,
        f"Trained on: {citation.source}. The data card is [DATA.md](DATA.md).\n",
        LOADING,
        program,
        _methods(methods),
        _numbers(citation.rows),
        "## What it is not for\n\nIt knows the images it was trained on, and no others. What the "
        "measures cannot tell from real images may still be wrong in a detail, such as the "
        "substructure of a lens. Do not take a drawn image for an observation.\n",
        f"## How to cite this result\n\n{citation._repr_markdown_()}",
    ]
    return "\n".join(part for part in parts if part)


def of_data(
    citation: Citation,
    data: Mapping[str, Any],
    notes: Mapping[str, Any],
    sizes: Mapping[str, int],
) -> str:
    """DATA.md: what the images are, how they were split and scaled.

    data : the recipe's section; notes : dataset.json; sizes : images in each part
    """
    channels, height, width = notes["shape"]
    told = {
        "source": citation.source,
        **sizes,
        "channels, height, width": f"{channels}, {height}, {width}",
        "pixel scale [arcsec]": notes["pixel_scale"],
        "classes": ", ".join(notes["classes"]),
        "told to the model": ", ".join(notes["columns"]),
        "seed": data["seed"] if data["seed"] is not None else citation.params["seed"],
        "scaling": ", ".join(f"{key} {value}" for key, value in notes["scaling"].items()),
        "standard deviation after scaling": notes["sigma_data"],
    }
    rows = "\n".join(
        f"| {key} | {value} |" for key, value in told.items() if value not in (None, "")
    )
    return (
        f"# Data card of {citation.params['run']}\n\n| | |\n|---|---|\n{rows}\n\n"
        "The images are not in this folder. It holds only what the model was told of the images it "
        "was trained on (`context.npy`). Whose they are and who may use them is not known to "
        "lensnb: write it here before you pass the folder on.\n"
    )


def _methods(methods: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        f"| `{key}` | {name(key)} | {method['model']} | {method['steps'] or 1} |"
        for key, method in methods.items()
    ]
    head = "## Methods\n\n| `method=` | | model | steps |\n|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def _numbers(rows: Sequence[Mapping[str, Any]]) -> str:
    """All measures of all methods, each with its error, its floor and n."""
    if not rows:
        return "## How good it is\n\nNot measured yet.\n"
    lines = [
        f"| {label(row['metric'])} | {name(row['method'])} | {row['value']:.3g} ± "
        f"{row['error']:.2g} | {row['floor']:.3g} ± {row['floor_error']:.2g} | {row['n']} |"
        for row in rows
    ]
    head = (
        "## How good it is\n\nThe floor is the same measure between two sets of real images. ± is "
        "one standard error.\n\n| measure | method | value | real-vs-real floor | images |\n"
        "|---|---|---|---|---|\n"
    )
    return head + "\n".join(lines) + "\n"
