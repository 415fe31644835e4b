"""Minutes that each step of a recipe's chain takes on this machine, from nothing.

python benchmarks/chain.py [recipe]
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lensnb import io
from lensnb.recipes.recipe import load_recipe
from lensnb.runs.run_folder import Run

ROOT = Path(__file__).parents[1]


def main(recipe: str = "params/quick.yaml") -> None:
    """Run the chain into a temporary folder; print minutes by step and seconds by artefact."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["make", "-s", "run", f"RECIPE={recipe}"],
            cwd=ROOT,
            check=True,
            env=os.environ | {"LENSNB_OUTPUTS": folder},
        )
        told = io.read_json(Run(load_recipe(ROOT / recipe), folder).path / "run.json")
    machine = told["hardware"]
    torch_version = told["packages"]["torch"]
    print(f"{machine['cores']} cores, torch {torch_version}, {machine['platform']}")
    for step, entry in told["steps"].items():
        print(f"{step:24s}{entry['seconds'] / 60:8.2f} min")
    print(f"{'all':24s}{sum(e['seconds'] for e in told['steps'].values()) / 60:8.2f} min")
    for stage, entry in told["artefacts"].items():
        print(f"  {stage:22s}{entry['seconds']:8.1f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
