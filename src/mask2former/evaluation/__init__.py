"""Measuring a model on a data set: evaluation loop, gallery, report and curves. Metrics are in ``metrics``."""
