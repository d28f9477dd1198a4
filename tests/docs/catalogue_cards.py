"""Cards of a catalogue as Markdown pages: all that the YAML of a task, cohort or encoder says."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from madeleine_bench.specs.card import EncoderCard, PatchEncoderCard
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.cohort import CohortSpec
from madeleine_bench.specs.protocol import ProtocolSpec
from madeleine_bench.specs.task import ClassLabels, Provenance, TaskSpec

# Characters that Markdown or HTML would take for its own, inside a table.
_ESCAPED = {ord(c): f"\\{c}" for c in "\\`*_[]|~"} | {ord("<"): "&lt;", ord(">"): "&gt;"}
_RECONSTRUCTED = (
    "*Attested* stands in the source that is named; *reconstructed* is our choice, with its reason."
)


def catalogue_pages(catalogue: Catalogue) -> dict[str, str]:
    """Return Markdown pages by relative path: tasks, cohorts, protocols, and an index of each."""
    pages = {
        "tasks/index.md": task_index(catalogue),
        "cohorts/index.md": cohort_index(catalogue),
        "protocols/index.md": protocol_index(catalogue),
    }
    for task in catalogue.tasks.values():
        pages[f"tasks/{task.id}.md"] = task_page(task, catalogue.cohorts[task.cohort])
    for cohort in catalogue.cohorts.values():
        pages[f"cohorts/{cohort.id}.md"] = cohort_page(cohort, catalogue.tasks_of(cohort.id))
    for protocol in catalogue.protocols.values():
        pages[f"protocols/{file_stem(protocol)}.md"] = protocol_page(protocol)
    return pages


def task_index(catalogue: Catalogue) -> str:
    """Return the page that lists the tasks by family."""
    core = [t for t in catalogue.tasks.values() if t.status == "core"]
    lines = [
        "# Tasks and access to their data",
        f"{len(core)} core tasks, by which encoders are ranked, and "
        f"{len(catalogue.tasks) - len(core)} extra ones. The data are *open*, *on-request* or "
        "*private*: the page of the cohort says how to get them. Without data, a task runs on a "
        "synthetic cohort ([phantom](../phantom.md)).",
    ]
    for family in sorted({task.family for task in catalogue.tasks.values()}):
        rows = [
            [_link(t.id, f"{t.id}.md"), _link(t.cohort, f"../cohorts/{t.cohort}.md"),
             catalogue.cohorts[t.cohort].access.status, t.labels.type, str(t.expected.n),
             t.metric.name, t.status]
            for t in catalogue.tasks.values() if t.family == family
        ]  # fmt: skip
        lines += [
            f"## {family}",
            _table(["task", "cohort", "data", "labels", "n", "metric", "status"], rows),
        ]
    return _page(lines)


def cohort_index(catalogue: Catalogue) -> str:
    """Return the page that lists the cohorts."""
    rows = [
        [_link(c.id, f"{c.id}.md"), c.role, c.organ, f"{c.slides:,}", f"{c.cases:,}",
         _text(", ".join(c.stains)), c.access.status]
        for c in catalogue.cohorts.values()
    ]  # fmt: skip
    head = ["cohort", "role", "organ", "slides", "cases", "stains", "access"]
    counted = sum(c.slides for c in catalogue.cohorts.values() if c.counted)
    text = f"{counted:,} slides in the cohorts that count towards the benchmark."
    return _page(["# Cohorts", text, _table(head, rows)])


def protocol_index(catalogue: Catalogue) -> str:
    """Return the page that lists the protocols."""
    rows = [
        [_link(p.name, f"{file_stem(p)}.md"), _text(p.title), p.method.kind,
         ", ".join(p.labels), p.fusion]
        for p in catalogue.protocols.values()
    ]  # fmt: skip
    head = ["protocol", "title", "kind", "labels", "fusion"]
    return _page(["# Protocols", _table(head, rows)])


def task_page(task: TaskSpec, cohort: CohortSpec) -> str:
    """Return the card of a task: labels, counts, folds, metric, and the source of every fact."""
    facts = [
        ["id, version", f"`{task.id}`, {task.version}"],
        ["family", f"{task.family} ({task.status})"],
        ["cohort", f"{_link(cohort.id, f'../cohorts/{cohort.id}.md')}: {_text(cohort.title)}"],
        ["unit", task.unit],
        ["stains", _text(", ".join(task.stains))],
        ["metric", f"{task.metric.name}, higher is better, chance {task.metric.chance:g}"],
        ["secondary", ", ".join(task.secondary) or "none"],
        ["protocols", ", ".join(_protocol_link(name) for name in task.protocols)],
        ["shots", "those of the protocol" if task.shots is None else _joined(task.shots)],
        ["splits", _splits(task)],
        ["licence", _text(task.licence)],
        ["citation", _text(task.citation)],
    ]
    run = f"```\nmbench run --encoder mean-pool --task {task.id}\n```"
    parts = [
        f"# {_text(task.title)}",
        run,
        _table(["fact", "value"], facts),
        "## Labels",
        *_labels(task),
    ]
    return _page([*parts, *_provenance(task.provenance)])


def cohort_page(cohort: CohortSpec, tasks: Sequence[TaskSpec]) -> str:
    """Return the card of a cohort: its slides, how to get them, its tasks and its phantom."""
    access = cohort.access
    where = f" [{_text(access.url)}]({access.url})" if access.url else ""
    facts = [
        ["id, version", f"`{cohort.id}`, {cohort.version}"],
        ["organ, role", f"{cohort.organ}, {cohort.role}"],
        ["slides, cases", f"{cohort.slides}, {cohort.cases}"],
        ["stains", _text(", ".join(cohort.stains))],
        ["counted among the benchmark's slides", _yes(cohort.counted)],
        ["access", f"{access.status}. {_text(access.how)}{where}"],
        ["licence", _text(cohort.licence)],
        ["citation", _text(cohort.citation)],
        ["tasks", ", ".join(_link(t.id, f"../tasks/{t.id}.md") for t in tasks) or "none"],
        ["columns of the label table", _pairs(cohort.columns.model_dump())],
        *([["built-in labels", f"labels/{cohort.labels.name}"]] if cohort.labels else []),
    ]
    parts = [f"# {_text(cohort.title)}", _table(["fact", "value"], facts)]
    if cohort.phantom is not None:
        values = cohort.phantom.model_dump()
        parts += [
            "## Phantom",
            "Synthetic slides stand in where nobody has configured files of this cohort. "
            "Every score on them says PHANTOM.",
            _table(["key", "value"], [[f"`{key}`", _value(v)] for key, v in values.items()]),
        ]
    return _page([*parts, *_provenance(cohort.provenance)])


def protocol_page(protocol: ProtocolSpec) -> str:
    """Return the card of a protocol: every number that its fits depend on."""
    facts = [
        ["name", f"`{protocol.name}`"],
        ["labels", ", ".join(protocol.labels)],
        ["fusion of the slides of a case", protocol.fusion],
        ["citation", _text(protocol.citation)],
    ]
    method = protocol.method.model_dump()
    flat = {**method.pop("model", {})} if isinstance(method.get("model"), dict) else {}
    rows = [[f"`{key}`", _value(value)] for key, value in {**method, **flat}.items()]
    parts = [
        f"# {_text(protocol.title)}",
        _text(protocol.description),
        _table(["fact", "value"], facts),
    ]
    return _page([*parts, "## Settings", _table(["key", "value"], rows)])


def encoder_page(card: EncoderCard | PatchEncoderCard) -> str:
    """Return the card of an encoder, of slides or of patches."""
    values = card.model_dump(exclude={"title", "description"}, exclude_none=True)
    if isinstance(card, EncoderCard):
        cohorts = card.training_cohorts
        values["training_cohorts"] = "unknown" if cohorts is None else cohorts or "none"
    rows = [[f"`{key}`", _value(value)] for key, value in values.items() if value not in ({}, ())]
    return _page(
        [f"# {_text(card.title)}", _text(card.description), _table(["key", "value"], rows)]
    )


def encoder_index(groups: Mapping[str, Iterable[EncoderCard | PatchEncoderCard]]) -> str:
    """Return the page that lists encoders; each group links into the folder of its name."""
    lines = ["# Encoders"]
    for folder, cards in groups.items():
        rows = [
            [_link(card.name, f"{folder}/{card.name}.md"), _text(card.title), _text(card.licence)]
            for card in cards
        ]
        lines += [f"## {folder.replace('-', ' ').capitalize()}"]
        lines += [_table(["encoder", "title", "licence"], rows)]
    return _page(lines)


def file_stem(protocol: ProtocolSpec) -> str:
    """Return the name of a protocol's file without its suffix, such as linear-probe-v1."""
    return f"{protocol.id}-v{protocol.version}"


