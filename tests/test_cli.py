"""The command line and where it works: places, words, and what is said before work; little here needs TensorFlow."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import btlib
from btlib import __main__, files, params

ROOT = Path(__file__).resolve().parent.parent


def call(monkeypatch, *words):
    """Run a command in this process; what it leaves with: None or 0, or its message."""
    monkeypatch.setattr("sys.argv", ["btlib", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        __main__.main()
    return stopped.value.code


def run(*words, **options):
    """Run a program; its exit code, and what it printed."""
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, encoding="utf-8", **options)
    return done.returncode, done.stdout + done.stderr


def project(folder):
    """Lay down what makes a folder a project with code of its own."""
    for name in ("pyproject.toml", "params/base.yaml", "btlib/__init__.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    return folder


# ---- where code, data and reports are ---------------------------------------------------------------------------------


def test_home_is_what_is_given_or_the_repository_or_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("BTLIB_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert btlib.home() == ROOT and btlib.shipped() == ROOT
    monkeypatch.setattr(btlib, "repository", lambda: None)
    assert btlib.home() == tmp_path
    monkeypatch.setenv("BTLIB_HOME", "/elsewhere")
    assert btlib.home() == Path("/elsewhere")


@pytest.mark.parametrize("inner", [".", "notebooks"])
def test_code_of_another_project_stops_in_a_project_with_its_own(tmp_path, monkeypatch, inner):
    copy = project(tmp_path / "copy")
    (copy / inner).mkdir(exist_ok=True)
    monkeypatch.chdir(copy / inner)
    with pytest.raises(btlib.PlaceError, match=rf"copy: is a project with code of its own, but .*{ROOT / 'btlib'}"):
        btlib.home()
    said = call(monkeypatch, "plan", "quick")
    assert said.startswith(str(copy)), "a message begins with what it is about, not with a Python class"


def test_the_version_says_where_code_and_data_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BTLIB_HOME", str(tmp_path))
    assert call(monkeypatch, "--version") == 0
    told = capsys.readouterr().out
    assert told.startswith(f"btlib {btlib.__version__}, Keras ")
    assert f"code: {ROOT / 'btlib'}; data, runs and reports: {tmp_path}" in told


@pytest.mark.parametrize("settings", [{"image_data_format": "channels_first"}, {"floatx": "float16", "backend": "jax"}])
def test_a_persons_keras_json_stays_out_of_the_study(tmp_path, settings):
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text(json.dumps(settings))
    code = "import btlib, os; print(os.environ['KERAS_BACKEND'], os.environ.get('KERAS_HOME'))"
    env = {k: v for k, v in os.environ.items() if not k.startswith("KERAS")} | {"HOME": str(tmp_path)}
    assert run(sys.executable, "-c", code, env=env) == (0, f"tensorflow {tmp_path / '.keras' / 'btlib'}\n")
    (tmp_path / ".keras" / "keras.json").write_text(json.dumps({"floatx": "float32"}))
    assert run(sys.executable, "-c", code, env=env) == (0, "tensorflow None\n")
    status, told = run(sys.executable, "-c", "import btlib", env=env | {"KERAS_BACKEND": "torch"})
    assert status == 1 and told.endswith("KERAS_BACKEND: got 'torch'; allowed: tensorflow, jax, or nothing\n")


def test_a_study_is_refused_on_jax_before_work(tmp_path, monkeypatch):
    monkeypatch.setenv("BTLIB_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert call(monkeypatch, "study", "quick").startswith("KERAS_BACKEND: got 'jax'; allowed for a study: tensorflow")
    assert not any(tmp_path.iterdir())


def test_installed_without_its_repository_it_finds_parameters_and_the_published_model(tmp_path):
    """A wheel of the code alone, in an environment that borrows this one's packages: data then lie where one stands."""
    source, target = tmp_path / "source", tmp_path / "env"
    for name in ("btlib", "params", "published"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", str(source), "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    status, told = run(*pip, *build)
    assert status == 0, told
    venv.create(target, with_pip=False)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(target), "platbase": str(target)}))
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    (wheel,) = tmp_path.glob("*.whl")
    status, told = run(*pip, "--python", target / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    assert status == 0, told
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "BTLIB_HOME")}
    place = tmp_path / "own folder"
    place.mkdir()

    def command(*words):
        return run(target / "bin" / "btlib", *words, cwd=place, env=env)

    assert f"data, runs and reports: {place}" in command("--version")[1]
    status, told = command("plan", "figshare", "--full")
    assert status == 0 and "profile: figshare" in told
    code = "import btlib; print(*sorted(p.name for p in (btlib.shipped() / 'published').glob('*/*')))"
    models = sorted(p.name for p in (ROOT / "published").glob("*/*"))
    assert run(target / "bin" / "python", "-c", code, cwd=place, env=env) == (0, " ".join(models) + "\n")
    status, told = command("study", "quick")
    assert status == 1 and told.startswith("study: needs the notebooks, which lie in the repository alone")
    packed = {str(p.relative_to(site)) for p in (site / "btlib").rglob("*") if p.is_file() and p.suffix != ".pyc"}
    own = {str(p.relative_to(source)) for p in (source / "btlib").rglob("*") if p.is_file()}
    assert packed == own, "templates, styles and tables come with the code"
    assert list(place.iterdir()) == []


