"""The additions of tools/test.py to mmengine's test loop: a progress bar, drawing, and test-time augmentation."""

import os.path as osp
from copy import deepcopy

from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# By default_scope: the hook that draws, the visualizer, and the arguments that enable the hook.
DRAWING = dict(
    mmdet=('DetVisualizationHook', 'DetLocalVisualizer', dict(draw=True)),
    mmseg=('SegVisualizationHook', 'SegLocalVisualizer', dict(draw=True)),
    mmpretrain=('VisualizationHook', 'UniversalVisualizer', dict(enable=True, interval=1)),
)
# The types have no scope, because mmdet's is registered in mmengine.
TTA_MODELS = dict(
    mmdet=dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)),
    mmseg=dict(type='SegTTAModel'),
    mmpretrain=dict(type='AverageClsScoreTTA'),
)


class ProgressBar(Hook):
    """A progress bar over the test set with the remaining time, on the main process."""

    def before_test_epoch(self, runner) -> None:
        self.bar = Progress(
            TextColumn('testing'),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn('left:'),
            TimeRemainingColumn(),
            disable=not is_main_process(),
        )
        self.task = self.bar.add_task('', total=len(runner.test_dataloader))
        self.bar.start()

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self.bar.advance(self.task)

    def close(self) -> None:
        """Stop drawing the bar; call it also after an error."""
        if hasattr(self, 'bar'):
            self.bar.stop()


def _task(cfg: Config, option: str) -> str:
    scope = cfg.get('default_scope')
    if scope not in DRAWING:
        raise ValueError(f'{option} needs a default_scope of {", ".join(DRAWING)} in the config, got {scope!r}')
    return scope


def draw_results(cfg: Config, *, show: bool, folder: str | None, wait_time: float = 2) -> None:
    """Make the task library's own hook draw the predictions in a window or into ``folder``.

    Raises:
        ValueError: the config has no ``default_scope`` of mmdet, mmseg or mmpretrain.
    """
    task = _task(cfg, '--show')
    kind, visualizer, switch = DRAWING[task]
    hooks = cfg.setdefault('default_hooks', ConfigDict())
    hook = hooks.get('visualization') or dict(type=f'{task}.{kind}')
    hook = {**hook, **switch, 'show': show, 'wait_time': wait_time}
    if cfg.get('visualizer') is None:
        cfg.visualizer = dict(type=f'{task}.{visualizer}', vis_backends=[dict(type='LocalVisBackend')])
    # The path is absolute, because mmdet's hook would append a relative folder to the last one for every batch.
    folder = osp.abspath(folder) if folder else None
    if folder and task == 'mmseg':
        cfg.visualizer.save_dir = folder
    elif folder:
        hook['out_dir' if task == 'mmpretrain' else 'test_out_dir'] = folder
    hooks.visualization = hook


def use_tta(cfg: Config) -> None:
    """Wrap the model for test-time augmentation: the config's ``tta_model`` and ``tta_pipeline``, or flipping.

    Raises:
        ValueError: one of them is needed and the config has no ``default_scope`` of mmdet, mmseg or mmpretrain.
    """
    model = cfg.get('tta_model') or TTA_MODELS[_task(cfg, '--tta')]
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    dataset.pipeline = cfg.get('tta_pipeline') or _flipped(dataset.pipeline)
    cfg.model = ConfigDict({**model, 'module': cfg.model})


def _flipped(pipeline: list[dict]) -> list[dict]:
    """The pipeline with test-time augmentation: with and without a horizontal flip."""
    *head, pack = deepcopy(pipeline)
    if 'meta_keys' in pack:
        # Predictions must be flipped back before they are merged.
        pack['meta_keys'] = (*pack['meta_keys'], 'flip', 'flip_direction')
    flips = [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)]
    return [*head, dict(type='TestTimeAug', transforms=[flips, [pack]])]
