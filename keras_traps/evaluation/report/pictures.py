"""Shows attacked images: strips of pixels, and what became of each."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from keras_traps.evaluation.report.blocks import ExampleView
from keras_traps.evaluation.report.formatting import number
from keras_traps.evaluation.results import Evaluation, Example

_SHOWN_SIDE = 112
"""Pixels to which the longer side of an image is enlarged, at most."""

_GAP = 8


def example_views(evaluation: Evaluation) -> tuple[ExampleView, ...]:
    """Prepares the examples of an evaluation for showing.

    Args:
        evaluation: Its `samples.examples` may be empty.

    Returns:
        One view per example, in their order.
    """
    return tuple(
        _view(example, f"example-{index:02d}", evaluation.class_names)
        for index, example in enumerate(evaluation.samples.examples, start=1)
    )


def strip_png(example: Example) -> bytes:
    """Draws clean image, adversarial image and perturbation side by side.

    The perturbation is stretched so that its largest change spans the range from
    mid-grey to black or white; pixels are enlarged without smoothing.

    Args:
        example: Images `(height, width, 1)` or `(height, width, 3)` in [0, 1].

    Returns:
        A PNG with transparent gaps.
    """
    perturbation = example.adversarial - example.clean
    largest = float(np.abs(perturbation).max()) or 1.0
    panels = [example.clean, example.adversarial, 0.5 + perturbation / (2 * largest)]
    pixels = [_to_rgba(panel) for panel in panels]
    height = pixels[0].shape[0]
    gap = np.zeros((height, _GAP, 4), np.uint8)
    strip = np.concatenate([pixels[0], gap, pixels[1], gap, pixels[2]], axis=1)
    buffer = io.BytesIO()
    Image.fromarray(strip).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _to_rgba(image: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    grey = np.rint(255 * np.clip(np.nan_to_num(image), 0, 1)).astype(np.uint8)
    colour = np.broadcast_to(grey, (*grey.shape[:2], 3))
    opaque = np.full((*grey.shape[:2], 1), 255, np.uint8)
    factor = max(1, _SHOWN_SIDE // max(grey.shape[:2]))
    rgba = np.concatenate([colour, opaque], axis=2)
    return np.ascontiguousarray(rgba.repeat(factor, axis=0).repeat(factor, axis=1))


def _view(example: Example, name: str, class_names: tuple[str, ...]) -> ExampleView:
    true, said, recovered = (
        class_names[index] if 0 <= index < len(class_names) else str(index)
        for index in (example.label, example.predicted, example.recovered)
    )
    fooled = example.predicted != example.label
    right = example.recovered == example.label
    change = float(np.abs(example.adversarial - example.clean).max())
    distance = float(np.linalg.norm(example.adversarial - example.clean))
    verdict = f"not flagged, score {number(round(example.score, 3))}"
    recovery = "not asked, as nothing was flagged"
    if example.flagged:
        fired = f" by {', '.join(example.fired)}" if example.fired else ""
        verdict = f"flagged{fired}, score {number(round(example.score, 3))}"
        recovery = f"{recovered}, {'the true class' if right else 'a wrong class'}"
    title = (
        f"{example.attack}: {true} {'read as' if fooled else 'still read as'} {said}"
    )
    outcome = _outcome(fooled, example.flagged, right)
    return ExampleView(
        name,
        title,
        outcome,
        "bad" if fooled and not (example.flagged and right) else "good",
        f"Clean image of {true}, the same after {example.attack}, and the "
        f"perturbation. {outcome}.",
        strip_png(example),
        (
            ("Analyzer", verdict),
            ("Recovered", recovery),
            ("Change", f"at most {change:.2f} per pixel, L2 {distance:.2f}"),
        ),
    )


def _outcome(fooled: bool, flagged: bool, right: bool) -> str:
    if not fooled:
        return "Flagged, though not fooled" if flagged else "Not fooled"
    if not flagged:
        return "Missed"
    return "Caught and recovered" if right else "Caught, wrong class recovered"
