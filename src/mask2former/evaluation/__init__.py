"""Measuring a model on a data set: the loop, the gallery, the report and curves. The metrics are in ``metrics``."""
