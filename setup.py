"""Maps the top-level folder `ops/` to the package `keras_traps.ops`.

All other metadata is in `pyproject.toml`.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["keras_traps", "keras_traps.*"]),
        "keras_traps.ops",
    ],
    package_dir={"keras_traps": "keras_traps", "keras_traps.ops": "ops"},
    package_data={
        "keras_traps": ["py.typed", "**/*.json", "**/*.j2"],
    },
)
