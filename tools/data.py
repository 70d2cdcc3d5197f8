"""Say where a data set comes from and belongs, fetch it, build its layout from what is there, and count its files."""

import argparse
from pathlib import Path

from mmsnn.refusals import run_main


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('name', nargs='?', help='of the data set: coco, bccd, cifar10 ...; without one, all are listed')
    parser.add_argument(
        '--from',
        dest='given',
        type=Path,
        metavar='PATH',
        help='an archive, or a folder with the archives or with what was in them: the layout is built of links to it',
    )
    parser.add_argument('--to', type=Path, metavar='FOLDER', help='the layout; default: where the configs look for it')
    parser.add_argument('--download', action='store_true', help='fetch what is missing, going on with what broke off')
    args = parser.parse_args(argv)
    if args.download and args.given:
        parser.error('--download builds the layout of what it fetches, --from of what is there: give one of them')
    return args


def main(argv=None) -> int:
    """Run the command line ``argv`` (default: ``sys.argv``); returns 0 where the data set is whole, else 1."""
    args = parse_args(argv)
    # not before the command line is read: it takes seconds
    from mmsnn.datasets.catalogue import SOURCES
    from mmsnn.datasets.preparing import fetch, prepare, verify

    if args.name is None:
        for name, source in SOURCES.items():
            print(f'{name:<14}{source.title}')
        return 0
    if args.name not in SOURCES:
        raise SystemExit(f'there is no data set {args.name!r}: choose one of {", ".join(SOURCES)}')
    source = SOURCES[args.name]
    root = args.to or source.folder()
    print(f'{source.title}\n  page      {source.page}\n  licence   {source.licence}\n  lies in   {root}')
    try:
        for file in source.files:
            by_hand = '' if file.fetched else '  (a person has to fetch it)'
            print(f'  file      {file.name}  {file.url}  md5 {file.md5 or "unknown"}{by_hand}')
        if source.note:
            print(f'  note      {source.note}')
        if args.download:
            for file in source.files:
                print(f'fetching {file.name}')
                fetch(file, root / 'download')
        given = root / 'download' if args.download else args.given
        if given is not None:
            prepare(source, given, root)
    except (OSError, ValueError, ImportError) as error:
        raise SystemExit(f'{args.name}: {error}') from error
    found = verify(source, root)
    for check in found:
        print(f'  {"whole" if check.whole else "LACKS":<10}{check.path}: {check.text}')
    whole = bool(found) and all(check.whole for check in found)
    if not whole:
        hint = '' if given else f'; mmsnn data {args.name} --from PATH builds it of what you have'
        print(f'{args.name} is not whole in {root}{hint}')
    return 0 if whole else 1


if __name__ == '__main__':
    raise SystemExit(run_main(main))
