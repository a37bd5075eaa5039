"""What Gaussian bridges cost: parts, conserved energy, limits of little noise, refusals."""

import numpy as np
import pytest
from schroedinger_references import LANGEVIN, REFERENCES

from refdiff import Gaussian
from refdiff.distributions import wasserstein
from refdiff.processes import LinearProcess
from refdiff.schroedinger import GaussianBridge, action, energies, little_noise

P, Q = Gaussian([0.3, -0.4], [[1.2, 0.4], [0.4, 0.6]]), Gaussian([1.0, 0.8], [[0.5, -0.2], [-0.2, 0.9]])
ONE, TWO = Gaussian([0.0], 1.0), Gaussian([2.0], 0.25)


@pytest.mark.parametrize("name", REFERENCES)
def test_four_parts_add_up_to_the_divergence(name):
    bridge = GaussianBridge(P, Q, REFERENCES[name])
    parts = action(bridge)
    assert parts.value == pytest.approx(bridge.cost, rel=1e-11)
    assert min(parts.kinetic, parts.fisher) > 0


def test_energy_is_conserved_along_brownian_bridges():
    bridge = GaussianBridge(P, Q, 0.7, 2.0)
    found = [energies(bridge, t) for t in (0.0, 0.3, 1.0, 1.9, 2.0)]
    levels = [one.kinetic - one.fisher for one in found]
    np.testing.assert_allclose(levels, levels[0], rtol=1e-13)
    assert np.ptp([one.fisher for one in found]) > 0.01


def test_little_noise_leaves_the_distance_and_the_entropies():
    found = little_noise(ONE, TWO)
    # W_2^2 = 4 + 1/4, entropies log 2 apart, s_0 s_1 = 1/2
    np.testing.assert_allclose(found, [4.25, np.log(2), 0.5, -8 / 192], rtol=1e-14)
    for e in (1.0, 1e-1, 1e-2, 1e-3, 1e-4):
        twice = 2 * e * GaussianBridge(ONE, TWO, e).cost
        # what is left is 0.0124 e^6 for small e, and rounding of the cost
        assert abs(twice - found.at(e)) <= 0.0125 * e**6 + 1e-14 * twice
    assert found.at(0.0) == found.limit


@pytest.mark.parametrize("T", [1.0, 2.5])
def test_a_longer_way_is_more_noise(T):
    found = little_noise(P, Q, 1.0, T)
    assert T * found.limit == pytest.approx(wasserstein(P, Q) ** 2, rel=1e-13)
    e = 0.02
    assert 2 * e * GaussianBridge(P, Q, e, T).cost == pytest.approx(found.at(e), rel=1e-9)


def test_general_references_tend_to_the_transport_they_steer():
    found = little_noise(P, Q, LANGEVIN)
    left = []
    for e in (0.02, 0.01):
        process = LinearProcess(LANGEVIN.drift(0.0), np.sqrt(e) * LANGEVIN.noise(0.0), force=[0.1, -0.4])
        left.append(2 * e * GaussianBridge(P, Q, process).cost - found.at(e))
    # the sixth power: 64, up to the eighth
    assert left[0] / left[1] == pytest.approx(64, rel=0.01)


def test_bad_arguments_are_refused():
    point = Gaussian([0.0, 0.0], 0.0)
    with pytest.raises(TypeError, match="GaussianBridge"):
        action(P)
    with pytest.raises(ValueError, match="singular"):
        action(GaussianBridge(point, Q, 0.5))
    with pytest.raises(ValueError, match="density"):
        energies(GaussianBridge(point, Q, 0.5), 0.0)
    with pytest.raises(ValueError, match="t must"):
        energies(GaussianBridge(P, Q, 0.5), 1.1)
    with pytest.raises(ValueError, match="singular"):
        little_noise(P, point)
    with pytest.raises(ValueError, match="epsilon"):
        little_noise(P, Q).at(-1.0)
