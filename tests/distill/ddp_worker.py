"""One rank of `test_distiller.TestDistributed`; with a world size of 1 the run that it is compared with."""

import sys

import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope
from tiny import Noise, classifier

import mmsnn  # noqa: F401

STAGES = ['backbone.layer1', 'backbone.layer4']
LOSSES = dict(
    loss_feature=dict(type='FeatureMSE', student=STAGES, teacher=STAGES, connector=dict(type='ConvBN')),
    # stops after one iteration, and stays in the graph: DDP waits for the gradients of its connectors
    loss_early=dict(
        type='FeatureMSE',
        student=STAGES[0],
        teacher=STAGES[0],
        connector=dict(type='ConvBN'),
        weight=dict(by='iter', stop=1),
    ),
    loss_response=dict(type='LogitKL', student='head', teacher='head', tau=2.0),
)


def main(rank: int, world_size: int, store: str, out: str) -> None:
    """Three steps on 4 images, shared out among the ranks; the weights go to ``out``."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        cfg = dict(type='mmsnn.Distiller', student=classifier(True), teacher=classifier(False), losses=LOSSES)
        model = MODELS.build(cfg)
    model.init_weights()
    # statistics of a part of the batch are not those of the whole
    model.eval()
    model.hooked = True
    wrapped = model
    if world_size > 1:
        torch.distributed.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=world_size)
        wrapped = MMDistributedDataParallel(model)
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))
    share = 4 // world_size
    for i in range(3):
        model.progress.iter = i
        wrapped.train_step(Noise('mmpretrain').batch(*range(rank * share, rank * share + share)), optimizer)
    if rank == 0:
        torch.save(dict(student=model.state_dict(), connectors=model.connectors.state_dict()), out)


if __name__ == '__main__':
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
