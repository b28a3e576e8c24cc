"""How tests call attacks of either kind alike."""

from typing import Any

import numpy as np
import numpy.typing as npt

from keras_traps.attacks import AttackResult, create

Settings = dict[str, Any]

SINGLE: Settings = {"eps": 0.3}
RANDOMISED: Settings = {"eps": 0.3, "alpha": 0.1}
ITERATIVE: Settings = {"eps": 0.3, "eps_iter": 0.05, "nb_iter": 3}
SINGLE_STEP: dict[str, Settings] = {
    "FGSM": SINGLE,
    "LLC": SINGLE,
    "RFGSM": RANDOMISED,
    "RLLC": RANDOMISED,
}
SIGN_GRADIENT: dict[str, Settings] = {
    **SINGLE_STEP,
    "BIM": ITERATIVE,
    "ILLC": ITERATIVE,
    "PGD": ITERATIVE,
    "UMIFGSM": ITERATIVE,
    "TMIFGSM": ITERATIVE,
}


def run(
    name: str,
    model: Any,
    images: npt.ArrayLike,
    classes: npt.ArrayLike,
    settings: Settings,
    **arguments: Any,
) -> AttackResult:
    """Attacks: an untargeted attack leaves `classes`, a targeted one aims at them."""
    made = create(name, **settings)
    classes = np.asarray(classes)
    if not made.targeted:
        return made(model, images, classes, **arguments)
    wrong = (classes + 1) % int(model.output_shape[1])
    return made(model, images, wrong, y_target=classes, **arguments)


def attack(*arguments: Any, **more: Any) -> npt.NDArray[np.float32]:
    """Returns the images that `run` makes."""
    return run(*arguments, **more).images
