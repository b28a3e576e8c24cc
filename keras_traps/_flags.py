"""The flags of recipes and benchmarks, in fewer words than absl's own."""

from collections.abc import Sequence
from typing import Any, get_args

from absl import app, flags

# So that --help shows them as flags of the script that has them defined here.
flags.disclaim_key_flags()


class Flags:
    """Defines flags in one place, by kind.

    Every method takes the flag's name, its default and what it is about; options are
    those of a `Literal`.

    Args:
        values: Where to define them: `absl.flags.FLAGS`, or others in a test.
    """

    def __init__(self, values: flags.FlagValues) -> None:
        self.values = values

    def text(self, name: str, default: str | None, about: str) -> None:
        """Defines a string."""
        flags.DEFINE_string(name, default, about, flag_values=self.values)

    def texts(self, name: str, default: Sequence[str] | None, about: str) -> None:
        """Defines strings with commas between them."""
        given = None if default is None else list(default)
        flags.DEFINE_list(name, given, about, flag_values=self.values)

    def integer(
        self, name: str, default: int | None, about: str, *, low: int = 1
    ) -> None:
        """Defines an integer of at least `low`."""
        flags.DEFINE_integer(
            name, default, about, lower_bound=low, flag_values=self.values
        )

    def number(self, name: str, default: float | None, about: str) -> None:
        """Defines a float."""
        flags.DEFINE_float(name, default, about, flag_values=self.values)

    def numbers(self, name: str, default: Sequence[float], about: str) -> None:
        """Defines floats: a flag that is given once for each."""
        flags.DEFINE_multi_float(name, list(default), about, flag_values=self.values)

    def choice(self, name: str, default: str | None, options: Any, about: str) -> None:
        """Defines one of the options."""
        flags.DEFINE_enum(
            name, default, list(get_args(options)), about, flag_values=self.values
        )

    def choices(
        self, name: str, default: Sequence[str], options: Any, about: str
    ) -> None:
        """Defines several of the options: a flag that is given once for each."""
        flags.DEFINE_multi_enum(
            name,
            list(default),
            list(get_args(options)),
            about,
            flag_values=self.values,
        )

    def switch(self, name: str, default: bool, about: str) -> None:
        """Defines a flag that is on or off."""
        flags.DEFINE_bool(name, default, about, flag_values=self.values)


def check_flags_only(argv: Sequence[str]) -> None:
    """Refuses words on the command line that are no flags.

    Args:
        argv: What is left of the command line, the script first.

    Raises:
        app.UsageError: If anything but the script is left.
    """
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {' '.join(argv[1:])}")
