"""Tables come back from disk bit by bit, and a broken file is named."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from tables import tableaus

from refdiff import FlowMatching
from refdiff.samplers.ddim import ddim
from refdiff.samplers.storage import load, save
from refdiff.samplers.tableau import ARRAYS


@pytest.mark.parametrize("ending", ["json", "npz"])
@given(tableau=tableaus())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_number_comes_back(tmp_path, ending, tableau):
    path = tmp_path / f"table.{ending}"
    save(tableau, path)
    found = load(path)
    assert (found.name, found.prediction, found.coordinate) == (tableau.name, tableau.prediction, tableau.coordinate)
    for name in ARRAYS:
        assert np.array_equal(getattr(found, name), getattr(tableau, name))
        assert getattr(found, name).dtype == getattr(tableau, name).dtype
    for one, two in zip(found.coefficients, tableau.coefficients, strict=True):
        assert np.array_equal(one, two)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # no temporary file is left


@pytest.mark.parametrize("ending", ["json", "npz"])
def test_infinite_coefficients_come_back(tmp_path, ending):
    tableau = ddim(FlowMatching(), [1.0, 0.5, 0.0])  # lambda is infinite at both ends
    save(tableau, tmp_path / f"table.{ending}")
    found = load(tmp_path / f"table.{ending}")
    assert np.isinf(found.coefficients.log_snr[[0, -1]]).all()
    assert found.close(tableau, 0.0)


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in .json or .npz, got"):
        save(ddim(FlowMatching(), [1.0, 0.0]), tmp_path / "table.txt")


@pytest.mark.parametrize("text", ["[1, 2]", "{", json.dumps({"format": "refdiff tableau 1"}), '{"format": "other"}'])
def test_a_file_that_is_no_table_is_named(tmp_path, text):
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="path must name a saved tableau"):
        load(path)
