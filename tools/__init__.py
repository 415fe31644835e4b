"""Maintenance: what is shipped, published and checked by hand."""
