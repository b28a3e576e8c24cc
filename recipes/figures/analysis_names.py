"""What makes a point an attractor, measured: Sections IV-B and VI-C of the paper."""

from keras_traps.attractors.analysis.basins import (
    BasinCheck,
    basin_share,
    is_attractor,
)
from keras_traps.attractors.analysis.cosines import (
    AttractorCosines,
    DensityCosines,
    density_cosines,
    loss_cosines,
)
from keras_traps.attractors.analysis.local_density import DensityEstimate, LocalDensity
from keras_traps.attractors.analysis.magnitudes import gradient_norms, output_norms
from keras_traps.attractors.analysis.nearest import (
    DEFAULT_SEARCH,
    AttractorSearch,
    NearestAttractors,
    nearest_attractors,
)
from keras_traps.attractors.analysis.scores import (
    both_answers,
    scores_of,
    soft_label_loss,
)

__all__ = [
    "DEFAULT_SEARCH",
    "AttractorCosines",
    "AttractorSearch",
    "BasinCheck",
    "DensityCosines",
    "DensityEstimate",
    "LocalDensity",
    "NearestAttractors",
    "basin_share",
    "both_answers",
    "density_cosines",
    "gradient_norms",
    "is_attractor",
    "loss_cosines",
    "nearest_attractors",
    "output_norms",
    "scores_of",
    "soft_label_loss",
]
