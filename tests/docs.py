"""The reference: `python -m tests.docs FOLDER` builds it, and `python -m tests.docs` lists what it does not describe.

pdoc makes a page of each face, README is the first page, and TeX between dollar signs becomes MathML, which browsers
draw by themselves.
"""

from __future__ import annotations

import inspect
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import jinja2
import latex2mathml.converter
import pdoc.doc
import pdoc.render

from tests.house import PACKAGE

ROOT = PACKAGE.parent
REPOSITORY = "https://github.com/mixlab/mixlab/blob/main"
FACES = ["mixlab", *(f"mixlab.{path.parent.name}" for path in sorted(PACKAGE.glob("*/__init__.py")))]
PAGES = [*FACES, "mixlab.experiments.mistakes"]  # which its face has whole

# What pdoc's pages are not told by options: README has a title of its own, pictures and signatures fit the page, and
# what a class has from a base class in mixlab stands beside its own members.
TEMPLATES = {
    "module.html.jinja2": """{% extends "default/module.html.jinja2" %}
{% block title %}{{ "mixlab" if module.modulename == "index" else module.modulename }}{% endblock %}
{% block module_list_link %}
    {% if module.modulename != "index" %}
        <a class="pdoc-button" href="{{ "../" * module.modulename.count(".") }}index.html">README and rooms</a>
    {% endif %}
{% endblock %}
{% macro module_name() %}
    {% if module.modulename != "index" %}<h1 class="modulename">{{ module.modulename }}</h1>{% endif %}
{% endmacro %}
{% macro inherited(cls) %}
    {% for base, members in cls.inherited_members.items() if base[0].startswith("mixlab.") %}
        {% for m in members if m.name != "__init__" and is_public(m) | trim %}
            <div id="{{ m.qualname }}" class="classattr">{{ member(m) }}</div>
        {% endfor %}
    {% endfor %}
{% endmacro %}
""",
    "custom.css": """
main.pdoc img { max-width: 100%; height: auto; }
main.pdoc math[display=block] { margin: 0 0 1em; }
main.pdoc .param { white-space: pre-wrap; }
""",
}


