"""The table of patch encoders in docs/patch-encoders.md, made of their cards.

patch_encoder_facts.csv holds what two other sources say of the same encoders, read on 2026-11-30:
"trident" is the README of github.com/mahmoodlab/TRIDENT (0120b8b), and "list" is that of
github.com/georg-wolflein/pathology-foundation-models (03a1daa). Cells are empty where it does not
say, or means another thing: the list gives CONCH before its projection (768), the size of its
training images (224), and Virchow2 with its registers (3584); TRIDENT's magnification is left out
where the card says any. `training` are words that the card must also have.

`python -m tests.docs.patch_encoder_table` writes the table anew.
"""

from pathlib import Path

import pandas as pd

from madeleine_bench.slides.patch_encoders import shipped_patch_encoders
from madeleine_bench.specs.card import PatchEncoderCard
from tests.marked import write_marked

PAGE = Path(__file__).parents[2] / "docs" / "patch-encoders.md"
FACTS = Path(__file__).with_name("patch_encoder_facts.csv")
_OWN = ("efficientnet-lite0", "stain-texture")  # ship with the package: tests check their facts
_SHOWN = ("input_px", "magnification", "dim", "gated", "licence", "training")


def card_facts(card: PatchEncoderCard) -> dict[str, str]:
    """Return the facts of a card as the table shows them; "" where it does not say."""
    weights = card.weights
    return {
        "dim": str(card.dim),
        "input_px": "any" if card.input_px is None else str(card.input_px),
        "magnification": "any" if card.mpp is None else f"{10 / card.mpp:g}",
        "gated": "yes" if weights is not None and weights.gated else "no",
        "licence": card.licence,
        "training": card.training_data,
    }


def agrees(name: str, stated: str, fact: str) -> bool:
    """Return whether a source states what a card does; a licence may have further terms."""
    if name == "training":
        return stated in fact
    if name == "licence":
        return fact.replace(",", "").startswith(stated)
    return fact == stated


def second_source(name: str, facts: dict[str, str], others: pd.DataFrame) -> bool:
    """Return whether another source states a fact of a card.

    Raises:
        AssertionError: it states another.
    """
    stated = [value for value in others[name] if value]
    wrong = [value for value in stated if not agrees(name, value, facts[name])]
    assert not wrong, f"{others['encoder'].iloc[0]}: {name} is {facts[name]}, not {wrong}"
    return bool(stated)


def table() -> str:
    """Return the rows of all cards; * marks a fact that no second source states."""
    others = pd.read_csv(FACTS, dtype=str, keep_default_na=False)
    cards = {name: entry.card for name, entry in shipped_patch_encoders().items()}
    assert set(others["encoder"]) <= set(cards)
    lines = [
        "| patch encoder | input, px | magnification | width | gated | licence | training data |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, card in sorted(cards.items()):
        facts = card_facts(card)
        cells = []
        for fact in _SHOWN:
            found = name in _OWN or second_source(fact, facts, others[others["encoder"] == name])
            value = " ".join(facts[fact].split())
            cells.append(value if found or value == "any" else f"{value} \\*")
        url = card.weights and card.weights.url
        title = f"`{name}`" if url is None else f"[`{name}`]({url})"
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_marked(PAGE, "cards", table())
