"""A cohort of the user's own files: a label table matched with a folder of bags, packed or not."""

import copy
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import pandas as pd

from madeleine_bench.data.bag_sources import PackedBags, open_bags
from madeleine_bench.data.bags import SUFFIXES, BagFacts, BagFile, check_alike
from madeleine_bench.data.ids import canonical_id, slide_name
from madeleine_bench.data.labels import NO_FILE
from madeleine_bench.data.tables import read_label_table
from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_array
from madeleine_bench.specs.cohort import CohortSpec
from madeleine_bench.specs.config import CohortEntry
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.types import Bag, CohortData, Source, rows_of

_SHOWN = 3


class LocalCohort:
    """A cohort read from disk; implements `CohortData`. Bags are read one at a time.

    Attributes:
        cohort_id: id of the cohort.
        source: "local", or "phantom" where the files say that their slides are made up.
        variant: "", or the kind of phantom, such as "rendered", which has a board of its own.
        organ: of the cohort.
        entry: what mbench.toml says of the cohort.
        table: path of its label table.
        slides: one row per slide, sorted by slide_id: slide_id, case_id, stain, site, labels.
        names: name of the bag of each slide that has one: most often its id.
        files: file of each slide that has a bag: its own, or one of a packed store.
        bags: where they are read from.
        extra: bags that no row of the table names, by name, with their file.
        absence: why a slide without a bag is left out.
    """

    source: Source
    variant: str
    absence = NO_FILE

    def __init__(self, cohort: CohortSpec, entry: CohortEntry, cache: Path) -> None:
        """Read the table and list the files; no bag is opened yet.

        Args:
            cohort: the declared cohort.
            entry: where the user's files are.
            cache: folder where sizes and hashes of files are remembered.

        Raises:
            InputError: the table or the folder cannot be used, a file matches a slide in two
                ways, a stain is not of the cohort, no slide has a file at all, or a packed store
                is of another cohort.
        """
        if not isinstance(entry.features, Path):
            raise InputError(f'cohort {cohort.id}: features = "{entry.features}" is not a folder')
        self._read_table(cohort, entry)
        self.folder = entry.features
        self.bags = open_bags(self.folder, self.encoder_in_files, cache)
        if isinstance(self.bags, PackedBags) and self.bags.store.cohort_id != cohort.id:
            raise InputError(
                f"{self.folder} is the packed store of cohort {self.bags.store.cohort_id}, and "
                f"mbench.toml names it as the features of {cohort.id}"
            )
        files = self.bags.files
        self.names = match_names(list(self.slides["slide_id"]), files)
        self.files = {slide_id: files[name] for slide_id, name in self.names.items()}
        used = set(self.names.values())
        self.extra = {name: path for name, path in files.items() if name not in used}
        if not self.files:
            raise InputError(_nothing_matches(self.slides, files, self.folder, self.table))
        phantom = self._phantom()
        self.source, self.variant = ("local", "") if phantom is None else ("phantom", phantom)

    def _read_table(self, cohort: CohortSpec, entry: CohortEntry) -> None:
        """Read the label table, and check its stains."""
        assert entry.labels is not None  # `Config.checked` has seen to it
        self.cohort_id, self.organ, self.entry = cohort.id, cohort.organ, entry
        self.table = entry.labels
        stain = cohort.stains[0] if len(cohort.stains) == 1 else "H&E"
        columns = entry.columns_for(cohort)
        self.slides = read_label_table(entry.labels, columns, stain, entry.exclude)
        for slide in self.slides[~self.slides["stain"].isin(cohort.stains)].itertuples():
            raise InputError(
                f"{entry.labels}: slide '{slide.slide_id}' is of stain '{slide.stain}'"
                f"{did_you_mean(str(slide.stain), cohort.stains)} (stains of cohort {cohort.id}: "
                f"{', '.join(cohort.stains)})"
            )

    @cached_property
    def no_bag(self) -> frozenset[str]:
        """Slide ids without a feature file, or whose bag has no patch.

        Raises:
            InputError: a file is damaged, or two files differ in width or patch encoder.
        """
        empty = {slide_id for slide_id, facts in self.facts.items() if facts.patches == 0}
        return frozenset(set(self.slides["slide_id"]) - set(self.files) | empty)

    def read_bag(self, slide_id: str) -> Bag:
        """Return the bag of one slide.

        Raises:
            InputError: the slide has no file or the file is broken; the message names it.
        """
        file = self.read_file(slide_id)
        facts, row = file.facts, rows_of(self.slides, [slide_id]).iloc[0]
        return Bag(
            slide_id=slide_id,
            case_id=row["case_id"],
            features=file.features,
            stain=row["stain"],
            coords=file.coords,
            site=row["site"] or None,
            patch_encoder=self.entry.patch_encoder or facts.patch_encoder,
            organ=self.organ,
            magnification=facts.magnification,
            patch_size=facts.patch_size,
            patch_size_level0=facts.patch_size_level0,
        )

    def read_file(self, slide_id: str) -> BagFile:
        """Return the feature file of a slide as it is.

        Raises:
            InputError: as `read_bag`.
        """
        file = self.bags.read(self._name(slide_id))
        self.check_patch_encoder(self.files[slide_id], file.facts.patch_encoder)
        return file

    def content_key(self, slide_id: str) -> str:
        """Return the hash of the slide's bag: of its file, as it is or as it was when packed."""
        return self.bags.content_key(self._name(slide_id))

    def part(self, slide_ids: Sequence[str]) -> "LocalCohort":
        """Return the cohort with some of its slides alone: small, to be sent to a worker."""
        some = copy.copy(self)
        for name in ("no_bag", "facts"):  # of all slides
            some.__dict__.pop(name, None)
        some.slides = rows_of(self.slides, slide_ids)
        some.names = {one: self.names[one] for one in slide_ids if one in self.names}
        some.files = {one: self.files[one] for one in some.names}
        some.extra = {}
        some.bags = self.bags.part(some.names.values())
        return some

    @property
    def encoder_in_files(self) -> str | None:
        """The name that the files give to the declared patch encoder; None when undeclared."""
        return self.entry.patch_encoder_in_files or self.entry.patch_encoder

    def check_patch_encoder(self, path: Path, stated: str | None) -> None:
        """Check what a file states of its patch encoder against mbench.toml.

        Raises:
            InputError: they differ.
        """
        declared = self.encoder_in_files
        # A packed store knows the encoder by the name that mbench.toml gives it.
        names = (None, declared, self.entry.patch_encoder)
        if declared is not None and stated not in names:
            raise InputError(
                f"{path} was made by the patch encoder '{stated}', but mbench.toml says "
                f"'{declared}'. If both are names of one encoder, add "
                f"patch_encoder_in_files = \"{stated}\"; else point 'features' to other files"
            )

    def _phantom(self) -> str | None:
        """Return what the first sound file says; that all agree is checked with the other facts."""
        for _, name in sorted(self.names.items()):
            try:
                return self.bags.facts(name).phantom
            except InputError:
                continue  # it is named, with all others, where the bags are listed
        return None

    @cached_property
    def facts(self) -> Mapping[str, BagFacts]:
        """What the header of each slide's feature file states, by slide id.

        Raises:
            InputError: a file is damaged, or two files differ in width or patch encoder.
        """
        facts: dict[str, BagFacts] = {}
        first: tuple[str, int, str | None] | None = None
        expected = self.variant if self.source == "phantom" else None
        for slide_id, path in sorted(self.files.items()):
            facts[slide_id] = now = self.bags.facts(self.names[slide_id])
            self.check_patch_encoder(path, now.patch_encoder)
            if now.phantom != expected:
                here, others = (
                    "a real slide" if kind is None else f"a phantom slide ({kind})"
                    for kind in (now.phantom, expected)
                )
                raise InputError(
                    f"{path} is of {here}, another file of cohort {self.cohort_id} of {others}; "
                    "the two never share a board. Point 'features' to a folder of one kind"
                )
            if now.patches:
                bag = str(path), now.width, now.patch_encoder
                first = first or bag
                check_alike(bag, first)
        return facts

    def _name(self, slide_id: str) -> str:
        name = self.names.get(slide_id)
        if name is None:
            raise InputError(f"slide '{slide_id}' has no feature file under {self.folder}")
        return name