def build(folder: Path) -> None:
    """Writes the reference as HTML pages.

    Args:
        folder: It is made anew: a reference in it is deleted.

    Raises:
        FileExistsError: If it holds something else, which is left as it is.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "search.js").is_file():
        raise FileExistsError(f"{folder} holds no reference to replace; name a folder that is new or empty")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "labs" / "img", folder / "labs" / "img")
    modules = {"index": pdoc.doc.Module(_first_page())} | {page: pdoc.doc.Module.from_name(page) for page in PAGES}
    for *_, thing in public_things():
        if inspect.isclass(thing) and hasattr(thing, "_fields"):  # pdoc reads a NamedTuple's annotations as text
            thing.__new__.__annotations__ = get_type_hints(thing)
    pdoc.render.configure(docformat="google", show_source=False)
    environment = pdoc.render.env
    environment.loader = jinja2.ChoiceLoader([jinja2.DictLoader(TEMPLATES), environment.loader])
    environment.filters["to_markdown"] = _to_markdown
    for name, module in modules.items():
        page = folder / f"{name.replace('.', '/')}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(pdoc.render.html_module(module, modules), encoding="utf-8")
    (folder / "search.js").write_text(pdoc.render.search_index(modules), encoding="utf-8")


def _first_page() -> ModuleType:
    """Returns README, and the rooms, as the docstring of a module."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    readme = re.sub(r"\]\((?!http|labs/img/)", f"]({REPOSITORY}/", readme)
    first_lines = {page: inspect.getdoc(import_module(page)).partition("\n")[0] for page in PAGES}
    rooms = [f"| [{page}]({page.replace('.', '/')}.html) | {line} |" for page, line in first_lines.items()]
    table = ["## Reference", "", "| import from | what it holds |", "|---|---|", *rooms]
    page = ModuleType("index", "\n".join([readme, *table]))
    page.__docformat__ = "markdown"
    return page


@jinja2.pass_context
def _to_markdown(context: jinja2.runtime.Context, docstring: str) -> str:
    return with_mathml(pdoc.render.to_markdown_with_context(context, docstring))


def with_mathml(text: str) -> str:
    """Returns Markdown with its formulas, $...$ within a line or $$...$$ beside it, as MathML.

    >>> with_mathml("at $x$")[:5], with_mathml("costs $5 or `$HOME`")
    ('at <m', 'costs $5 or `$HOME`')
    """
    text = re.sub(r"\$\$(.+?)\$\$", lambda found: _mathml(found[1], "block"), text, flags=re.DOTALL)
    return re.sub(r"(?<![`$\w])\$(\S|\S[^$`\n]*\S)\$(?![`$\w])", lambda found: _mathml(found[1], "inline"), text)


def _mathml(tex: str, display: str) -> str:
    return latex2mathml.converter.convert(" ".join(tex.split()), display=display)


def public_things() -> Iterator[tuple[str, str, Any]]:
    """Yields the page and the name of everything public, and what it stands for."""
    for page in PAGES:
        module = import_module(page)
        own = [name for name, thing in vars(module).items() if getattr(thing, "__module__", "") == page]
        names = getattr(module, "__all__", [name for name in own if not name.startswith("_")])
        yield from ((page, name, getattr(module, name)) for name in names)


def undescribed(name: str, thing: Any) -> list[str]:
    """Returns the parameters that no docstring describes, of a function, or of a class and its public methods."""
    if inspect.isfunction(thing):
        return _missing(name, thing, inspect.getdoc(thing))
    if not inspect.isclass(thing) or not thing.__module__.startswith("mixlab."):
        return []
    own = [base for base in thing.__mro__ if base.__module__.startswith("mixlab.")]
    others = [base for base in thing.__mro__ if base not in own]  # what overrides theirs is described there
    docs = "\n\n".join(inspect.cleandoc(doc) for base in own for doc in (base.__doc__, base.__init__.__doc__) if doc)
    missing = _missing(name, thing.__init__, docs) if any("__init__" in vars(base) for base in own) else []
    methods = {attribute: member for base in reversed(own) for attribute, member in vars(base).items()}
    for attribute, member in methods.items():
        method = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        public = not attribute.startswith("_") and not any(hasattr(base, attribute) for base in others)
        if public and inspect.isfunction(method):
            missing += _missing(f"{name}.{attribute}", method, inspect.getdoc(getattr(thing, attribute)))
    return missing


def _missing(name: str, function: Any, doc: str | None) -> list[str]:
    parameters = list(inspect.signature(function).parameters)
    known = described(doc or "")
    return [f"{name}: {each}" for each in parameters if each.lstrip("_") == each not in {"self", "cls", *known}]


def described(doc: str) -> set[str]:
    """Returns the names that a docstring describes under Args or Attributes.

    >>> sorted(described("Adds.\\n\\nArgs:\\n    a, b: Numbers: two.\\n        More of them.\\n    *more: Others."))
    ['a', 'b', 'more']
    """
    names = set()
    for section in re.findall(r"^(?:Args|Attributes):\n((?:[ \t]+.*\n|\n)*)", f"{doc}\n", re.MULTILINE):
        heads = re.findall(r"^([\w*, ]+)(?: \(.*\))?:", textwrap.dedent(section), re.MULTILINE)
        names |= {name.strip(" *") for head in heads for name in head.split(",")}
    return names


def all_undescribed() -> list[str]:
    """Returns "file  function: parameter" of everything public that no docstring describes."""
    return sorted(
        {f"{thing.__module__}  {each}" for _, name, thing in public_things() for each in undescribed(name, thing)}
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        build(Path(sys.argv[1]))
    else:
        print(*all_undescribed(), sep="\n")  # noqa: T201
