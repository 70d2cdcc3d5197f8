"""Loading a trained task model for single images, without data loaders and runners."""

from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope

from mmsnn.building import build_model, read, type_name, use_student

from .claims import require_file
from .fitting import fit
from .origin import mention_origin
from .reading import find_state, load_file


def load_model(config: str | Config, checkpoint: str | None, device: str = 'cpu'):
    """Build the task model of a config and load its weights; a distillation config gives its student.

    Args:
        config: a config, the path of its file, or ``mmsnn::PATH`` for a config of mmsnn.
        checkpoint: path of the weights or ``mmsnn://NAME``, read with ``weights_only=True``; None keeps random weights.
        device: name of a torch device.

    Returns:
        The model in eval mode. Its attribute ``cfg`` is the config, and ``classes`` a list of class names or None.

    Raises:
        FileNotFoundError: there is no such config or checkpoint.
        ValueError: the checkpoint holds more than tensors and plain containers, has no weights, or does not fit.
    """
    cfg = use_student(read(config) if isinstance(config, str) else config)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    model = build_model(cfg)
    meta = ((cfg.get('test_dataloader') or {}).get('dataset') or {}).get('metainfo') or {}
    if checkpoint is not None:
        require_file(checkpoint)
        content = load_file(checkpoint)
        model.load_state_dict(fit(model, find_state(content, checkpoint), checkpoint), strict=False)
        mention_origin(content, cfg.model, checkpoint)
        meta = content.get('meta', {}).get('dataset_meta') or meta
    model.cfg, model.classes = cfg, meta.get('classes')
    return model.to(device).eval()


def load_batch(cfg: Config, image: str | Path) -> dict:
    """One image as a batch of the config's test data loader, without annotations."""
    dataset = cfg.test_dataloader.dataset
    # one that repeats or concatenates others
    while 'pipeline' not in dataset and ('dataset' in dataset or dataset.get('datasets')):
        dataset = dataset.get('dataset') or dataset.datasets[0]
    steps = [t for t in dataset.pipeline if 'Annotations' not in type_name(t)]
    return pseudo_collate([Compose(steps)(dict(img_path=str(image), img_id=0, sample_idx=0))])
