"""Add to the site, while mkdocs builds it, what is made from code and from the checkout."""

import re
import sys
from pathlib import Path
from posixpath import normpath, relpath
from textwrap import indent

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # `mkdocs` runs this file by its path
from bench.cli import main  # noqa: E402
from docs.reference_pages import PARTS, method_pages  # noqa: E402

METHODS = "reference/methods"
EXAMPLES = re.compile(r"(?<=\x08\n)(?:.+\n?)+")
"""Lines of a help text that click prints as they are."""
PART = re.compile(r"^<!-- (\w+) -->$", re.MULTILINE)
PICTURE = re.compile(r"(?<=\]\()(?:\.\./)+((?:results|reports)/[^)]+\.(?:png|svg))(?=\))")
"""A picture outside docs: group 1 is its path in the checkout."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the pages of the methods in the navigation, and make code of the commands' examples."""
    for command in (main, *main.commands.values()):
        command.help = EXAMPLES.sub(lambda lines: indent(lines[0], "    "), command.help or "")
    pages = [f"{METHODS}/{name}.md" for name in method_pages()]
    reference = next(item["Reference"] for item in config.nav or () if "Reference" in item)
    next(item for item in reference if "Methods" in item)["Methods"] = pages
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the methods, and the pictures that pages show from the checkout."""
    for name, page in method_pages().items():
        files.append(File.generated(config, f"{METHODS}/{name}.md", content=page))
    shown = {path for file in files.documentation_pages() for path in PICTURE.findall(_text(file))}
    for path in sorted(shown):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def _text(file: File) -> str:
    return str(file.content_string)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in the parts that are made from code, and point to the site's copy of pictures."""
    folder = page.file.src_uri.rpartition("/")[0]
    filled = PART.sub(lambda part: PARTS[part[1]](), markdown)
    return PICTURE.sub(lambda found: relpath(normpath(found[1]), folder or "."), filled)
