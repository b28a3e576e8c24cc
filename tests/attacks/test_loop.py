import pytest

from keras_traps.attacks.loop import once_per_model
from tests.attacks.calling import EVERY, attack, compiled_parts
from tests.attacks.victims import TWO_CLASSES, linear, some_images


def test_a_part_is_made_once_for_a_model_and_key() -> None:
    one, other = linear(TWO_CLASSES), linear(TWO_CLASSES)
    made = [
        once_per_model(model, key, lambda logits: [logits])
        for model, key in [(one, "a"), (one, "a"), (one, "b"), (other, "a")]
    ]
    assert made[0] is made[1]
    assert made[0] is not made[2]
    assert made[0] is not made[3]


@pytest.mark.parametrize("name", ["BIM", "CW2", "JSMA"])
def test_what_takes_a_gradient_stays_apart_from_its_loop(name: str) -> None:
    model = linear(TWO_CLASSES)
    attack(name, model, some_images(2), [0, 1], EVERY[name])
    (loop,) = compiled_parts(model).values()
    functions = loop.get_concrete_function().graph.as_graph_def().library.function
    assert any(function.attr["_noinline"].b for function in functions)
