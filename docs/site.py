"""Hooks of the site (mkdocs.yml): pages keep the places that they have in the repository, so that their links hold."""

import importlib
import inspect
import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ('configs', 'demo', 'docs', 'tools', 'weights')
SUFFIXES = {'.md', '.png', '.json', '.py', '.sh'}
# packages with a page of their own, made from what they export; a name stands on the first page that has it
PACKAGES = ['neurons', 'layers', 'models', 'distill.losses', 'distill', 'ops', 'analysis', 'visualize', 'inference']
PACKAGES += ['deploy', 'datasets', 'engine.hooks']
# a link, but for a picture, to another file of the repository
LINK = re.compile(r'(?<!!)\[([^\]]+)\]\((?!\w+:|#)([^)#\s]+)(#[^)]*)?\)')


def on_files(files: Files, config) -> Files:
    """The files of the site, by their paths in the repository."""
    # what the theme brings is no page of ours
    kept = [file for file in files if file.src_dir != config.docs_dir]
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob('*')) if path.suffix in SUFFIXES]
    for path in [*sorted(ROOT.glob('*.md')), *paths]:
        kept.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    shown: set[str] = set()
    for name in (*(f'mmsnn.{package}' for package in PACKAGES), 'mmsnn'):
        page = f'docs/api/{name.removeprefix("mmsnn.")}.md'
        kept.append(File.generated(config, page, content=reference_page(name, shown)))
    return Files(kept)


def reference_page(package: str, shown: set[str]) -> str:
    """Markdown that has mkdocstrings show what ``package`` exports, with links to what is on a page already.

    Args:
        package: its full name.
        shown: the names on earlier pages; those of this page are added.
    """
    module = importlib.import_module(package)
    entries, links = [], []
    for name in sorted(module.__all__, key=str.lower):
        member = getattr(module, name)
        if inspect.ismodule(member):
            full = member.__name__
        elif inspect.isclass(member) or inspect.isfunction(member):
            full = f'{member.__module__}.{member.__qualname__}'
        else:
            continue
        if full in shown:
            links.append(f'[`{name}`][{full}]')
        else:
            entries.append(f'::: {full}')
        shown.add(full)
    also = f'Exported here as well: {", ".join(links)}.' if links else ''
    return '\n\n'.join([f'# {package}', inspect.getdoc(module) or '', also, *entries]) + '\n'


def on_page_markdown(markdown: str, page, config, files: Files) -> str:
    """Link a folder by its page, and leave the words alone where the site has neither folder nor file."""
    here = (ROOT / page.file.src_uri).parent
    known = {file.src_uri for file in files}

    def linked(match: re.Match) -> str:
        words, target, anchor = match.groups('')
        path = (here / target).resolve()
        if path.is_dir():
            path, target = path / 'README.md', f'{target.rstrip("/")}/README.md'
        if path.exists() or (here / match[2]).exists():
            on_site = path.is_relative_to(ROOT) and path.relative_to(ROOT).as_posix() in known
            return f'[{words}]({target}{anchor})' if on_site else words
        # a link into nothing stays, and fails the build
        return match[0]

    return LINK.sub(linked, markdown)
