"""The notebooks' form: sources and executed pairs say the same, each teaches, asks and checks. They run by
`python notebooks/execute.py --check`, which CI calls.
"""

import json
import re
from pathlib import Path

import jupytext
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted(path for path in NOTEBOOKS.glob("*.py") if re.match(r"\d\d_", path.name))
EACH = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def pair(source):
    """The cells of the executed pair."""
    return json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]


def said(cells):
    """What cells say: kind, text and tags of each."""
    return [
        (cell["cell_type"], "".join(cell["source"]).strip(), tuple(cell["metadata"].get("tags", ()))) for cell in cells
    ]


def tagged(cells, tag):
    """The texts of the cells with a tag."""
    return [text for _, text, tags in said(cells) if tag in tags]


def outputs(cells):
    """All outputs of cells."""
    return [output for cell in cells for output in cell.get("outputs", ())]


def test_there_are_twelve_numbered_from_one():
    assert [int(path.name[:2]) for path in SOURCES] == list(range(1, 13))
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == [path.stem for path in SOURCES]


@EACH
def test_the_pair_says_what_the_source_says(source):
    text = source.read_text(encoding="utf-8")
    assert said(jupytext.reads(text, fmt="py:percent").cells) == said(pair(source))
    changed = jupytext.reads(text.replace("# %%", "# %%\n0\n\n# %%", 1), fmt="py:percent").cells
    assert said(changed) != said(pair(source))


@EACH
def test_a_notebook_is_a_lesson_of_one_sitting(source):
    cells = pair(source)
    assert 8 <= len(cells) <= 20
    kinds = [kind for kind, _, _ in said(cells)]
    assert kinds[0] == "markdown"
    assert said(cells)[0][1].startswith(f"# {source.name[:2]} ")
    assert kinds.count("markdown") >= 3
    assert any("$" in text for kind, text, _ in said(cells) if kind == "markdown"), "no formula"
    assert any("image/png" in output.get("data", {}) for output in outputs(cells)), "no picture"
    assert source.with_suffix(".ipynb").stat().st_size < 1_000_000


@EACH
def test_an_exercise_waits_for_an_attempt_and_a_check_judges_it(source):
    cells = pair(source)
    exercises, solutions, checks = (tagged(cells, tag) for tag in ("exercise", "solution", "check"))
    assert len(exercises) == len(solutions) == len(checks) > 0
    assert all(re.match(r"attempt = None\b", text) for text in exercises)
    assert all("given = attempt or solution" in text for text in checks)
    # that a wrong attempt fails is seen when they run: execute.py
    assert all(len(re.findall(r"\bgiven\b", text)) > 1 and re.search(r"^ *assert ", text, re.M) for text in checks)


@EACH
def test_every_cell_has_run_in_order_and_says_nothing_of_the_machine(source):
    cells = pair(source)
    counts = [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"]
    assert None not in counts
    assert counts == sorted(set(counts))
    found = outputs(cells)
    assert all(output["output_type"] != "error" and output.get("name") != "stderr" for output in found)
    printed = json.dumps([output.get("text", output.get("data", {}).get("text/plain", "")) for output in found])
    assert not re.search(r"/(home|root|tmp|work|usr)/|site-packages", printed)
    assert re.search(r"/(home|root|tmp|work|usr)/", "/usr/lib")


def body(text):
    """A source without its head, of which Jupytext writes more than a reader needs."""
    return text.partition("\n# ---\n")[2]


@EACH
def test_jupyter_opens_a_pair_whichever_was_written_last(source):
    # Jupytext refuses a notebook that is newer than its source where it would write another source
    text = source.read_text(encoding="utf-8")
    book = jupytext.read(source.with_suffix(".ipynb"))
    assert body(jupytext.writes(book, fmt="py:percent")) == body(text)
    book.cells[-1].source += "\n0"
    assert body(jupytext.writes(book, fmt="py:percent")) != body(text)
