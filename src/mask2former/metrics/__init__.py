"""Quality of results against ground truth: one evaluator per task, chosen by name in :mod:`.build`."""
