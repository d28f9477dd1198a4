"""Where the shipped YAML and weights lie: inside an installed wheel, or in a source checkout."""

from pathlib import Path

from madeleine_bench.errors import InputError

_PACKAGE = Path(__file__).resolve().parent


def resource_folder(name: str) -> Path:
    """Return the folder `tasks`, `encoders` or `baselines` that ships with the package.

    A wheel carries them under `madeleine_bench/_resources`; an editable install and a checkout
    have them beside the package.

    Raises:
        InputError: the installation is incomplete.
    """
    for root in (_PACKAGE / "_resources", _PACKAGE.parent):
        folder = root / name
        if folder.is_dir():
            return folder
    raise InputError(
        f"the folder '{name}' that ships with madeleine-bench was not found beside {_PACKAGE}; "
        "install the package again: pip install --force-reinstall madeleine-bench"
    )
