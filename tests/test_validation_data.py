"""Data of one's own: every accepted form gives the same law, and every bad file is refused in words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff.distributions import Empirical, GaussianMixture
from refdiff.validation.data import load

POINTS = np.array([[0.0, 1.0], [2.0, -1.0], [0.5, 0.25]])
WEIGHTS = np.array([1.0, 2.0, 5.0])


def save(folder, name, content):
    """A file with this content: text, raw bytes, one array, a dict of arrays, or what a function leaves there."""
    path = folder / name
    if callable(content):
        content(path)
    elif isinstance(content, str):
        path.write_text(content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    else:
        np.save(path, content)
    return path


FORMS = {
    "array": ("a.npy", POINTS),
    "column-major array": ("a.npy", np.asfortranarray(POINTS)),
    "archive": ("a.npz", {"points": POINTS}),
    "text": ("a.csv", "0,1\n2,-1\n0.5,0.25\n"),
    "text with a header": ("a.csv", "first,second\n0,1\n2,-1\n0.5,0.25"),
    "text with blank lines, spaces, a byte-order mark": ("a.csv", "\ufefffirst, second\n\n0, 1\n2, -1\n\n.5, 0.25\n\n"),
    "semicolons": ("a.csv", "0;1\n2;-1\n0.5;0.25\n"),
    "tabs and another line end": ("A.CSV", "0\t1\r\n2\t-1\r\n0.5\t0.25\r\n"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_points_is_the_same_law(tmp_path, form):
    law = load(save(tmp_path, *FORMS[form])).law()
    assert isinstance(law, Empirical)
    np.testing.assert_array_equal(law.means, POINTS)
    np.testing.assert_allclose(law.weights, 1 / 3, rtol=1e-15)


WEIGHTED = {
    "archive": ("a.npz", {"points": POINTS, "weights": WEIGHTS}),
    "column named weight": ("a.csv", "x,weight,y\n0,1,1\n2,2,-1\n0.5,5,0.25\n"),
    "column named Weights": ("a.csv", "x,y,Weights\n0,1,1\n2,-1,2\n0.5,0.25,5\n"),
}


@pytest.mark.parametrize("form", WEIGHTED)
def test_weights_in_the_file_become_those_of_the_law(tmp_path, form):
    data = load(save(tmp_path, *WEIGHTED[form]))
    np.testing.assert_array_equal(data.law().means, POINTS)
    np.testing.assert_allclose(data.law().weights, WEIGHTS / 8, rtol=1e-15)
    assert "weighted" in data.describe()


@pytest.mark.parametrize("name", ["w.npy", "w.csv"])
def test_weights_of_another_file_replace_those_of_the_first(tmp_path, name):
    path = save(tmp_path, "a.npz", {"points": POINTS, "weights": np.ones(3)})
    other = save(tmp_path, name, WEIGHTS if name == "w.npy" else "weight\n1\n2\n5\n")
    np.testing.assert_allclose(load(path, other).law().weights, WEIGHTS / 8, rtol=1e-15)


def test_one_number_a_point_is_a_law_on_the_line(tmp_path):
    assert load(save(tmp_path, "a.npy", np.arange(5))).law().dim == 1
    assert load(save(tmp_path, "a.csv", "1\n2\n3\n")).law().dim == 1


def test_bandwidth_of_the_caller_comes_before_that_of_the_file(tmp_path):
    path = save(tmp_path, "a.npz", {"points": POINTS, "bandwidth": 0.5})
    smoothed, sharp = load(path).law(), load(path, bandwidth=0.0).law()
    assert isinstance(smoothed, GaussianMixture)
    np.testing.assert_allclose(smoothed.cov() - sharp.cov(), 0.25 * np.eye(2), atol=1e-14)


def test_arrays_of_other_names_are_said_to_be_unused(tmp_path):
    data = load(save(tmp_path, "a.npz", {"points": POINTS, "labels": np.arange(3)}))
    assert "not used: labels" in data.describe()


@given(dtype=st.sampled_from(["float16", "float32", "float64", "uint8", "int64", "bool"]), seed=st.integers(0, 99))
def test_numbers_of_any_real_type_are_read_as_they_are(tmp_path_factory, dtype, seed):
    array = np.random.default_rng(seed).integers(0, 2, (4, 3)).astype(dtype)
    path = save(tmp_path_factory.mktemp("types"), "a.npy", array)
    np.testing.assert_array_equal(load(path).law().means, array.astype(float))


def cut_short(path):
    """A .npy file that ends before its array does."""
    np.save(path, np.zeros((100, 3)))
    path.write_bytes(path.read_bytes()[:500])


def under_another_name(writer, *args, **kwargs):
    """What this writer of NumPy's writes, under a name that it would not choose."""

    def leave(path):
        with path.open("wb") as file:
            writer(file, *args, **kwargs)

    return leave


