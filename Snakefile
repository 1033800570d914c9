# The study as a graph: which notebook needs which fits, and which fit needs which data.
#
#     make report PROFILE=figshare
#     snakemake --cores all --configfile params/figshare.yaml
#
# A fit's folder is named by a hash of all that it depends on, so a changed number asks for other folders, and only
# for those. A notebook runs again when its source, a module that it imports, directly or not, its sections of the
# parameter file or its fits change; the pages, when a notebook, they themselves or the kept results that they show do.

import hashlib
import json
import sys
from pathlib import Path

from btlib import files, home, params
from btlib.data import datasets
from btlib.fitting import runs
from btlib.site import pages

ROOT = Path(workflow.basedir)
PYTHON = sys.executable
if config and "profile" not in config:
    sys.exit("configuration: names no profile; add --config profile=NAME, or give a file that does")
study = params.from_mapping(dict(config), "configuration")
runs.ensure_weights(study)
runs.check(study, datasets.manifest(study.data))
plan = runs.plan(study, datasets.fingerprint(study.data))

workdir: str(home())


REPORT = f"reports/{study.profile}"
PARAMETERS = f"{REPORT}/parameters.yaml"


def digest(paths):
    return hashlib.sha256(b"".join(p.read_bytes() for p in sorted(paths))).hexdigest()


def code(*sources):
    return digest(files.reached(*sources, root=ROOT))


main = plan[plan["purpose"] == "proposed"]
compared = set(main[[f.protocol == study.comparison.protocol for f in main["fit"]]]["id"])
baselines = set(main["id"]) | set(plan[plan["purpose"] == "baseline"]["id"])  # scores by class are of every protocol
explained = set(plan[plan["purpose"] == "gradcam"]["id"])
changed = set(plan[plan["purpose"] == "ablation"]["id"])

# notebook: sections of the parameter file that it reads, fits that it needs, notebooks whose tables it reads
NOTEBOOKS = {
    "01_data_exploration": (["data", "classes"], set(), []),
    "02_preprocessing": (["data", "classes", "preprocessing", "augmentation", "split", "protocols"], set(), []),
    "03_baselines": (["statistics", "baselines", "comparison"], baselines, []),
    "04_efficientnet_finetuning": (
        ["statistics", "ablation", "gradcam", "comparison", "test_time_augmentation"],
        set(plan["id"]),
        [],
    ),
    "05_gradcam": (["gradcam", "statistics", "ablation"], explained | changed, []),
    "06_cross_dataset": (
        ["external", "statistics", "test_time_augmentation", "gradcam", "comparison"],
        compared | explained,
        [],
    ),
}
NOTEBOOKS["07_paper_vs_reproduction"] = (["statistics", "comparison"], set(plan["id"]), list(NOTEBOOKS))


def state(data, copies_from=None):
    """What is there of a data set: a notebook runs again when its slices change, come or go."""
    return datasets.absent(data) or datasets.fingerprint(data, copies_from)


DATA = {"01_data_exploration": [state(study.data)], "02_preprocessing": [state(study.data)]}
DATA["06_cross_dataset"] = [state(data, study.data) for data in study.external.values()]


onstart:  # a dry run changes nothing
    params.write(study, home() / PARAMETERS)


SITE = [p for p in (ROOT / "btlib" / "site").rglob("*.*") if p.suffix != ".pyc"]


rule report:
    input:
        expand("{report}/notebooks/{notebook}.ipynb", report=REPORT, notebook=NOTEBOOKS),
    output:
        f"{REPORT}/html/index.html",
    params:
        code=code(*(p for p in SITE if p.suffix == ".py")),
        shows=digest([*SITE, *pages.shown(study.profile)]),
    shell:
        "{PYTHON:q} -m btlib report {PARAMETERS:q}"


rule fit:
    output:
        update("runs/{id}/provenance.json"),  # so that a finished fit is kept, whatever Snakemake knows of it
    priority: 1  # before notebooks that could run already: most wait for every fit
    resources:
        mem_mb=4000,  # ViT-B/16 with its optimizer; `btlib study` says how much the machine has
    shell:
        "{PYTHON:q} -m btlib fit {PARAMETERS:q} --id {wildcards.id:q}"


for notebook, (sections, fits, earlier) in NOTEBOOKS.items():

    rule:
        name:
            notebook
        input:
            source=ROOT / "notebooks" / f"{notebook}.ipynb",
            fits=expand("runs/{id}/provenance.json", id=sorted(fits)),
            earlier=expand("{report}/notebooks/{notebook}.ipynb", report=REPORT, notebook=earlier),
            measured=[p for p in ["reports/cost.csv"] if earlier and (home() / p).exists()],
            claims=[ROOT / "params" / "claims.yaml"] if earlier else [],
        output:
            f"{REPORT}/notebooks/{notebook}.ipynb",
        params:
            sections=json.dumps({s: study.model_dump()[s] for s in ["profile", "seed", *sections]}, sort_keys=True),
            code=code(ROOT / "notebooks" / f"{notebook}.ipynb"),
            data=DATA.get(notebook, []),
            attempt=f"{REPORT}/notebooks/.{notebook}",
        log:
            f"{REPORT}/notebooks/.{notebook}.log",
        shell:
            # A failed notebook stays where a reader can look at it; a finished one takes its place at once. Each attempt
            # has a folder of its own: where Snakemake alone was killed, the notebook that it had started goes on, until the
            # next attempt takes its folder away.
            "rm -rf {params.attempt:q}.[0-9]* {params.attempt:q}.failed.ipynb; attempt={params.attempt:q}.$$; mkdir $attempt;"
            " {PYTHON:q} -m papermill {input.source:q} $attempt/it.ipynb -f {PARAMETERS:q} --no-progress-bar > {log:q} 2>&1"
            " && mv $attempt/it.ipynb {output:q} && rmdir $attempt"
            " || {{ mv -f $attempt/it.ipynb {params.attempt:q}.failed.ipynb; rmdir $attempt; tail -n 40 {log:q};"
            " echo the failed notebook: {params.attempt:q}.failed.ipynb; exit 1; }}"
