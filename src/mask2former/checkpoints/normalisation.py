"""How files of other code bases specify the normalisation of images, converted to the settings of our models.

Must not know where a code base specifies it.
"""

from __future__ import annotations

from dataclasses import dataclass

from mask2former.config import ArchitectureConfig, ModelConfig, parse
from mask2former.errors import UserError
from mask2former.text import quoted

__all__ = ["IMAGENET", "Normalisation"]

_CLOSE = 0.03  # of 255: values this close to ImageNet's constants are those constants, rounded
_DIGITS = 6  # decimal places that are kept of a product


@dataclass(frozen=True)
class Normalisation:
    """For R, G and B, or other channels, in 0..255: the mean is subtracted, the result divided by the deviation."""

    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]

    def __str__(self) -> str:
        return f"mean {list(self.pixel_mean)} and deviation {list(self.pixel_std)}"

    @classmethod
    def of(cls, config: ArchitectureConfig) -> Normalisation:
        """The normalisation of a model."""
        return cls(config.pixel_mean, config.pixel_std)

    @classmethod
    def read(cls, mean: object, std: object, where: str, *, factor: float = 1.0) -> Normalisation:
        """The normalisation given in a file.

        Args:
            mean: for R, G, B.
            std: deviations for R, G, B.
            where: the file, or the part of it, for messages.
            factor: values of 0..255 are multiplied by it first.

        Raises:
            UserError: these are not three plausible numbers each, or they are in the order B, G, R.
        """
        said = f"{where}: images are normalised with mean {quoted(mean, 60)} and deviation {quoted(std, 60)}"
        if abs(factor - 1) > 1e-9:
            said += f", after multiplying them by {factor:.6g}"
        values = {}
        for name, numbers in (("pixel_mean", mean), ("pixel_std", std)):
            if (
                not isinstance(numbers, list | tuple)
                or len(numbers) != 3
                or any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers)
                or any(not abs(number) < 1e9 for number in numbers)
            ):
                raise UserError(f"{said}; expected three numbers each, for R, G and B")
            values[name] = tuple(round(number / factor, _DIGITS) for number in numbers)
        try:
            config = parse(ModelConfig, values, where)
        except UserError as error:
            raise UserError(
                f"{said}; expected means of 0 to 255 and deviations of 1 to 1000 of values in 0..255, R, G, B"
            ) from error
        found = cls.of(config)
        if _are_close(found.pixel_mean, IMAGENET.pixel_mean[::-1]):
            raise UserError(
                f"{said}, which is ImageNet's mean in the order B, G, R; our models expect R, G, B, and one that was "
                "trained on B, G, R cannot be used here"
            )
        same = _are_close(found.pixel_mean, IMAGENET.pixel_mean) and _are_close(found.pixel_std, IMAGENET.pixel_std)
        return IMAGENET if same else found

    @property
    def settings(self) -> dict[str, tuple[float, ...]]:
        """As fields of :class:`~mask2former.config.ArchitectureConfig`."""
        return {"pixel_mean": self.pixel_mean, "pixel_std": self.pixel_std}

    def scaled(self, factor: float) -> tuple[list[float], list[float]]:
        """Mean and deviation of values that are multiplied by ``factor``."""
        mean, std = ([round(value * factor, 9) for value in values] for values in (self.pixel_mean, self.pixel_std))
        return mean, std


IMAGENET = Normalisation.of(ArchitectureConfig())


def _are_close(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(abs(a - b) < _CLOSE for a, b in zip(one, other, strict=True))