NAN = np.where(np.arange(8).reshape(4, 2) == 3, np.nan, 1.0)
BAD = {
    "no file": ("gone.npy", lambda path: None, "not there"),
    "a folder": ("folder.npy", lambda path: path.mkdir(), "is a folder"),
    "another ending": ("a.txt", "1,2", r"must end in \.npy, \.npz or \.csv"),
    "empty file": ("a.npy", b"", "cannot be read"),
    "not an array file": ("a.npy", b"hello, this is no array", "saved by numpy.save"),
    "array cut short": ("a.npy", cut_short, "a.npy must be an array of numbers saved by numpy.save"),
    "archive cut short": ("a.npz", b"PK\x03\x04 and then nothing", "a.npz"),
    "archive with the wrong name": ("a.npy", under_another_name(np.savez, points=POINTS), "must be named .npz"),
    "array with the wrong name": ("a.npz", under_another_name(np.save, POINTS), "must be named .npy"),
    "archive without points": ("a.npz", {"x": POINTS}, r"it holds x, expected points\[, weights\]"),
    "no rows": ("a.npy", np.zeros((0, 3)), r"at least one point, got shape \(0, 3\)"),
    "no columns": ("a.npy", np.zeros((3, 0)), r"at least one point, got shape \(3, 0\)"),
    "one number": ("a.npy", np.array(3.0), r"\(n, d\) or \(n,\), got shape \(\)"),
    "images": ("a.npy", np.zeros((5, 8, 8)), r"got shape \(5, 8, 8\); flatten each point to 64 numbers"),
    "complex": ("a.npy", POINTS + 1j, "real numbers, got dtype complex128"),
    "words": ("a.npy", np.array(["a", "b"]), "real numbers, got dtype <U1"),
    "objects": ("a.npy", np.array([None, 1]), "must be an array of numbers"),
    "a row not finite": ("a.npy", NAN, "1 of the 4 points in a.npy hold .*: row 1, counted from 0"),
    "many rows not finite": ("a.npy", np.full((9, 2), np.inf), r"9 of the 9 points .*: row 0, 1, 2, 3, 4, \.\.\."),
    "bandwidth negative": ("a.npz", {"points": POINTS, "bandwidth": -1.0}, "bandwidth must be .* at least 0, got -1"),
    "bandwidth an array": (
        "a.npz",
        {"points": POINTS, "bandwidth": [1.0, 2.0]},
        "bandwidth in .* must be one number",
    ),
    "too few weights": ("a.npz", {"points": POINTS, "weights": [1.0, 2.0]}, "for each of the 3 points, got 2"),
    "negative weight": ("a.npz", {"points": POINTS, "weights": [1, 2, -1]}, r"1 of the 3 .*\(the first is -1\): row 2"),
    "weight not a number": ("a.npz", {"points": POINTS, "weights": [np.nan, 1, 1]}, "negative or not finite .*: row 0"),
    "weights all zero": ("a.npz", {"points": POINTS, "weights": np.zeros(3)}, "must not all be zero"),
    "weights of two columns": (
        "a.npz",
        {"points": POINTS, "weights": POINTS},
        r"one number a point, got shape",
    ),
    "text, empty": ("a.csv", "", "holds no points"),
    "text, header only": ("a.csv", "x,y\n", "holds no points"),
    "text, a word": ("a.csv", "x,y\n1,2\n3,red\n", "line 3, column 'y' must be a number, got 'red'"),
    "text, a word, no header": ("a.csv", "1,2\n3,red\n", "line 2, column 2 must be a number, got 'red'"),
    "text, half a header": ("a.csv", "150,4,setosa\n1,2,3\n", "line 1, column 3 .* 'setosa' .a header line has no num"),
    "text, a short line": ("a.csv", "x,y\n1,2\n\n3\n", "line 4, has 1 cells, expected 2"),
    "text, a long line": ("a.csv", "1,2\n3,4,5\n", "line 2, has 3 cells, expected 2"),
    "text, header too short": ("a.csv", "x\n1,2\n", "line 2, has 2 cells, expected 1"),
    "text, a missing value": (
        "a.csv",
        "x,y\n1,2\n3,\nnan,1\n",
        "2 of the 3 points .*not finite: line 3, 4$",
    ),
    "text, two columns of weights": ("a.csv", "x,weight,weights\n1,2,3\n", "at most one column of weights"),
    "text, not UTF-8": ("a.csv", b"\xff\xfe1,2", "text in UTF-8"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_in_words(tmp_path, case):
    name, content, message = BAD[case]
    path = save(tmp_path, name, content)
    with pytest.raises(ValueError, match=message):
        load(path)


def test_a_large_file_is_thinned_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("refdiff.validation.data.ENTRIES", 50)
    monkeypatch.setattr("refdiff.validation.data.COORDINATES", 5)
    monkeypatch.setattr("refdiff.validation.data.LARGE", np.inf)
    path = save(tmp_path, "a.npy", np.arange(4000.0).reshape(200, 20))
    data = load(path)
    assert data.points.shape == (10, 5)
    assert "5 of 20 coordinates drawn; 10 of 200 points drawn, to keep the run short" in data.describe()
    # every drawn number stands in one of the drawn rows and columns of the file
    rows, columns = np.divmod(data.points, 20)
    assert (rows == rows[:, :1]).all()
    assert (columns == columns[:1]).all()
    np.testing.assert_array_equal(load(path).points, data.points)
    assert (load(path, seed=1).points != data.points).any()


def test_a_posterior_covariance_stays_affordable(tmp_path):
    path = save(tmp_path, "a.npy", np.zeros((1000, 784), dtype=np.uint8))
    n, d = load(path).points.shape
    assert d == 784
    assert n * d**2 <= 2**28 < (n + 1) * d**2


@given(shift=st.floats(-1e6, 1e6), size=st.floats(1e-3, 1e6))
def test_points_of_any_size_come_to_about_one_by_an_affine_map(tmp_path_factory, shift, size):
    original = np.random.default_rng(3).standard_normal((30, 2))
    content = {"points": shift + size * original, "bandwidth": 0.1 * size}
    data = load(save(tmp_path_factory.mktemp("sizes"), "a.npz", content))
    assert np.abs(data.points).max() <= 20
    assert ("centred and divided by" in data.describe()) == (np.abs(content["points"]).max() > 20 or size < 0.011)
    # all distances and the bandwidth are divided by one factor
    factor = 0.1 * size / data.bandwidth
    np.testing.assert_allclose(factor * np.diff(data.points, axis=0), np.diff(content["points"], axis=0), rtol=1e-4)


def test_points_that_are_all_the_same_are_only_shifted(tmp_path):
    assert (load(save(tmp_path, "a.npy", np.full((3, 2), 255))).points == 0).all()
    assert (load(save(tmp_path, "a.npy", np.full((3, 2), 7.0))).points == 7).all()


@given(most=st.integers(1, 120))
def test_the_caller_may_say_how_many_points_to_keep(tmp_path_factory, most):
    data = load(save(tmp_path_factory.mktemp("most"), "a.npy", np.arange(100.0)), most=most)
    assert len(np.unique(data.points)) == len(data.points) == min(most, 100)


def test_points_keep_their_weights_when_thinned_and_those_of_weight_zero_go_first(tmp_path, monkeypatch):
    monkeypatch.setattr("refdiff.validation.data.LARGE", np.inf)
    weights = np.where(np.arange(100) % 2, np.arange(100.0), 0.0)
    path = save(tmp_path, "a.npz", {"points": np.arange(100.0), "weights": weights})
    data = load(path, most=30)
    np.testing.assert_array_equal(data.points[:, 0], data.weights)
    assert len(data.points) == 30
    assert "50 points of weight zero left out; 30 of 100 points drawn" in data.describe()
