"""Files are whole or untouched."""

import os
import stat

import pytest

from refdiff import files


def test_a_file_is_whole_or_untouched(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    files.write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        files.write_text(path, "new \ud800")  # half a character cannot be encoded
    assert path.read_text() == "old"

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="no space"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_file_is_as_readable_as_others(tmp_path):
    files.write_text(tmp_path / "a", "text")
    (tmp_path / "b").write_text("text")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


def test_the_temporary_file_has_the_ending_of_the_real_one(tmp_path):
    with files.written(tmp_path / "table.npz") as temporary:
        assert temporary.suffix == ".npz"
        temporary.write_bytes(b"content")
    assert (tmp_path / "table.npz").read_bytes() == b"content"
