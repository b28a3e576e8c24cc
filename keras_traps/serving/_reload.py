"""Asks a SavedModel where this package cannot be imported.

A script for a fresh process: python -P _reload.py SAVED_MODEL FOLDER_OF_SIGNATURE.npy
"""

import importlib
import sys
from pathlib import Path
from typing import Any

# An import of either is an error from here on: TensorFlow alone has to do.
hidden: Any = None
sys.modules["keras_traps"] = sys.modules["keras"] = hidden

np: Any = importlib.import_module("numpy")
tf: Any = importlib.import_module("tensorflow")


def main(directory: Path, folder: Path) -> None:
    """Writes what each signature answers to a batch, to each row alone, and to none."""
    loaded = tf.saved_model.load(str(directory))
    for path in folder.glob("*.npy"):
        serve = loaded.signatures[path.stem]
        images = np.load(path)
        rows = [_ask(serve, images[i : i + 1]) for i in range(len(images))]
        for kind, answer in {
            "batch": _ask(serve, images),
            "rows": {n: np.concatenate([row[n] for row in rows]) for n in rows[0]},
            # No image is what the kernels of some machines fail on.
            "none": _ask(serve, images[:0]),
        }.items():
            np.savez(path.with_suffix(f".{kind}.npz"), allow_pickle=False, **answer)


def _ask(serve: Any, images: Any) -> dict[str, Any]:
    (key,) = serve.structured_input_signature[1]
    answer = {name: value.numpy() for name, value in serve(**{key: images}).items()}
    # Strings are objects, which a file holds as bytes of one length.
    return {
        name: value.astype("S") if value.dtype == object else value
        for name, value in answer.items()
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
