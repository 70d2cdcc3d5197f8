"""``mmsnn COMMAND ...`` (or ``python -m mmsnn``) runs the tools and demos from any folder; alone, it lists them."""

import ast
import gc
import re
import runpy
import sys
from pathlib import Path

from .shipped import home

# The commands that this file implements itself, with their help.
OWN = dict(
    completion='Print a shell\'s completion: eval "$(mmsnn completion bash)" (or zsh), mmsnn completion fish | source.',
    env='Print the versions a report of a problem should name.',
)


def scripts() -> dict[str, Path]:
    """The Python files under ``tools`` and ``demo`` that can be run, by their names without the suffix."""
    files = [*sorted((home() / 'tools').rglob('*.py')), *sorted((home() / 'demo').glob('*.py'))]
    return {path.stem: path for path in files if '__main__' in path.read_text(encoding='utf-8')}


def listing() -> str:
    """The list of commands, each with the first line of its docstring."""
    lines = ['mmsnn COMMAND ...', '', *[f'  {name:<24}{said}' for name, said in OWN.items()]]
    for name, path in scripts().items():
        doc = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or ''
        lines.append(f'  {name:<24}{doc.partition(chr(10))[0]}'.rstrip())
    return '\n'.join([*lines, '', 'COMMAND --help tells more.'])


def options(path: Path) -> list[str]:
    """The long options of a tool, read from its source and from the source of the options that all tools share."""
    shared = {'add_arguments(': 'cli.py', 'add_cfg_options(': 'options.py'}
    texts = [path.read_text(encoding='utf-8')]
    for call, file in shared.items():
        if call in texts[0] or (call == 'add_cfg_options(' and 'add_arguments(' in texts[0]):
            texts.append(Path(__file__).with_name('engine').joinpath(file).read_text(encoding='utf-8'))
    return sorted(
        {*re.findall(r"""['"](--[a-zA-Z][\w-]*)['"]""", ''.join(texts)), '--help'} - {'--local_rank', '--local-rank'}
    )


def kinds(path: Path) -> list[str]:
    """What ``mmsnn list`` lists: the keys of the dicts in its source."""
    tables = [
        node.value
        for node in ast.parse(path.read_text(encoding='utf-8')).body
        if isinstance(node, ast.Assign) and node.targets[0].id in ('KINDS', 'FILES')
    ]
    return [keyword.arg for table in tables for keyword in table.keywords]


def completion(shell: str) -> str:
    """Code for ``shell`` that completes commands, their options, and files.

    Raises:
        SystemExit: ``shell`` is not bash, zsh or fish.
    """
    known = {name: options(path) for name, path in scripts().items()}
    commands = [*OWN, *known]
    if shell == 'fish':
        lines = ['complete -c mmsnn -f -n __fish_use_subcommand -a "' + ' '.join(commands) + '"']
        for name, flags in known.items():
            lines += [f"complete -c mmsnn -n '__fish_seen_subcommand_from {name}' -l {o[2:]}" for o in flags]
        return '\n'.join(lines)
    if shell not in ('bash', 'zsh'):
        raise SystemExit(f'completion exists for bash, zsh and fish, not for {shell!r}')
    known['list'] = [*kinds(scripts()['list']), '--help']
    cases = '\n'.join(f'    {name}) options="{" ".join(flags)}" ;;' for name, flags in known.items())
    # zsh can run bash's completions.
    first = 'autoload -U +X bashcompinit && bashcompinit\n' if shell == 'zsh' else ''
    return f"""{first}_mmsnn() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" options=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{' '.join(commands)}" -- "$word")); return
  fi
  case "${{COMP_WORDS[1]}}" in
    completion) options="bash zsh fish" ;;
{cases}
  esac
  case "$word" in
    -*) COMPREPLY=($(compgen -W "$options" -- "$word")) ;;
    *) COMPREPLY=($(compgen -f -- "$word"))
       case "${{COMP_WORDS[1]}}" in completion|list) COMPREPLY=($(compgen -W "$options" -- "$word")) ;; esac ;;
  esac
}}
complete -o filenames -F _mmsnn mmsnn"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command that is the first of ``arguments`` (default: the command line) with the others.

    Raises:
        SystemExit: there is no such command; the message lists all commands.
    """
    own = arguments is None
    arguments = sys.argv[1:] if own else arguments
    if not arguments or arguments[0] in ('-h', '--help'):
        print(listing())
        return
    command, *rest = arguments
    if command in OWN and {'-h', '--help'} & set(rest):
        print(f'mmsnn {command}: {OWN[command]}')
        return
    if command == 'env':
        # not before it is needed: the list of commands is to come at once
        from .environment import versions

        print('\n'.join(f'{name:<14}{value}' for name, value in versions().items()))
        return
    if command == 'completion':
        print(completion(rest[0] if rest else 'bash'))
        return
    path = scripts().get(command)
    if path is None:
        raise SystemExit(f'no command {command!r}\n\n{listing()}')
    if {'-h', '--help'} & set(rest):
        from . import quick_help

        if quick_help.show(path, rest):
            return
    if own and rest:
        # among some hundred thousand objects that are being imported there is no garbage; run_main enables it again
        gc.disable()
    # As with `python FILE`, scripts may import modules of their own folder.
    sys.path.insert(0, str(path.parent))
    sys.argv = [str(path), *rest]
    runpy.run_path(str(path), run_name='__main__')


if __name__ == '__main__':
    main()
