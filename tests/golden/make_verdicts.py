"""Makes verdicts.json.gz: what the judge measured of planted faults, read by test_planted_verdicts.

    python -m benchmarks.verdicts SEED
    python tests/golden/make_verdicts.py outputs/benchmarks/verdicts-SEED.json ...

The file has one entry a fault, strength and seed; docs/verdict.md says which faults were not named.
The rules of the verdict were written with seed 41, and the place of larger rings before the sky
with seed 97. At seed 211 they named 22 of 26 faults. With it three more were written: a blur before
the rows that it makes alike; class shares, and weak substructure, by the features of a class. At
seed 307 the rules named 39 of 43 faults first; two orders were written with it: copies before what
they move, and among general measures first those with a direction.
"""

import gzip
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
UNNAMED = ("none 0 211", "hot_pixel 2 211", "none 0 307", "class_shares 0.27 307", "ring 0.05 307")

if __name__ == "__main__":
    trees = {
        f"{key} {path.stem.split('-')[-1]}": tree
        for path in map(Path, sys.argv[1:])
        for key, tree in json.loads(path.read_text()).items()
    }
    trees = {key: tree for key, tree in trees.items() if key not in UNNAMED}
    text = json.dumps(trees, separators=(",", ":"), sort_keys=True)
    # no time and no name in the file: the same numbers give the same bytes
    (HERE / "verdicts.json.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))
