"""Bulk prediction on the command line: ``mask2former predict --ray``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from mask2former.cli.shared import Task, working
from mask2former.cli.terminal import say
from mask2former.errors import FailedError
from mask2former.text import count

if TYPE_CHECKING:
    from rich.console import Console

    from mask2former.bulk import BulkReport
    from mask2former.bulk.run import Failed

__all__ = ["predict_in_bulk"]

_SHOWN = 20  # failures that are printed while the command runs; a file lists all of them


def predict_in_bulk(
    console: Console, model: str, sources: list[str], output: str, task: Task | None, **options: Any
) -> None:
    """Call the library, show progress, and print a summary.

    Raises:
        FailedError: some images have no result.
    """
    from mask2former.bulk import predict_bulk

    done = total = num_failed = 0

    def so_far() -> str:
        if not total:
            return "no image was segmented"
        return (
            f"{done:,} of {count_of(total)} are in finished shards in {output}; run the same command again to continue"
        )

    def observe(failed: Failed) -> None:
        nonlocal num_failed
        num_failed += 1
        if num_failed <= _SHOWN:
            say(f"failed: {failed.reason}", console=console, style="red")

    with working(console, so_far, resumes=True) as show:

        def tell(step: str, number: int, of: int | None) -> None:
            nonlocal done, total
            if step in get_args(Task):
                done, total = number, of or 0
            elif step == "starting Ray" and not console.is_terminal:  # where there is no bar
                say(step, error=True)
            show(step, number, of)

        report = predict_bulk(model, sources, output, task, progress=tell, observe=observe, **options)
    for note in report.notes:
        say(f"note: {note}", error=True)
    say(_summary(report, model, output))
    if report.num_failed:
        raise FailedError(
            f"{report.num_failed:,} of {count_of(report.num_images)} failed; '{report.failures}' lists "
            "them with their reasons (--retry-failed redoes their shards)"
        )


def count_of(number: int) -> str:
    """``2,000 images``."""
    return f"{number:,} image{'' if number == 1 else 's'}"


def _summary(report: BulkReport, model: str, output: str) -> str:
    line = f"{count_of(report.num_done)} segmented ({report.task}, {model}) into {output}"
    if report.num_actors:
        line += f" by {count(report.num_actors, 'actor')}; {report.num_found:,} records of objects and classes"
    if report.num_there:
        line += f"; {report.num_there:,} were in shards that had been finished before"
    return line
