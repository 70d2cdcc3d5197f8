"""Training images that cannot be read: they are replaced and listed, and too many of them end the training."""

import logging
import os
from pathlib import Path

from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log

from .images import name_images

FILE = 'unreadable_images.txt'
# Largest share of samples of a data set.
MOST = 0.01


class Unreadable:
    """The list of images that cannot be read, a file in the work dir that workers write and the training reads.

    Args:
        folder: the work dir.
        size: number of samples in the data set.
    """

    def __init__(self, folder: str | Path, size: int):
        self.path, self.size = Path(folder, FILE), size
        self.read = 0
        self.replaced: set[str] = set()
        self.kept: set[str] = set()

    def clear(self) -> None:
        """Begin a list; images in that of an earlier training may have been repaired."""
        if is_main_process():
            self.path.unlink(missing_ok=True)
        barrier()

    def add(self, path: str, reason: str, kept: bool = False) -> None:
        """Add an image to the list; any process may call this."""
        line = f'{"kept" if kept else "replaced"}\t{path}\t{" ".join(reason.split())}\n'
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def check(self) -> None:
        """Log the images that were added since the last call.

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
                f'than {MOST:.0%}; {self.path} lists them with the reasons. Repair the files, or remove them from the '
                'annotations'
            )

    def _say(self, kind: str, path: str, reason: str) -> None:
        if not is_main_process():
            return
        if kind == 'kept':
            text = f'{path}: {reason}. Boxes are read in pixels of the actual image'
        else:
            text = f'{path} cannot be read: {reason}. The next sample takes its place'
        print_log(f'train_dataloader: {text}', logger='current', level=logging.WARNING)


class NamesImages(Hook):
    """Makes validation and testing end at an image that cannot be read, with its name, because the metrics would change
    without it.
    """

    def before_val(self, runner) -> None:
        """Wrap the loading of images in the validation set."""
        name_images(runner.val_loop.dataloader.dataset)

    def before_test(self, runner) -> None:
        """Wrap the loading of images in the test set."""
        name_images(runner.test_loop.dataloader.dataset)
