"""Makes verdicts.json.gz: what the judge measured of planted faults, read by test_planted_verdicts.

    python -m benchmarks.verdicts 97
    python tests/golden/make_verdicts.py outputs/benchmarks/verdicts-97.json

The seed is one that no rule of the verdict was written with.
"""

import gzip
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent

if __name__ == "__main__":
    trees = json.loads(Path(sys.argv[1]).read_text())
    text = json.dumps(trees, separators=(",", ":"), sort_keys=True)
    # no time and no name in the file: the same numbers give the same bytes
    (HERE / "verdicts.json.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))
