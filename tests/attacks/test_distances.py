import numpy as np

from keras_traps.attacks.distances import distances


def test_norms_are_those_of_the_change_of_each_image() -> None:
    clean = np.zeros((2, 2, 2, 1), np.float32)
    images = clean.copy()
    images[0, 0, :, 0] = 0.3, 0.4
    found = distances(clean, images)
    assert found.l0.tolist() == [2, 0]
    np.testing.assert_allclose(found.l2, [0.5, 0.0], rtol=1e-6)
    np.testing.assert_allclose(found.linf, [0.4, 0.0], rtol=1e-6)
    assert found.l2.dtype == found.linf.dtype == np.float32
    assert found.l0.dtype == np.int64
