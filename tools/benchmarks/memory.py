"""Count the bytes that conv-norm-LIF blocks keep between forward and backward, in mmsnn and in SpikingJelly."""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

from mmsnn.analysis import pairing
from mmsnn.layers import SpikeConv2d
from mmsnn.neurons import LIF
from mmsnn.refusals import run_main

PEER = Path(__file__).with_name('spikingjelly_peer.py')


class Blocks(nn.Module):
    """A sequence of convolutions of spikes, each followed by a norm and a neuron."""

    def __init__(self, channels, T, blocks, packed=False, fused=True):
        super().__init__()
        convs = [nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(blocks)]
        self.convs = nn.ModuleList([SpikeConv2d.like(c, 1) if packed else c for c in convs])
        self.norms = nn.ModuleList([nn.BatchNorm2d(channels) for _ in range(blocks)])
        self.neurons = nn.ModuleList([LIF(T, fuse_norm=fused) for _ in range(blocks)])

    def forward(self, x):
        for conv, norm, neuron in zip(self.convs, self.norms, self.neurons):
            x = neuron.after_norm(norm, conv(x))
        return x


def kept(net, x):
    """Bytes that a forward pass saves for backward, without parameters, buffers and the input; and the output."""
    own = {t.untyped_storage().data_ptr() for t in [*net.parameters(), *net.buffers(), x]}
    sizes = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = net(x)
    return sum(sizes.values()), out


def main(argv=None):
    """Run the command line ``argv`` (default: ``sys.argv``)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--shape', type=int, nargs=5, default=[4, 8, 64, 28, 28], help='T, B, C, H, W')
    parser.add_argument('--blocks', type=int, default=6)
    parser.add_argument('--dtype', choices=['float32', 'bfloat16'], default='float32')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--out', type=Path, help='write the results as JSON')
    args = parser.parse_args(argv)
    T, B, C, H, W = args.shape
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    x = torch.rand(T * B, C, H, W, device=args.device).round().to(dtype)
    elements = x.numel() * args.blocks
    kinds = {'mmsnn': {}, 'mmsnn, packed spikes': dict(packed=True), 'mmsnn, norm apart': dict(fused=False)}
    ratios = {}
    for name, options in kinds.items():
        net = Blocks(C, T, args.blocks, **options).to(args.device, dtype)
        ratios[name] = kept(net, x)[0] / elements
    with tempfile.TemporaryDirectory() as folder:
        peer = pairing.Peer(PEER, sys.executable)
        torch.save(dict(x=x.view(T, B, C, H, W).float()), f'{folder}/data.pt')
        settings = dict(tau=2.0, v_reset=0.0, decay_input=True, detach_reset=False, surrogate='atan')
        where = dict(device=args.device, threads=torch.get_num_threads(), data=f'{folder}/data.pt')
        version = peer.ask(op='version')['version']
        peer.ask(op='make', what='block', blocks=args.blocks, **settings, **where)
        theirs = ratios[f'SpikingJelly {version} (float32)'] = peer.ask(op='kept')['bytes'] / elements
        peer.close()
    print(f'bytes kept per element of a conv-norm-LIF block, {args.dtype}, T={T}')
    for name, value in ratios.items():
        print(f'{name:<34}{value:8.2f}    {value / theirs:5.2f} of SpikingJelly')
    if args.out:
        case = dict(shape=args.shape, blocks=args.blocks, dtype=args.dtype, bytes_per_element=ratios)
        pairing.save(args.out, pairing.circumstances(args.device), [case])


if __name__ == '__main__':
    run_main(main)
