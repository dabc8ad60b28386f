"""Several processes, one loss."""

from __future__ import annotations

from pathlib import Path

import ranks
import torch
import torch.multiprocessing as mp


def test_one_rank_without_targets(tmp_path: Path) -> None:
    """Both ranks take part in every reduction, and the result is the mean of what each would compute alone."""
    mp.start_processes(ranks.run, (str(tmp_path),), nprocs=2, start_method="fork")  # what is imported stays so
    together = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    alone = []
    for counts in ranks.COUNTS:
        torch.manual_seed(0)
        model = ranks.Tiny()
        ranks.gradients(counts, 1.5, model)
        alone.append([parameter.grad for parameter in model.parameters()])
    for first, second, left, right in zip(*together, *alone, strict=True):
        assert left is not None
        assert right is not None
        torch.testing.assert_close(first, second)
        torch.testing.assert_close(first, (left + right) / 2)
