"""Images from any source, as one array with labels, truth, a split and a scaling.

The modules imported here register the readers of image files; see readers.py.
"""

from lensnb.datasets import archives, arrays, fits, hdf5, pictures, tiffs

__all__ = ["archives", "arrays", "fits", "hdf5", "pictures", "tiffs"]
