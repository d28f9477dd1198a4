"""Hook of mkdocs (mkdocs.yml): the pages made from YAML, from the code and from the commands.

It stands under tests/ because it serves the project and its tests, not users.
"""

import html
import posixpath
import re
from functools import cache
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import madeleine_bench
from madeleine_bench.encoders.registry import external_encoders, shipped_encoders
from madeleine_bench.slides.patch_encoders import shipped_patch_encoders
from madeleine_bench.specs.catalogue import load_catalogue
from tests.docs.catalogue_cards import catalogue_pages, encoder_index, encoder_page
from tests.docs.command_pages import command_manual
from tests.docs.layer_diagram import ROOT, diagram, table
from tests.docs.notebooks import NOTEBOOKS, notebook_page

# A fence, an inline code span, or a link or picture: only the last is looked into.
_PIECES = re.compile(r"(?sm)^ *```.*?^ *```|`[^`\n]*`|(!?)\[([^\]]*)\]\((\.\./[^)\s]+)\)")
# A formula as pymdownx.arithmatex marks it: inline or displayed.
_FORMULA = re.compile(r'(?s)(<(?:span|div) class="arithmatex")>\\([(\[])(.*?)\\[)\]]</')
_CODE_LINK = re.compile(r"\]\[(madeleine_bench[\w.]+)\]")
# Search shows the guide before the questions about the same tool.
_BOOST = {"bring-your-data.md": 2}
_DRAWN = {"<!-- layers -->": diagram, "<!-- imports -->": table}


@cache
def generated_pages() -> dict[str, str]:
    """Every page that nobody writes, as Markdown by its path in the site."""
    return {
        **catalogue_pages(load_catalogue()),
        **encoder_pages(),
        **api_pages(),
        **command_manual(),
        **{f"notebooks/{path.stem}.md": notebook_page(path) for path in NOTEBOOKS},
    }


def encoder_pages() -> dict[str, str]:
    """The cards of slide encoders, of those of others, and of patch encoders, with an index."""
    shipped = [entry.card for entry in shipped_encoders().values()]
    groups: dict[str, list[Any]] = {
        "slide-encoders": [c for c in shipped if c.kind == "encoder"],
        "baselines": [c for c in shipped if c.kind in ("baseline", "supervised")],
        "controls": [c for c in shipped if c.kind == "control"],
        "external": [entry.card for entry in external_encoders().values()],
        "patch-encoders": [entry.card for entry in shipped_patch_encoders().values()],
    }
    pages = {"encoders/index.md": encoder_index(groups)}
    for folder, cards in groups.items():
        pages |= {f"encoders/{folder}/{card.name}.md": encoder_page(card) for card in cards}
    return pages


def api_pages() -> dict[str, str]:
    """The public names, and the functions that pages link to; mkdocstrings fills them in."""
    names = sorted(madeleine_bench.__all__, key=lambda name: name[0].isupper())  # functions first
    named = {name: getattr(madeleine_bench, name) for name in names}
    public = {f"{o.__module__}.{o.__qualname__}": f"mb.{name}" for name, o in named.items()}
    texts = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/*.md"))]
    linked = {name for text in texts for name in _CODE_LINK.findall(text)} - {*public}
    return {
        "api/index.md": _api_page(
            "Python interface",
            "The public names of `import madeleine_bench as mb`. Other names may change without "
            "notice. Examples: [Use Python](../python.md).",
            public,
        ),
        "api/formulas.md": _api_page(
            "Functions of the formulas",
            "The functions that [Statistics](../statistics.md) links to. They may change without "
            "notice.",
            {name: name for name in sorted(linked)},
        ),
    }


def _api_page(title: str, text: str, headings: dict[str, str]) -> str:
    named = [
        f"::: {name}\n    options: {{heading: {h}, toc_label: {h}}}" for name, h in headings.items()
    ]
    return "\n\n".join([f"# {title}", text, *named]) + "\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages where the navigation names the index of their folder."""
    config.nav = _with_children(config.nav, sorted(generated_pages()))
    return config


def _with_children(nav: Any, pages: list[str]) -> Any:
    """The navigation in which an index that is generated has its pages beneath it."""
    if isinstance(nav, list):
        return [_with_children(item, pages) for item in nav]
    if isinstance(nav, dict):
        return {title: _with_children(item, pages) for title, item in nav.items()}
    if nav in pages and posixpath.basename(nav) == "index.md":
        folder = posixpath.dirname(nav)
        return [nav, *_folder(folder, [p for p in pages if p != nav])]
    return nav


def _folder(folder: str, pages: list[str]) -> list[Any]:
    direct: list[Any] = [
        {posixpath.splitext(posixpath.basename(p))[0]: p}
        for p in pages
        if posixpath.dirname(p) == folder
    ]
    deeper = sorted({posixpath.dirname(p) for p in pages if p.startswith(f"{folder}/")} - {folder})
    return direct + [{_title(d): _folder(d, pages)} for d in deeper]


def _title(folder: str) -> str:
    return posixpath.basename(folder).replace("-", " ").capitalize()


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and pictures of the repository that pages show."""
    for name, text in generated_pages().items():
        files.append(File.generated(config, name, content=text))
    for page in (f for f in list(files) if f.is_documentation_page() and f.generated_by is None):
        for mark, _, target in _PIECES.findall(page.content_string):
            path = _in_repository(page.src_uri, target)
            if mark and not path.startswith("docs/") and f"repository/{path}" not in files.src_uris:
                where = str(ROOT / path)
                files.append(File.generated(config, f"repository/{path}", abs_src_path=where))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Draw what the code draws, and turn links that lead out of docs/ into names of files.

    Search shows written pages and indexes before the other generated pages.
    """
    is_card = page.file.generated_by and page.file.name != "index"
    page.meta["search"] = {"boost": 0.3 if is_card else _BOOST.get(page.file.src_uri, 1)}
    for mark, draw in _DRAWN.items():
        if mark in markdown:
            markdown = markdown.replace(mark, draw())
    return inward_links(markdown, page.file.src_uri)


def on_page_content(content: str, **_: Any) -> str:
    """Typeset formulas as MathML, which a browser draws without scripts, fonts or a network."""
    return _FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    start, bracket, formula = found.groups()
    display = "block" if bracket == "[" else "inline"
    return f"{start} data-search-exclude>{convert(html.unescape(formula), display=display)}</"


def inward_links(markdown: str, page: str) -> str:
    """A page whose links lead out of docs/ no more: a file is named, a picture is the site's copy.

    What stands in code stays.
    """
    return _PIECES.sub(lambda found: _inside(found, page), markdown)


def _inside(found: re.Match[str], page: str) -> str:
    mark, text, target = found.groups()
    if target is None or (path := _in_repository(page, target)).startswith("docs/"):
        return found.group()
    if mark:
        return (
            f"![{text}]({posixpath.relpath('repository/' + path, posixpath.dirname(page) or '.')})"
        )
    return f"`{path}`" if text.strip("`") in path else f"{text} (`{path}`)"


def _in_repository(page: str, target: str) -> str:
    """The path of a link from the repository's root; `page` is relative to docs/."""
    return posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
