"""Ids of slides, cases, sites and units: the form they are compared in, and what looks alike."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

_WHOLE = re.compile(r"([+-]?)(0|[1-9][0-9]*)(?:\.0*)?")
_LEADING_ZEROS = re.compile(r"(?<![0-9])(?<![0-9]\.)0+(?=[0-9])")
# In the barcodes of TCGA and TARGET the first three parts are the patient, what follows the sample.
_SAMPLE = re.compile(r"((?:tcga|target)-[a-z0-9]+-[a-z0-9]+)-.+")


def canonical_id(text: str) -> str:
    """Return the normal form of an id: Unicode NFC, stripped, a whole number as its digits.

    Leading zeros and exponents stay, as ids such as 007 and 1e5 are names and no numbers.

    Examples:
        >>> [canonical_id(text) for text in (" 7.0", "+7", "-7.00", "007", "1e5", "P-7 ")]
        ['7', '7', '-7', '007', '1e5', 'P-7']
    """
    text = unicodedata.normalize("NFC", text).strip()
    number = _WHOLE.fullmatch(text)
    if number is None:
        return text
    sign, digits = number.groups()
    return f"-{digits}" if sign == "-" and digits != "0" else digits


# What a file must end with to be taken for a slide. Some of these no reader opens: such a slide
# fails with a message, where a file that is not listed would be missed without one.
SLIDE_SUFFIXES = (
    ".svs", ".ndpi", ".mrxs", ".tif", ".tiff", ".scn", ".svslide", ".bif", ".vms", ".vmu", ".czi",
    ".dcm", ".qptiff", ".jp2", ".jpx", ".j2k", ".isyntax", ".i2syntax", ".vsi", ".lif", ".zvi",
    ".sdpc", ".kfb", ".tron", ".mds", ".mdsx",
)  # fmt: skip


def slide_name(file_name: str) -> str:
    """Return the name of a slide from that of its file: without `.svs`, `.tif`, `.ome.tif` etc.

    Examples:
        >>> [slide_name(name) for name in ("a.1.SVS", "a.ome.tif", "a.ome", "a.1", ".svs")]
        ['a.1', 'a', 'a', 'a.1', '.svs']
    """
    for suffixes in (SLIDE_SUFFIXES, (".ome",)):
        stem, dot, suffix = file_name.rpartition(".")
        if stem and f"{dot}{suffix}".lower() in suffixes:
            file_name = stem
    return file_name


def look_alikes(ids: Iterable[str], *, cases: bool) -> list[tuple[str, ...]]:
    """Return the ids that may be spellings of one id, in sorted groups of two or more.

    They differ in nothing but case, leading zeros, and characters that Unicode holds for variants
    of one another, such as dashes, spaces and full-width letters.

    Args:
        ids: ids in their normal form.
        cases: whether the ids are of cases, so that barcodes of TCGA and TARGET which differ in
            the sample, such as TCGA-A1-A0SB-01 and TCGA-A1-A0SB-06, may be of one case.

    Examples:
        >>> look_alikes(["P-7", "p-07", "P-8"], cases=True)
        [('P-7', 'p-07')]
    """
    groups: dict[str, set[str]] = defaultdict(set)
    for one in ids:
        key = _likeness(one)
        groups[_SAMPLE.sub(r"\1", key) if cases else key].add(one)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def _likeness(text: str) -> str:
    """Return what is left of an id without all that two spellings of it may differ in."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
        text = "".join(_plain(c) for c in text if unicodedata.category(c) != "Cf")
    text = " ".join(text.casefold().split())
    return canonical_id(_LEADING_ZEROS.sub("", text))


def _plain(character: str) -> str:
    dash = unicodedata.category(character) == "Pd" or character == "\N{MINUS SIGN}"
    return "-" if dash else character
