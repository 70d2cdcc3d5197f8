"""Processes that share a gloo group on the CPU, and what the tests have them do."""

import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.dist import all_reduce_params
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel, convert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import FlexibleRunner, Runner
from tiny import Noise, classifier

import mmsnn  # noqa: F401
from mmsnn.checkpoints.loading import CheckMatch
from mmsnn.layers import PoissonEncoder
from mmsnn.models import SEWResNet
from mmsnn.report import add_hook

STAGES = ['backbone.layer1', 'backbone.layer4']
LOSSES = dict(
    loss_feature=dict(type='FeatureMSE', student=STAGES, teacher=STAGES, connector=dict(type='ConvBN')),
    loss_response=dict(type='LogitKL', student='head', teacher='head', tau=2.0),
)


def run(work, folder: Path, *args, codes=(0, 0)) -> list:
    """``work(rank, folder, *args)`` in two processes, which must end with these exit codes; what they returned."""
    folder.mkdir(exist_ok=True)
    context = torch.multiprocessing.get_context('spawn')
    processes = [context.Process(target=_process, args=(rank, folder, work, args)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        process.kill()
    assert tuple(process.exitcode for process in processes) == codes
    return [torch.load(folder / f'{rank}.pth', weights_only=True) for rank in range(2)]


def _process(rank: int, folder: Path, work, args) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
    store = f'file://{folder}/store'
    dist.init_process_group('gloo', init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    torch.save(work(rank, folder, *args), folder / f'{rank}.pth')


# R12


def spiking(convert: bool = False, frozen_stem: bool = False) -> SEWResNet:
    """A backbone in float64; ``frozen_stem`` leaves the stem's norm to its running statistics."""
    torch.manual_seed(0)
    model = SEWResNet(18, T=2, base_channels=8, neuron=dict(type='LIF', v_threshold=0.5)).double().train()
    model.init_weights()
    if convert:
        model = convert_sync_batchnorm(model)
    if frozen_stem:
        model.bn1.eval()
    return model


def eight(events: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Eight images or event frames, and what the loss multiplies the outputs with."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(8, *shape, dtype=torch.float64, generator=generator)

    x = noise(2, 3, 32, 32) if events else noise(3, 32, 32)
    return x, [noise(8 * 2**i, 8 // 2**i, 8 // 2**i) for i in range(4)]


def observe(model: SEWResNet, images: slice, events: bool) -> dict:
    """Outputs, running statistics and gradients after one forward and backward."""
    x, weights = eight(events)
    outs = model(x[images])
    sum((out * weight[images]).sum() for out, weight in zip(outs, weights)).backward()
    return dict(
        outputs=[out.detach() for out in outs],
        statistics={k: v.clone() for k, v in model.named_buffers()},
        gradients={k: p.grad for k, p in model.named_parameters()},
    )


def share_statistics(rank: int, folder: Path, cases: dict) -> dict:
    """For every case one rank's view; gradients are summed over the ranks, as for a loss that is a sum."""
    found = {}
    for name, (first, events, convert) in cases.items():
        mine = slice(0, first) if rank == 0 else slice(first, 8)
        found[name] = observe(spiking(convert, frozen_stem=not events), mine, events)
        for gradient in found[name]['gradients'].values():
            dist.all_reduce(gradient)
    return found


# R23


def distiller(train: bool = False):
    """A Distiller in float64, the same in every process."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        student = classifier(True, neuron=dict(type='LIF', v_threshold=0.2))
        model = MODELS.build(dict(type='mmsnn.Distiller', student=student, teacher=classifier(False), losses=LOSSES))
    model.init_weights()
    return model.double().train(train)


def loss(model, images) -> torch.Tensor:
    """Mean loss over some images."""
    inner, data = getattr(model, 'module', model), Noise('mmpretrain', size=32)
    x = (data.images[list(images)].to(next(inner.parameters()).dtype) - 128) / 64
    return inner.parse_losses(model(x, [data.sample(i) for i in images], mode='loss'))[0]


def backward(model, images, factor: float = 1.0) -> None:
    """Add the gradients of the mean loss over some images, times ``factor``."""
    (loss(model, images) * factor).backward()


def gradients(model) -> dict:
    """Gradients of student and connectors by name."""
    return {name: p.grad.clone() for name, p in getattr(model, 'module', model).named_parameters()}


def wrap(model, **kwargs) -> MMDistributedDataParallel:
    """As mmengine's runner does."""
    return MMDistributedDataParallel(model, broadcast_buffers=False, **kwargs)


def share_gradients(rank: int, folder: Path, shares: dict) -> dict:
    """What one rank sees in one backward pass for each entry of ``shares``, and elsewhere; then rank 1 dies."""
    found = dict(sampled=list(DefaultSampler(range(7), shuffle=False)))
    image, encoder = torch.full((1, 1, 8, 8), 0.5), PoissonEncoder(T=4)
    found['poisson'] = dict(training=encoder.train()(image), testing=encoder.eval()(image))
    for name, images in shares.items():
        model = wrap(distiller())
        backward(model, images[rank])
        found[name] = gradients(model)
    model = wrap(distiller())
    with model.no_sync():
        backward(model, shares['even'][rank][:1], 0.5)
    found['local'] = gradients(model)
    backward(model, shares['even'][rank][1:], 0.5)
    found['accumulated'] = gradients(model)

    model = distiller(train=True)
    backward(wrap(model), shares['even'][rank])
    found['own statistics'] = gradients(model)
    found['statistics'] = {k: v.clone() for k, v in model.named_buffers()}
    # as mmengine's SyncBuffersHook does
    all_reduce_params(model.buffers(), op='mean')
    found['mean statistics'] = {k: v.clone() for k, v in model.named_buffers()}

    model = distiller()
    weight = next(model.teacher.model.parameters())
    weight.fill_(rank)
    wrapped = wrap(model)
    logged = wrapped._get_ddp_logging_data()
    found['reducer'] = dict(
        tensors=logged['num_parameter_tensors'],
        expected=len([*model.student.parameters(), *model.connectors.parameters()]),
        teacher=weight.unique().tolist(),
    )
    found['stalled'] = wait_for_the_other(rank, folder)
    model = wrap(distiller())
    if rank == 1:
        torch.save(found, folder / '1.pth')
        os.kill(os.getpid(), signal.SIGKILL)
    # no launcher is there to tell rank 0
    found['killed'] = seconds_to_error(model, [0])
    return found


def seconds_to_error(model, images) -> tuple[float, str]:
    """How long a backward pass lasts that cannot succeed, and what it says."""
    start = time.time()
    try:
        backward(model, images)
    except RuntimeError as error:
        return time.time() - start, str(error)
    return 0.0, ''


def wait_for_the_other(rank: int, folder: Path):
    """Rank 1 stands still; rank 0's group has a timeout of 8 seconds."""
    model = wrap(distiller(), process_group=dist.new_group(timeout=timedelta(seconds=8)))
    done = folder / 'done'
    if rank == 0:
        seen = seconds_to_error(model, [0])
        done.touch()
        return seen
    while not done.exists():
        time.sleep(0.1)


# FSDP


def train(folder: Path, kind=Runner, **kwargs):
    """Four steps of a distilled Spikify in training mode, which runs through every wrapper; the runner."""
    ann = classifier(False)
    spikify = dict(type='mmsnn.Spikify', backbone=ann['backbone'], T=2, neuron=dict(type='LIF', v_threshold=0.2))
    run = kind(
        model=dict(
            type='mmsnn.Distiller', student={**ann, 'backbone': spikify}, teacher=classifier(False), losses=LOSSES
        ),
        work_dir=str(folder),
        train_dataloader=dict(
            dataset=Noise('mmpretrain', size=32), batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler')
        ),
        train_cfg=dict(by_epoch=False, max_iters=4),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9), clip_grad=dict(max_norm=0.5)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)),
        custom_hooks=[
            *(dict(type=f'mmsnn.{name}') for name in ('DistillHook', 'TimeFoldingHook', 'FiringRateHook')),
            dict(type=CheckMatch),
        ],
        launcher='pytorch',
        env_cfg=dict(),
        randomness=dict(seed=0),
        default_scope='mmpretrain',
        log_level='ERROR',
        experiment_name=f'{folder}',
        **kwargs,
    )
    run.train()
    return run


def shard(rank: int, folder: Path) -> dict:
    """The same training under DDP, under FSDP, and under FSDP from the middle on; how much a rank held."""
    wrapper = dict(type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None)
    whole = train(folder / 'ddp', cfg=dict(model_wrapper_cfg=wrapper)).model

    def sharded(work_dir, **settings):
        # a dict of its own, because the runner writes its folder into it
        return train(work_dir, kind=FlexibleRunner, strategy=dict(type='mmsnn.FSDPStrategy'), **settings)

    part = sharded(folder / 'fsdp').model
    sharded(folder / 'resumed', resume=True, load_from=str(folder / 'fsdp' / 'iter_2.pth'))
    return dict(
        whole=sum(p.numel() for p in whole.parameters()),
        part=sum(p.numel() for p in part.parameters()),
    )


class KillRankOne(Hook):
    """Kills the process with rank 1 before the third iteration, and says when."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.rank == 1 and runner.iter == 2:
            (Path(runner.work_dir) / 'killed').touch()
            os.kill(os.getpid(), signal.SIGKILL)


def report(rank: int, folder: Path, config: str) -> dict:
    """A training that writes its report, in an empty working directory."""
    (folder / 'here').mkdir(exist_ok=True)
    os.chdir(folder / 'here')
    os.environ['MMSNN_REPORT'] = '1'
    cfg = add_hook(Config.fromfile(config))
    cfg.work_dir = str(folder / 'run')
    Runner.from_cfg(cfg).train()
    return {}
