"""Time a whole training step of a spiking ResNet against SpikingJelly's with the same weights and convolutions."""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from mmengine.logging import MMLogger
from rich.progress import track
from torch import nn

from mmsnn.analysis import pairing
from mmsnn.models import SEWResNet, SpikingResNet
from mmsnn.neurons import Neuron
from mmsnn.refusals import run_main

PEER = Path(__file__).with_name('spikingjelly_peer.py')
OURS = 'mmsnn'
CLASSES = 1000
NETWORKS = dict(sew=SEWResNet, spiking=SpikingResNet)


class Classifier(nn.Module):
    """A spiking ResNet, global pooling and a linear layer."""

    def __init__(self, network, depth, T, neuron, **backbone):
        super().__init__()
        self.backbone = NETWORKS[network](depth, T=T, neuron=dict(type='LIF', **neuron), out_indices=(3,), **backbone)
        self.fc = nn.Linear(self.backbone.out_channels[0], CLASSES)

    def forward(self, x):
        return self.fc(self.backbone(x)[0].mean((2, 3)))

    def theirs(self):
        """The weights with SpikingJelly's names."""
        return {key.removeprefix('backbone.'): value for key, value in self.state_dict().items()}


class Side:
    """One network with its optimizer."""

    def __init__(self, args, weights=None, neuron=None, **backbone):
        self.args = args
        neuron = dict(v_threshold=args.v_threshold, **(neuron or {}))
        self.net = Classifier(args.network, args.depth, args.T, neuron, **backbone).to(args.device)
        if weights:
            self.net.load_state_dict(weights)
        if args.channels_last:
            self.net = self.net.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=args.lr)

    def loss(self, x, labels, amp):
        device = torch.device(self.args.device).type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=amp):
            self.logits = self.net(x)
            return nn.functional.cross_entropy(self.logits.float(), labels)

    def step(self, x, labels):
        """Train on one batch."""
        self.optimizer.zero_grad()
        self.loss(x, labels, self.args.amp).backward()
        self.optimizer.step()

    def firing_rate(self, x):
        """Share of the neurons' outputs that are not 0 on ``x``, in training mode."""
        counts = []
        handles = [
            m.register_forward_hook(lambda _, inputs, out: counts.append((int(out.count_nonzero()), out.numel())))
            for m in self.net.modules()
            if isinstance(m, Neuron)
        ]
        with torch.no_grad():
            self.net(x)
        for handle in handles:
            handle.remove()
        fired, every = (sum(column) for column in zip(*counts))
        return fired / every

    def peak(self, x, labels):
        """Peak GPU memory of a step in bytes, beyond what is allocated before it."""
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self.step(x, labels)
        return torch.cuda.max_memory_allocated() - before


