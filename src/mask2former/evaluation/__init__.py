"""Measuring a model on a data set: the one loop, the gallery, the report and curves. The metrics are in ``metrics``."""
