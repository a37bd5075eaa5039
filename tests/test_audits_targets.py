"""Words on a command line find what is to be audited, and say what is wrong with them."""

import subprocess
import sys
from dataclasses import replace

import audited
import pytest

from refdiff.validation.audits import targets
from refdiff.validation.audits.asking import BadTarget, accepted
from refdiff.validation.audits.protocols.protocol import Protocol, Request
from refdiff.validation.audits.subject import Subject
from refdiff.validation.audits.targets import Target, find, load, subject_of


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    audited.install(monkeypatch, audited.toy(audited.right, audited.halved), Protocol("bare", "f(x)", audited.wrap))


def test_a_library_is_found_by_the_name_of_its_protocol_and_its_own():
    both = [Target("toy", "right", quick=True), Target("toy", "halved", quick=True)]
    assert find("toy", quick=True) == find("numpy", quick=True) == both
    assert find("toy:halved", quick=True) == both[1:]
    assert [one.name for one in both[1].subjects()] == ["halved()", "halved(again)"]


def test_a_library_whose_name_has_a_line_in_it_is_found_with_a_dash_too(monkeypatch):
    audited.install(monkeypatch, Protocol("names", "f", audited.wrap, "unittest_mock", audited.members([])))
    for text in ("names", "unittest_mock", "unittest-mock"):
        with pytest.raises(BadTarget, match="unittest_mock is not installed: pip install unittest-mock"):
            find(text)


def test_a_member_with_options_is_wrapped_from_the_module_that_has_it(monkeypatch):
    def of_numpy(model, x, sigmas, *, gain=1.0):
        return audited.right(model, x, sigmas) * gain

    monkeypatch.setattr(audited.np, "of_numpy", of_numpy, raising=False)
    audited.install(monkeypatch, audited.toy(of_numpy))
    (one,) = find("toy:of_numpy", options={"gain": 2.0})
    assert (one.where, one.options) == ("numpy", (("gain", 2.0),))
    assert [subject.name for subject in one.subjects()] == ["of_numpy()"]
    with pytest.raises(BadTarget, match="'gian' is no option of of_numpy; did you mean gain"):
        find("toy:of_numpy", options={"gian": 2.0})


def test_a_library_that_breaks_when_it_is_imported_is_said(monkeypatch):
    def members(quick):  # noqa: ARG001
        raise ImportError("no module named skimage")

    audited.install(monkeypatch, Protocol("toy", "f", audited.wrap, "numpy", members))
    with pytest.raises(BadTarget, match="numpy cannot be imported: ImportError: no module named skimage"):
        find("toy")


def test_a_file_may_import_what_is_beside_it_and_is_loaded_once(tmp_path):
    (tmp_path / "beside_it.py").write_text("gain = 3\n")
    (tmp_path / "mine.py").write_text(
        "from beside_it import gain\nclass A:\n    @staticmethod\n    def f(): return gain\n"
    )
    found = load(str(tmp_path / "mine.py"), "A.f")
    assert found() == 3
    assert load(str(tmp_path / "mine.py"), "A.f") is found


def test_a_callable_is_told_from_another_one_of_its_name_and_a_member_is_known_by_its_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    one = Target("toy", "f", str(tmp_path / "a" / "mine.py"))
    assert one.about == Target("toy", "f", "./a/mine.py").about == "toy, a/mine.py"
    others = [{"where": "b/mine.py"}, {"family": "ddim"}, {"claimed": (("eta", 1.0),)}, {"dtype": "float32"}]
    assert len({one.about, *(replace(one, **other).about for other in others)}) == 5
    for where in ("", "numpy", "numpy.linalg"):
        assert Target("toy", "f", where).about == ""
    assert Target("toy", "f", "numpy", "ddim").about == "ddim"


