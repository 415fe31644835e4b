"""A home folder that cannot be written, as on clusters and in containers."""

import atexit
import os
import shutil
import tempfile

# Where Jupyter, IPython, matplotlib and snakemake keep their own files.
PLACES = (
    "JUPYTER_CONFIG_DIR",
    "JUPYTER_DATA_DIR",
    "JUPYTER_RUNTIME_DIR",
    "IPYTHONDIR",
    "MPLCONFIGDIR",
    "XDG_CACHE_HOME",
)


def replace_unwritable_home() -> None:
    """Give the programs that notebooks need a temporary folder, where the home is closed to them.

    It goes with this process; the processes that it starts inherit it.
    """
    if os.access(os.path.expanduser("~"), os.W_OK) or all(name in os.environ for name in PLACES):
        return
    folder = tempfile.mkdtemp(prefix="lensnb-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in PLACES:
        os.environ.setdefault(name, os.path.join(folder, name.lower()))