@dataclass(frozen=True)
class Finding:
    """One thing found: an error stops a run, a warning is worth a look.

    Attributes:
        level: "error" or "warning".
        slide_id: the slide, or "" for a file that belongs to none.
        path: the file, or None for a slide without one.
        message: what was found, without the path.
    """

    level: Literal["error", "warning"]
    slide_id: str
    path: Path | None
    message: str


def verify_cohort(
    data: LocalCohort, progress: Callable[[str], None] = lambda slide_id: None
) -> list[Finding]:
    """Return what is wrong with the files of a cohort, errors first; an empty list is a clean bill.

    Every bag is read whole: damage, NaN, shapes, widths, patch encoders, coords, empty bags, the
    same content under two ids, slides without a file, files without a slide.

    Args:
        data: the cohort.
        progress: called with the slide id after each file.
    """
    findings: list[Finding] = []

    def add(level: Literal["error", "warning"], slide_id: str, message: str) -> None:
        findings.append(Finding(level, slide_id, data.files.get(slide_id), message))

    seen: dict[str, tuple[int, str | None]] = {}
    first: dict[str, str] = {}  # slide of each content
    for slide_id, path in data.files.items():
        try:
            file = data.read_file(slide_id)
        except InputError as error:
            add("error", slide_id, str(error).removeprefix(str(path)).lstrip(": "))
        else:
            if len(file.features):
                seen[slide_id] = file.features.shape[1], file.facts.patch_encoder
                twin = first.setdefault(hash_array([], file.features), slide_id)
                if twin != slide_id:
                    add("error", slide_id, f"the same features as slide '{twin}'")
            else:
                add("warning", slide_id, "no patch in the bag; skipped")
        progress(slide_id)
    usual = Counter(seen.values()).most_common(1)
    for slide_id, (width, encoder) in seen.items():
        if (width, encoder) != usual[0][0]:
            message = "{} dimensions of patch encoder {}; most files have {} of {}"
            add("error", slide_id, message.format(width, encoder, *usual[0][0]))
    for slide_id in sorted(set(data.slides["slide_id"]).difference(data.files)):
        add("warning", slide_id, "no feature file; skipped")
    for name, path in data.extra.items():
        which = "" if path.stem == name else f"slide '{name}': "
        findings.append(Finding("warning", "", path, f"{which}not in the label table; not used"))
    return sorted(findings, key=lambda f: (f.level != "error", f.slide_id, str(f.path)))


