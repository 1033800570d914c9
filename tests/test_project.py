"""The project's own files: in step with each other, and free of what does not belong into them."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import yaml

from btlib import files, params
from btlib.site import findings
from btlib.study import digest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_environment_yml_names_what_pyproject_names():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert listed[0] == f"python{PROJECT['requires-python']}"
    assert listed[-1]["pip"] == [*PROJECT["dependencies"], "-e ."]


def test_every_dependency_is_pinned_with_hashes():
    text = (ROOT / "requirements.lock").read_text()
    pinned = {n.lower() for n in re.findall(r"^([A-Za-z0-9._-]+)==\S+.*\\\n    --hash=sha256:", text, re.M)}
    extras = [d for e in PROJECT["optional-dependencies"].values() for d in e]
    for wanted in PROJECT["dependencies"] + extras:
        assert re.match(r"[A-Za-z0-9._-]+", wanted)[0].lower() in pinned


README = " ".join((ROOT / "README.md").read_text().split())


def test_the_readme_tells_the_first_findings_of_the_kept_tables():
    told = findings.findings(digest.Kept(ROOT / "reports" / "figshare"))
    for number, finding in enumerate(told[:4], 1):
        assert f"{number}. {finding}" in README


def test_the_readme_tells_what_three_times_the_epochs_give():
    kept = digest.Kept(ROOT / "reports" / "longer")
    right = kept["leakage"].set_index("protocol").loc["group_folds"]
    peak = kept["gradcam_summary"].set_index(["method", "by", "score"]).loc[("gradcam", "all", "pointing")]
    erased = kept["gradcam_erase"]
    erased = erased[(erased["erased"] == "tumour") & (erased["by"] == "all") & ~erased["trained"]]["accuracy"]
    words = " ".join(README.split())
    told = [f"{100 * row[k]:.1f}" for row, k in [(right, f"accuracy{end}") for end in ("", "_low", "_high")]]
    assert f"with patient groups apart {told[0]} % ({told[1]} to {told[2]}) right" in words
    told = [f"{100 * peak[k]:.1f}" for k in ("mean", "low", "high")]
    assert f"the peak in the tumour on {told[0]} % ({told[1]} to {told[2]})" in words
    assert f"without the tumour {100 * erased.min():.1f} to {100 * erased.max():.1f} % right" in words


def test_the_readme_tells_what_keeping_patients_apart_takes_on_the_fields_own_split():
    leakage = digest.Kept(ROOT / "reports" / "nickparvar")["leakage"].set_index("protocol")
    near = digest.Kept(ROOT / "reports" / "nickparvar")["neighbours"].set_index(["protocol", "label", "neighbour"])["n"]
    loose, apart = leakage.loc["published"], leakage.loc["group_holdout"]
    less = [f"{-100 * apart[k]:.1f}" for k in ("difference", "difference_high", "difference_low")]
    assert f"right on {100 * loose['accuracy']:.1f} % of the publisher's test part" in README
    assert f"on {100 * apart['accuracy']:.1f} % with patients and copies apart" in README
    assert f"{less[0]} points less ({less[1]} to {less[2]};" in README
    assert near["published", "all", "in training"] / loose["n_test"] == pytest.approx(0.8, abs=0.01)


def test_the_readme_opens_with_the_ladder_and_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    pictures = [number for number, line in enumerate(lines) if "](reports/figshare/figures/ladder.svg)" in line]
    assert len(pictures) == 1 and pictures[0] < 10 and len(lines) < 130
    links = re.findall(r"\]\(([^)#]+)\)", "\n".join(lines))
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_the_readme_tells_the_published_models_accuracy():
    card = (ROOT / "published" / "efficientnet_lite_figshare" / "README.md").read_text()
    accuracy = float(re.search(r"type: accuracy\n +value: ([\d.]+)", card)[1])
    assert f"({100 * accuracy:.1f} % of 613 slices of unseen patient groups)" in README


def test_every_item_of_the_checklists_has_an_answer_or_says_why_not():
    lists = yaml.safe_load((ROOT / "btlib" / "site" / "checklist.yaml").read_text())
    assert [[item[0] for item in items] for items in lists.values()] == [[*range(1, 45)], [*range(1, 28)]]
    page = (ROOT / "reports" / "figshare" / "checklist.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == 71 and all(len(row) == 4 and len(row[3].strip(" |")) > 3 for row in rows)
    unanswered = sum(isinstance(item[3], dict) for items in lists.values() for item in items)
    assert page.count("**Cannot be answered:**") == unanswered > 0
    assert "**Not told**" not in page, "an item asks for a value that no table has"


def test_workflows_name_targets_that_make_has():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        jobs = yaml.safe_load(path.read_text())["jobs"]
        runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
        assert {run.split()[1] for run in runs if run.startswith("make ")} <= targets


def test_the_limitations_say_how_far_fits_made_again_are_from_the_kept_ones():
    again = pd.read_csv(ROOT / "reports" / "figshare" / "reproduced.csv")
    assert (again["accuracy"].between(again["kept_low"], again["kept_high"]) == again["inside"]).all()
    words, gaps = (ROOT / "btlib" / "site" / "limitations.md").read_text(), again["accuracy"] - again["kept"]
    assert (again["n_test"] == 613).all()
    for draws, of in (("same", again["backend"].isna()), ("other", again["backend"] == "tensorflow")):
        most = round((gaps * 613)[of].abs().max())
        assert f"at most {most} of 613 " in words, draws
    other = gaps[again["backend"] == "tensorflow"]
    assert f"{len(other)} fits of the ablation" in words
    assert f"{100 * (other**2).mean() ** 0.5:.1f} points as root mean square" in words


def test_the_limitations_say_how_the_chosen_recipe_does_by_the_searchs_rule():
    log = pd.read_csv(ROOT / "reports" / "search" / "trials.csv").set_index("setting")
    assert (log["folds"] == "2 of 2").all() and len(log) == 5
    guided, words = params.load("figshare").recipes["guided"], (ROOT / "btlib/site/limitations.md").read_text()
    erase = f'{{"tumor": {guided.erase.tumor}, "elsewhere": {guided.erase.elsewhere}}}'
    short, long = log.loc[f"recipe.erase: {erase}"], log.loc[f"recipe.erase, recipe.epochs: {erase}, 30"]
    assert log.index[log["eligible"]].tolist() == log.index[log["chosen"]].tolist() == [long.name]
    assert params.load("longer").recipes["guided"].stages[0].epochs == 30 and guided.stages[0].epochs == 10
    others = log.drop([short.name, long.name])["accuracy_erased"]
    assert f"with the tumour pasted over {100 * short['accuracy_erased']:.1f} % of slices are still right" in words
    assert f"({100 * others.min():.1f} to {100 * others.max():.1f} % for the other three)" in words
    assert f"meets the rule with {100 * long['accuracy_erased']:.1f} %" in words
    said = f"{100 * short['accuracy']:.1f} % are right after ten epochs, {100 * long['accuracy']:.1f} % after thirty"
    assert f"Whole, {said}, beside {100 * log['accuracy'].max():.1f} %" in words
    assert log["fits"].str.split().str.len().sum() == 10 and "**ten of 22 fits run**" in README


def test_the_lock_names_no_host():
    assert "://" not in (ROOT / "requirements.lock").read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_stored_stripped_and_laid_out_as_all_are(path):
    cells = json.loads(path.read_text())["cells"]
    code = [c for c in cells if c["cell_type"] == "code"]
    assert all(not c["outputs"] and c["execution_count"] is None for c in code)
    titles = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    assert re.match(r"# .+\?\n", titles[0]), "the title is a question"
    assert all(f"**{word}**" in titles[1] for word in ("Reads", "Writes", "Takes"))
    assert any(t.startswith("## 1. ") for t in titles)
    assert titles[-1].startswith("## What we saw")
    parameters = [c for c in code if "parameters" in c["metadata"].get("tags", [])]
    assert len(parameters) == 1
    assert not any(re.search(r"^(def|class) ", "".join(c["source"]), re.M) for c in code)
    assert re.findall(r"^(\w+) = ", "".join(parameters[0]["source"]), re.M) == ["profile", "changes"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_cell_gives_a_parameters_name_to_something_else(path):
    # papermill puts sections after the imports, and a second Run All reads what the first left.
    names = set()
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", []):
            for node in ast.walk(ast.parse("".join(cell["source"]))):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    names.add(node.id)
                elif isinstance(node, ast.Import | ast.ImportFrom):
                    names |= {a.asname or a.name for a in node.names}
    assert not names & {*params.SECTIONS, "changes"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_shows_its_idea_without_btlib(path):
    code = "".join("".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code")
    assert re.search(r"(import|from) (keras|keras_cv|sklearn|seaborn|h5py|statsmodels|scipy)", code)
    assert "assert " in code


def test_importing_btlib_and_its_help_do_not_load_a_deep_learning_library():
    code = "import sys; sys.argv = ['btlib', '--help']\nfrom btlib import __main__ as m\ntry: m.main()\nexcept SystemExit: pass\n"
    code += "print({'tensorflow', 'keras', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("set()")


ROOMS = ("files", "models", "params", "data", "fitting", "scores", "study", "figures", "site", "deploy")


def rooms_entered(room):
    """Rooms whose modules a room imports, wherever in a module it does so."""
    modules = [ROOT / "btlib" / f"{room}.py", *(ROOT / "btlib" / room).glob("*.py")]
    nodes = [n for m in modules if m.exists() for n in ast.walk(ast.parse(m.read_text()))]
    named = [f"{n.module}.{a.name}" for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names]
    named += [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
    assert not [name for name in named if name.startswith("benchmarks")], "the library stands without its benchmarks"
    return {name.split(".")[1] for name in named if name.startswith("btlib.")} & set(ROOMS) - {room}


def test_a_room_imports_only_rooms_before_it_and_no_house_has_more_than_eight_floors():
    here = {p.stem for p in (ROOT / "btlib").iterdir() if (p / "__init__.py").exists() or p.suffix == ".py"}
    assert here - {"__init__", "__main__"} == set(ROOMS)
    assert tuple(re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text().split("## btlib")[1], re.M)) == ROOMS
    floor = {}
    for room in ROOMS:
        entered = rooms_entered(room)
        assert entered <= set(floor), f"{room} imports {entered - set(floor)}, which come after it"
        floor[room] = 1 + max((floor[r] for r in entered), default=0)
    assert max(floor.values()) <= 8


def test_a_notebook_reaches_what_it_imports_and_what_that_imports(tmp_path):
    house = {
        "btlib/__init__.py": "",
        "btlib/a/__init__.py": "",
        "btlib/a/one.py": "import json\ndef later():\n    from btlib.b import two",
        "btlib/a/table.csv": "x",
        "btlib/a/unused.py": "",
        "btlib/b/__init__.py": "",
        "btlib/b/two.py": "import btlib.c",
        "btlib/c.py": "import os",
        "btlib/d/__init__.py": "",
        "btlib/d/notes.csv": "x",
    }
    for name, text in house.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    notebook = tmp_path / "n.ipynb"
    cells = [
        ("markdown", "from btlib import d"),
        ("code", "%time\nfrom btlib.a import one"),
        ("code", "!ls\none.later()"),
    ]
    notebook.write_text(json.dumps({"cells": [{"cell_type": kind, "source": [text]} for kind, text in cells]}))
    unreached = {"btlib/a/unused.py", "btlib/d/__init__.py", "btlib/d/notes.csv"}
    expected = {"n.ipynb", *house} - unreached
    assert {str(p.relative_to(tmp_path)) for p in files.reached(notebook, root=tmp_path)} == expected


@pytest.mark.parametrize(
    ("changed", "redone"),
    [
        ("benchmarks/bench.py", set()),
        ("btlib/site/build.py", set()),
        ("btlib/deploy/onnx_file.py", set()),
        ("btlib/deploy/predict.py", {"05_gradcam"}),
        ("btlib/scores/gradcam.py", {"05_gradcam"}),
        ("btlib/params.py", {n.stem for n in NOTEBOOKS}),
    ],
)
def test_a_changed_line_redoes_the_notebooks_that_reach_it(changed, redone):
    assert {n.stem for n in NOTEBOOKS if ROOT / changed in files.reached(n, root=ROOT)} == redone
