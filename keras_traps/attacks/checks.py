"""Checks of hyper-parameters that attacks share."""

from keras_traps._validation import check_number


def check_positive(name: str, value: float) -> None:
    """Refuses a hyper-parameter that is not a finite number above 0.

    Args:
        name: Its name.
        value: Its value.

    Raises:
        ValueError: If it is out of range.
    """
    check_number(value, name=name, above=0)


def check_count(name: str, value: float, *, at_least: int = 1) -> None:
    """Refuses a hyper-parameter that is not an integer, or too small.

    Args:
        name: Its name.
        value: Its value.
        at_least: The least that it may be. Defaults to `1`.

    Raises:
        ValueError: If it is not such a number.
    """
    if isinstance(value, bool) or not float(value).is_integer():
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected an integer. "
            f"Received: {name}={value}"
        )
    if value < at_least:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected at least {at_least}. "
            f"Received: {name}={value}"
        )
