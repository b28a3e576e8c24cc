"""A share of something, with what chance leaves open, and the rank that leaves one."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Rate:
    """A count of successes among trials."""

    count: int
    total: int

    @property
    def value(self) -> float | None:
        """The share in [0, 1], or `None` where nothing was tried."""
        return self.count / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % Wilson score interval, or `None` where nothing was tried."""
        if not self.total:
            return None
        z = 1.959963984540054
        n, p = self.total, self.count / self.total
        centre = p + z * z / (2 * n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        scale = 1 / (1 + z * z / n)
        return max(0.0, (centre - half) * scale), min(1.0, (centre + half) * scale)


def threshold_rank(count: int, fpr: float) -> int:
    """Returns at which rank, from 1, of as many clean scores a threshold lies.

    A new clean score exceeds that one with probability `fpr` at most. A `ValueError`
    says how many images it takes, where these are too few.
    """
    needed = math.ceil(1 / fpr - 1e-9) - 1
    if count < needed:
        raise ValueError(
            f"Invalid value for argument `images`. Expected at least {needed} "
            f"clean images for a false-positive rate of {fpr:g}. "
            f"Received: {count} images."
        )
    return math.ceil((count + 1) * (1 - fpr) - 1e-9)