def _splits(task: TaskSpec) -> str:
    splits = task.splits
    like = f", the draws of {splits.like}" if splits.like else ""
    return f"{splits.scheme}, {splits.folds} folds, {splits.repeats} repeat(s){like}"


def _labels(task: TaskSpec) -> list[str]:
    labels, expected = task.labels, task.expected
    if not isinstance(labels, ClassLabels):
        unit = (labels.time_unit or "days").capitalize()
        return [
            f"Survival. {unit} in column `{labels.time}`; the event happened where "
            f"`{labels.event}` is `{labels.event_value}`, and was censored where it is "
            f"`{labels.censored_value}`.",
            f"Expected: {expected.n} units, {expected.events} events.",
        ]
    counts = expected.classes or {}
    rows = [
        [name, ", ".join(f"`{w}`" for w, c in labels.map.items() if c == name), str(counts[name])]
        for name in labels.classes
    ]
    lines = [
        f"{labels.type.capitalize()}, from column `{labels.column}`; {expected.n} units expected.",
        _table(["class", "words of the table", "expected"], rows),
    ]
    if labels.missing:
        words = ", ".join(f"`{word}`" for word in labels.missing)
        lines.append(f"No label: {words}, and the empty cell.")
    return lines


def _provenance(facts: Mapping[str, Provenance]) -> list[str]:
    rows = [[name, fact.status, _text(fact.source)] for name, fact in facts.items()]
    return [
        "## Where each fact comes from",
        _RECONSTRUCTED,
        _table(["fact", "status", "source"], rows),
    ]


def _protocol_link(name: str) -> str:
    return _link(name, f"../protocols/{name.replace('/', '-')}.md")


def _value(value: Any) -> str:
    """Return a value of a spec for a table cell."""
    if isinstance(value, bool) or value is None:
        return _yes(value)
    if isinstance(value, Mapping):
        return _pairs(value)
    if isinstance(value, (list, tuple)):
        return _text(_joined(value))
    return _text(f"{value:g}" if isinstance(value, float) else str(value))


def _pairs(values: Mapping[str, Any]) -> str:
    return "; ".join(f"{_text(str(key))}: {_value(value)}" for key, value in values.items())


def _joined(values: Iterable[Any]) -> str:
    return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)


def _yes(value: bool | None) -> str:
    return "none" if value is None else "yes" if value else "no"


def _text(text: str) -> str:
    return " ".join(text.split()).translate(_ESCAPED)


def _link(name: str, target: str) -> str:
    return f"[{_text(name)}]({target})"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _page(parts: Iterable[str]) -> str:
    return "\n\n".join(parts) + "\n"