def match_notes(data: CohortData) -> list[str]:
    """Return a line where slides were matched with files of another name."""
    names = data.names if isinstance(data, LocalCohort) else {}
    pairs = [f"{slide} with {name}" for slide, name in names.items() if slide != name]
    shown = ", ".join(pairs[:_SHOWN]) + ", ..." * (len(pairs) > _SHOWN)
    text = f"{data.cohort_id}: {len(pairs)} slide(s) matched with files of another name: {shown}"
    return [text] if pairs else []


def match_names(slide_ids: list[str], files: Mapping[str, Path]) -> dict[str, str]:
    """Return the bag of each slide: of the same name, else of a name that means the same slide.

    Such a name differs by the suffix of a slide file (x.svs and x.h5, x and x.svs.h5), or goes on
    after the first dot: TCGA-A1-A0SB-01Z-00-DX1 finds TCGA-A1-A0SB-01Z-00-DX1.<uuid>.h5.

    Raises:
        InputError: a slide has several such files, or a file is that of several slides.
    """
    exact = set(slide_ids)
    candidates: dict[tuple[bool, str], list[str]] = defaultdict(list)
    for stem in files:
        is_exact = canonical_id(stem) in exact
        meant = (stem,) if is_exact else (slide_name(stem), stem.split(".", 1)[0])
        for name in {canonical_id(one) for one in meant}:
            candidates[is_exact, name].append(stem)
    names: dict[str, str] = {}
    slide_of: dict[str, str] = {}
    for slide_id in slide_ids:
        stems = candidates[True, slide_id] or candidates[False, slide_name(slide_id)]
        if len(stems) > 1:
            paths = " and ".join(str(files[stem]) for stem in sorted(stems)[:_SHOWN])
            raise InputError(
                f"slide '{slide_id}' could be {paths}; keep one of them, or write the whole name "
                "in the label table"
            )
        for stem in stems:
            other = slide_of.setdefault(stem, slide_id)
            if other != slide_id:
                raise InputError(
                    f"{files[stem]} could be of slide '{other}' and of slide '{slide_id}'; give "
                    "the file the whole name of its slide, or remove one row of the label table"
                )
            names[slide_id] = stem
    return names


def _nothing_matches(
    slides: pd.DataFrame, files: Mapping[str, Path], folder: Path, table: Path
) -> str:
    ids = ", ".join(slides["slide_id"].iloc[:_SHOWN])
    if not files:
        kinds = ", ".join(SUFFIXES)
        return f"no feature file ({kinds}) under {folder}; check 'features' in mbench.toml"
    stems = ", ".join(list(files)[:_SHOWN])
    return (
        f"none of the {len(files)} feature files under {folder} belongs to a slide of {table}. "
        f"Slide ids look like {ids}; files look like {stems}. Slide id and file name (without its "
        "suffix) must be the same"
    )