def main(argv=None):
    """Run the command line ``argv`` (default: ``sys.argv``)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--network', choices=NETWORKS, default='sew')
    parser.add_argument('--v-threshold', type=float, default=1.0, help='determines how many neurons fire')
    parser.add_argument('--depth', type=int, default=34, choices=[18, 34, 50, 101, 152])
    parser.add_argument('--T', type=int, default=4)
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--size', type=int, default=224, help='side of the images in pixels')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--amp', action='store_true', help='autocast to bfloat16')
    parser.add_argument('--channels-last', action='store_true', help='channels-last memory format, for mmsnn only')
    parser.add_argument('--lr', type=float, default=1e-3)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--peer', action='append', default=[], metavar='PYTHON[,BACKEND]', help='as in lif.py')
    parser.add_argument('--out', type=Path, help='write the results as JSON')
    args = parser.parse_args(argv)
    MMLogger.get_instance('mmsnn', log_level='WARNING')
    torch.manual_seed(0)
    frames = torch.randn(args.batch, args.T, 3, args.size, args.size, device=args.device)
    labels = torch.randint(CLASSES, (args.batch,), device=args.device)
    plain = Side(args)
    with torch.no_grad():  # with these weights the neurons of all blocks fire
        for module in plain.net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(1.0, 2.0)
    weights = {key: value.clone() for key, value in plain.net.state_dict().items()}
    ours = {
        OURS: plain,
        f'{OURS}, packed spikes': Side(args, weights, packed_spikes=True),
        f'{OURS}, packed spikes, events': Side(args, weights, packed_spikes='event'),
        f'{OURS}, norm apart': Side(args, weights, neuron=dict(fuse_norm=False)),
    }
    sides = {name: pairing.stopwatch(lambda s=s: s.step(frames, labels), args.device) for name, s in ours.items()}
    firing_rate = plain.firing_rate(frames)
    image = frames[:, 0].contiguous()
    still = Side(args, weights)
    sides[f'{OURS}, static image (stem once)'] = pairing.stopwatch(lambda: still.step(image, labels), args.device)
    parity, missing, peers = {}, {}, []
    with tempfile.TemporaryDirectory() as folder:
        for python, backend in [(sys.executable, None), *[(p.split(',') + [None])[:2] for p in args.peer]]:
            try:
                peer = pairing.Peer(PEER, python)
                peers.append(peer)
                name = f'SpikingJelly {peer.ask(op="version")["version"]}' + (f' {backend}' if backend else '')
                data = dict(weights=plain.net.theirs(), x=frames.transpose(0, 1).contiguous(), labels=labels)
                torch.save(data, f'{folder}/data.pt')
                # float64: in less, rounding moves potentials across thresholds, and 34 layers later all is different
                few = dict(data, x=data['x'][:, :2].double(), labels=labels[:2])
                torch.save(few, f'{folder}/few.pt')
                request = dict(what='sew', network=args.network, depth=args.depth, classes=CLASSES, lr=args.lr)
                request.update(v_threshold=args.v_threshold)
                request.update(device=args.device, threads=torch.get_num_threads())
                peer.ask(op='make', amp=False, data=f'{folder}/few.pt', **request)
                peer.ask(op='result', path=f'{folder}/result.pt')
                peer.ask(op='make', backend=backend, amp=args.amp, data=f'{folder}/data.pt', **request)
            except RuntimeError as error:
                missing[f'{python} {backend or ""}'.strip()] = str(error)
                continue
            theirs = torch.load(f'{folder}/result.pt', weights_only=True, map_location=args.device)
            check = Side(args, weights)
            check.net.double()
            check.loss(frames[:2].double(), labels[:2], amp=False)
            worst = (check.logits - theirs['logits']).abs().max() / check.logits.abs().max()
            if worst > 0.01:
                raise SystemExit(f'the logits of {name} differ by {worst:.1%} of the largest; no time is reported')
            parity[name] = dict(logits_differ=worst.item())
            sides[name] = lambda peer=peer: peer.ask(op='train')['seconds']
        try:
            for _ in track(range(1), description='steps'):
                table = pairing.compare(pairing.interleave(sides, args.rounds, warm_up=1), OURS)
        finally:
            for peer in peers:
                peer.close()
    case = dict(network=args.network, depth=args.depth, T=args.T, batch=args.batch, size=args.size, amp=args.amp)
    case.update(firing_rate=firing_rate, table=table, parity=parity, missing=missing)
    if args.device != 'cpu':
        case['peak_bytes'] = {name: side.peak(frames, labels) for name, side in ours.items()}
    kind = f'{NETWORKS[args.network].__name__}{args.depth}, T={args.T}, batch {args.batch}'
    print(f'training step of {kind}, {firing_rate:.1%} of neurons fire: relative to mmsnn, then absolute')
    print('\n'.join(pairing.lines(table)))
    for name, reason in missing.items():
        print(f'SpikingJelly in {name} is left out: {reason}')
    if args.out:
        pairing.save(args.out, pairing.circumstances(args.device), [case])


if __name__ == '__main__':
    run_main(main)