def test_a_claim_that_the_protocol_does_not_look_at_is_refused_and_one_that_it_does_is_taken():
    def of_process(found, request):
        assert request.claimed.get("process", "edm") == "edm"
        return audited.wrap(found, Request())

    looks, bare = Protocol("looks", "f(x)", of_process), Protocol("bare", "f(x)", audited.wrap)
    request = Request(claimed={"process": "edm"})
    assert subject_of(audited.right, looks, request).name == "right()"
    with pytest.raises(BadTarget, match="process is no claim that protocol bare looks at without a family"):
        subject_of(audited.right, bare, request)
    with pytest.raises(BadTarget, match="prediction_type is no claim that protocol looks looks at"):
        subject_of(audited.right, looks, Request(claimed={"process": "edm", "prediction_type": "noise"}))


def test_a_protocol_of_classes_and_one_whose_library_is_missing_say_so_of_a_function():
    classes = Protocol("classes", "C().step(x)", lambda found, request: found.step)
    with pytest.raises(
        BadTarget, match=r"right is nothing for protocol classes, C\(\).step\(x\): 'function' object has"
    ):
        subject_of(audited.right, classes, Request())

    def importing(found, request):  # noqa: ARG001
        import no_such_library  # noqa: F401

    missing = Protocol("importing", "f(x)", importing, "no_such_library")
    with pytest.raises(BadTarget, match="no_such_library is not installed: pip install no-such-library"):
        subject_of(audited.right, missing, Request())


def test_two_files_of_one_name_are_two(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"def f(): return {folder!r}\n")
    assert [load(str(tmp_path / folder / "mine.py"), "f")() for folder in "ab"] == ["a", "b"]


def test_the_options_of_a_class_are_those_of_its_constructor_its_steps_and_its_step():
    class Scheduler:
        def __init__(self, order=2):
            pass

        def set_timesteps(self, n, mu=None):
            pass

        def step(self, x, *, eta=0.0):
            pass

    assert accepted(Scheduler) == ["order", "n", "mu", "x", "eta"]
    assert accepted(lambda **options: None) is None
    assert accepted(audited.right) == ["model", "x", "sigmas"]


def test_a_function_that_raises_by_itself_is_left_to_the_checks():
    def failing(model, x, sigmas):  # noqa: ARG001
        raise TypeError("f() takes 1 positional argument but 2 were given")

    assert subject_of(failing, targets.protocols()["bare"], Request()).name == "failing()"


@pytest.mark.parametrize(("raised", "refused"), [(ValueError, True), (NotImplementedError, True), (KeyError, False)])
def test_values_that_are_refused_are_told_before_work_and_what_breaks_is_left_to_the_checks(raised, refused):
    def build(steps):
        raise raised(f"{steps}")

    def gain(model, x, sigmas, gain=1.0):  # noqa: ARG001
        return x

    protocol = Protocol("toy", "f", lambda found, request: Subject(found.__name__, build))
    assert subject_of(gain, protocol, Request()).name == "gain"
    if refused:
        with pytest.raises(BadTarget, match=r"gain refuses what is set: .*Error: 5"):
            subject_of(gain, protocol, Request(options={"gain": "x"}))
    else:
        assert subject_of(gain, protocol, Request(options={"gain": "x"})).name == "gain"


def test_what_the_protocol_refuses_is_said():
    def wrap(found, request):  # noqa: ARG001
        raise ValueError("it must be a class")

    with pytest.raises(BadTarget, match="right is nothing for protocol picky: it must be a class"):
        subject_of(audited.right, Protocol("picky", "C()", wrap), Request())


def test_a_subject_without_a_sampler_is_left_to_the_checks():
    protocol = Protocol("table", "x", lambda found, request: Subject("table", lambda steps: None))
    assert subject_of(audited.levels, protocol, Request()).name == "table"


def test_protocols_are_listed_without_what_tests_need():
    program = (
        "import sys\nsys.modules |= dict.fromkeys(('hypothesis', 'pytest', 'mpmath', 'sklearn', 'matplotlib',\n"
        "    'torch', 'diffusers', 'jax'))\n"
        "from refdiff.cli import main\nmain(['audit', '--list'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "diffusers: scheduler.set_timesteps(n)" in done.stdout