# ---- words before work ------------------------------------------------------------------------------------------------


def test_plan_needs_no_data_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BTLIB_HOME", str(tmp_path))
    assert not call(monkeypatch, "plan", "figshare")
    told = capsys.readouterr().out
    fits = len(re.findall(r"fold \d+, seed \d+", told))
    assert fits > 1 and f"{fits} fits, {fits} to do" in told
    assert "data/figshare: no data yet, so which of these are done is not known" in told
    assert not re.search(r"\b[0-9a-f]{12}\b", told), "ids depend on the slices"
    assert list(tmp_path.iterdir()) == []


def test_plan_in_full_is_a_parameter_file_of_the_same_study(tmp_path, monkeypatch, capsys):
    assert not call(monkeypatch, "plan", "figshare", "--full")
    (tmp_path / "figshare.yaml").write_text(capsys.readouterr().out)
    assert params.load(tmp_path / "figshare.yaml") == params.load("figshare")


def test_a_report_without_data_says_so_without_a_trace(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("BTLIB_HOME", str(tmp_path))
    monkeypatch.setattr("btlib.models.weights.ensure", lambda source: None)
    said = call(monkeypatch, "study", "figshare")
    assert said.startswith(f"{tmp_path / 'data' / 'figshare'}: no such data folder; `python -m btlib fetch figshare")
    out, err = capfd.readouterr()
    assert out == "" and err == f"code: {ROOT / 'btlib'}; data, runs and reports: {tmp_path}\n"


def test_a_file_that_does_not_say_its_profile_is_run_under_its_own_name(tmp_path, monkeypatch):
    """Snakemake reads the file by itself, and would take one without a profile for the quick study."""
    (tmp_path / "mine.yaml").write_text("preprocessing: {image_size: 96}\n")
    monkeypatch.setenv("BTLIB_HOME", str(tmp_path))
    monkeypatch.setattr(__main__, "_check_ready", lambda study: None)
    told = []
    monkeypatch.setattr(__main__.subprocess, "call", lambda command, **_: told.append(command) or 0)
    assert not call(monkeypatch, "study", str(tmp_path / "mine.yaml"))
    assert told[0][told[0].index("--config") + 1] == "profile=mine"
    given = {"preprocessing": {"image_size": 96}, "profile": "mine"}
    assert params.from_mapping(given) == params.load(tmp_path / "mine.yaml")


def test_what_only_figshares_slices_can_say_is_not_said_of_others(monkeypatch):
    assert "quick: source phantom; allowed: figshare" in call(monkeypatch, "share", "quick")


def test_nothing_is_published_where_the_onnx_file_cannot_be(tmp_path, monkeypatch):
    monkeypatch.setattr("btlib.deploy.publish.write", None)
    said = call(monkeypatch, "export", "some_run", "--publish", "x", "--onnx", str(tmp_path / "m.txt"))
    assert said == f"{tmp_path / 'm.txt'}: ends in '.txt'; allowed: .onnx"


def test_messages_begin_with_what_they_are_about(tmp_path, monkeypatch):
    monkeypatch.setenv("BTLIB_HOME", str(tmp_path))
    assert call(monkeypatch, "plan", "nothere").startswith(str(params.PARAMS_DIR / "nothere.yaml"))
    (tmp_path / "reports" / "quick").mkdir(parents=True)
    monkeypatch.setattr(__main__, "fit_plan", lambda args: (tmp_path / "gone").read_text())
    assert call(monkeypatch, "plan", "quick") == f"{tmp_path / 'gone'}: No such file or directory"


@pytest.mark.parametrize(
    ("key", "allowed"), [("weights", "'imagenet' or 'edges', or null"), ("output_stride", "8, 16 or 32, or null")]
)
def test_a_parameter_that_may_be_null_says_so(key, allowed):
    with pytest.raises(btlib.ParamsError, match=rf"proposed\.{key}: got 'none'; allowed: {allowed}$"):
        params.from_mapping({"proposed": {key: "none"}})


def test_where_nothing_can_be_written_is_said_first(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OSError, match="file"):
        files.check_writable(tmp_path / "file" / "table.csv")
    with pytest.raises(IsADirectoryError, match="is a folder; allowed: a file"):
        files.check_writable(tmp_path)
    files.check_writable(tmp_path / "new" / "table.csv")
    files.check_writable(tmp_path / "file")
    assert [p.name for p in (tmp_path / "new").iterdir()] == [] and (tmp_path / "file").read_text() == "kept"


def test_predict_stops_at_an_unwritable_table_before_it_opens_the_model(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for module in ("btlib.deploy.predict", "btlib.deploy.publish"):
        monkeypatch.setitem(sys.modules, module, None)  # importing it fails
    said = call(monkeypatch, "predict", "m", "a.png", "--csv", tmp_path / "file" / "a.csv")
    assert str(tmp_path / "file") in said


def test_names_that_a_terminal_cannot_show_are_escaped(tmp_path):
    code = "import sys; sys.argv = ['btlib', 'plan', 'Größe.yaml']\nfrom btlib import __main__ as m\n"
    code += "m.fit_plan = lambda args: print(args.params)\nm.main()"
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "BTLIB_HOME": str(tmp_path)}
    assert run(sys.executable, "-c", code, env=env) == (0, "Gr\\xf6\\xdfe.yaml\n")


def test_trials_before_any_fit_say_what_makes_them(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("BTLIB_HOME", str(tmp_path))
    monkeypatch.setattr("btlib.data.datasets.fingerprint", lambda *_: "0")
    assert not call(monkeypatch, "trials", "search")
    assert "no configuration has all its folds fitted; `python -m btlib fit` makes them" in capsys.readouterr().out


def test_a_report_that_is_not_there_is_not_served_nor_is_one_at_a_taken_port(monkeypatch, tmp_path):
    monkeypatch.setenv("BTLIB_HOME", str(tmp_path))
    assert "html: no report yet; `make report PROFILE=none` makes it" in call(monkeypatch, "serve", "none")
    page = tmp_path / "reports" / "own" / "html" / "index.html"
    page.parent.mkdir(parents=True)
    page.touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = call(monkeypatch, "serve", "own", "--port", str(port))
    assert f"port {port}: Address already in use" in told and f"PORT={port + 1}" in told


# ---- notebooks on screen ----------------------------------------------------------------------------------------------


def test_notebooks_are_opened_as_copies_which_keep_what_was_tried(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BTLIB_HOME", str(tmp_path))
    calls = []
    monkeypatch.setattr(__main__.subprocess, "call", lambda command: calls.append(command) or 0)
    sources = sorted((ROOT / "notebooks").glob("*.ipynb"))
    before = [p.read_bytes() for p in sources]
    assert call(monkeypatch, "lab") == 0
    copies = tmp_path / "notebooks" / "copies"
    assert [p.name for p in sorted(copies.iterdir())] == [p.name for p in sources]
    assert ("--allow-root" in calls[0]) == (os.geteuid() == 0) and str(copies) in calls[0]
    tried = copies / sources[0].name
    tried.write_text("tried")
    os.utime(tried, (0, 0))
    assert call(monkeypatch, "lab", "--", "--no-browser") == 0
    assert "--no-browser" in calls[1] and tried.read_text() == "tried"
    assert f"{tried}: older than its source" in capsys.readouterr().err
    assert [p.read_bytes() for p in sources] == before
