"""The judge: what is measured on images, against which floor, and how methods compare."""
