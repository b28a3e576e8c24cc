"""The arrays of a tiny data set, and the archive that holds them."""

from pathlib import Path
from typing import Any

import numpy as np

ArrayDict = dict[str, Any]


def arrays(
    shape: tuple[int, ...] = (28, 28), train: int = 6, test: int = 4
) -> ArrayDict:
    rng = np.random.default_rng(0)

    def split(n: int) -> tuple[Any, Any]:
        pixels = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
        return pixels, np.arange(n, dtype=np.uint8) % 3

    x_train, y_train = split(train)
    x_test, y_test = split(test)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def write(path: Path, **changes: Any) -> ArrayDict:
    content = arrays() | changes
    np.savez(
        path, **{key: value for key, value in content.items() if value is not None}
    )
    return content
