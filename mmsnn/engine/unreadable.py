"""Training images that cannot be read: counted, named, others in their place, and an end above a hundredth of them."""

import logging
import os
from pathlib import Path

from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log

from .images import name_images

FILE = 'unreadable_images.txt'
# of a data set
MOST = 0.01


class Unreadable:
    """The list of such images in a work dir, to which the processes that load data add and which the training reads.

    Args:
        folder: the work dir.
        size: number of samples of the data set.
    """

    def __init__(self, folder: str | Path, size: int):
        self.path, self.size = Path(folder, FILE), size
        # what an earlier training wrote down may be mended
        if is_main_process():
            self.path.unlink(missing_ok=True)
        barrier()
        self.read = 0
        self.replaced: set[str] = set()
        self.kept: set[str] = set()

    def add(self, path: str, reason: str, kept: bool = False) -> None:
        """Write an image down, in whatever process."""
        line = f'{"kept" if kept else "replaced"}\t{path}\t{" ".join(reason.split())}\n'
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def check(self) -> None:
        """Say what was added.

        Raises:
            ValueError: more than a hundredth of the samples cannot be read.
        """
        try:
            if os.stat(self.path).st_size == self.read:
                return
        except FileNotFoundError:
            return
        content = self.path.read_bytes()
        self.read = len(content)
        for line in content.decode(errors='replace').splitlines():
            kind, _, rest = line.partition('\t')
            path, _, reason = rest.partition('\t')
            known = self.kept if kind == 'kept' else self.replaced
            if path not in known:
                known.add(path)
                self._say(kind, path, reason)
        if len(self.replaced) > MOST * self.size:
            raise ValueError(
                f'train_dataloader: {len(self.replaced)} of {self.size} samples have images that cannot be read, more '
                f'than {MOST:.0%}; {self.path} lists them with the reasons. Mend the files, or take them out of the '
                'annotations'
            )

    def _say(self, kind: str, path: str, reason: str) -> None:
        if not is_main_process():
            return
        if kind == 'kept':
            text = f'{path}: {reason}. Boxes are read in pixels of the image as it is'
        else:
            text = f'{path} cannot be read: {reason}. The next sample takes its place'
        print_log(f'train_dataloader: {text}', logger='current', level=logging.WARNING)


class NamesImages(Hook):
    """Validation and testing name an image that cannot be read, and end: without it, their figures would be others."""

    def before_val(self, runner) -> None:
        """The validation's images."""
        name_images(runner.val_loop.dataloader.dataset)

    def before_test(self, runner) -> None:
        """The test's images."""
        name_images(runner.test_loop.dataloader.dataset)
