"""SpikingJelly's side of the benchmarks, in its own process, so that several versions can be compared.

It does not need mmsnn. It reads requests as lines of JSON from stdin and answers them on stdout.
"""

import importlib
import json
import sys
import time

import torch
from torch import nn


def synchronize(device):
    if device != 'cpu':
        torch.cuda.synchronize()


def surrogate(name):
    module = importlib.import_module('spikingjelly.activation_based.surrogate')
    kinds = dict(triangle='PiecewiseQuadratic', atan='ATan', sigmoid='Sigmoid', rectangle='Rect')
    return getattr(module, kinds[name])()


def make_neuron(request):
    """A LIF neuron with the request's settings, in multi-step mode."""
    module = importlib.import_module('spikingjelly.activation_based.neuron')
    settings = dict(tau=request['tau'], v_reset=request['v_reset'], decay_input=request['decay_input'])
    settings.update(detach_reset=request['detach_reset'], surrogate_function=surrogate(request['surrogate']))
    backend = request.get('backend')
    return module.LIFNode(step_mode='m', **settings, **(dict(backend=backend) if backend else {}))


class Lif:
    """A LIF neuron by itself, from inputs ``[T, B, ...]`` to spikes."""

    def __init__(self, request, data):
        self.net = make_neuron(request).to(data['x'].device)
        self.x, self.grad = data['x'].requires_grad_(), data['grad']

    def train(self):
        self.x.grad = None
        self.out = self.net(self.x)
        self.out.backward(self.grad)
        self.net.reset()

    def infer(self):
        with torch.no_grad():
            self.net(self.x)
        self.net.reset()

    def result(self):
        self.train()
        return dict(out=self.out.detach(), grad=self.x.grad)


class SEW:
    """SpikingJelly's SEW-ResNet, or spiking ResNet, on frames ``[T, B, 3, H, W]``: training steps and inference."""

    def __init__(self, request, data):
        base = 'spikingjelly.activation_based.'
        self.functional = importlib.import_module(base + 'functional')
        network = request.get('network', 'sew')
        models = importlib.import_module(f'{base}model.{network}_resnet')
        neuron = importlib.import_module(base + 'neuron')
        self.device, self.amp = request['device'], request['amp']
        make = getattr(models, f'{network}_resnet{request["depth"]}')
        neurons = dict(surrogate_function=surrogate('atan'), tau=2.0, v_threshold=request.get('v_threshold', 1.0))
        neurons.update(dict(cnf='ADD') if network == 'sew' else {})
        self.net = make(spiking_neuron=neuron.LIFNode, num_classes=request['classes'], **neurons)
        self.functional.set_step_mode(self.net, 'm')
        if request.get('backend'):
            self.functional.set_backend(self.net, request['backend'], neuron.LIFNode)
        self.net.load_state_dict(data['weights'])
        self.net.to(self.device, data['x'].dtype)
        self.x, self.labels = data['x'], data['labels']
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=request['lr'])

    def loss(self):
        with torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16, enabled=self.amp):
            self.logits = self.net(self.x).mean(0)
            return nn.functional.cross_entropy(self.logits.float(), self.labels)

    def train(self):
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()
        self.functional.reset_net(self.net)

    def infer(self):
        self.net.eval()
        with torch.no_grad():
            self.loss()
        self.functional.reset_net(self.net)
        self.net.train()

    def logits_in_evaluation(self):
        """The logits in evaluation mode, as `infer` computes them."""
        self.infer()
        return dict(logits=self.logits)

    def result(self):
        self.loss().backward()
        self.functional.reset_net(self.net)
        grads = {name: p.grad.clone() for name, p in self.net.named_parameters()}
        self.optimizer.zero_grad()
        return dict(logits=self.logits.detach(), grads=grads)


class Block:
    """Blocks of convolution, batch norm and LIF, to measure the memory that they keep."""

    def __init__(self, request, data):
        layer = importlib.import_module('spikingjelly.activation_based.layer')
        c = data['x'].shape[2]
        parts = []
        for _ in range(request['blocks']):
            parts += [layer.Conv2d(c, c, 3, padding=1, bias=False, step_mode='m'), layer.BatchNorm2d(c, step_mode='m')]
            parts += [make_neuron(request)]
        self.net, self.x = nn.Sequential(*parts).to(data['x'].device), data['x'].requires_grad_()

    def kept(self):
        """Bytes that a forward pass saves for backward, without parameters and the input."""
        own = {p.untyped_storage().data_ptr() for p in self.net.parameters()}
        sizes = {}

        def keep(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        before = torch.cuda.memory_allocated() if self.x.is_cuda else 0
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = self.net(self.x)
        if self.x.is_cuda:
            out = out.sum()
            return dict(bytes=torch.cuda.memory_allocated() - before)
        sizes.pop(self.x.untyped_storage().data_ptr(), None)
        return dict(bytes=sum(sizes.values()), out=list(out.shape))


def main():
    """Answer requests until stdin ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    side = None
    for line in sys.stdin:
        request = json.loads(line)
        op = request.pop('op')
        answer = {}
        if op == 'version':
            metadata = importlib.import_module('importlib.metadata')
            answer = dict(version=metadata.version('spikingjelly'))
        elif op == 'make':
            torch.set_num_threads(request['threads'])
            data = torch.load(request['data'], weights_only=True, map_location=request['device'])
            side = dict(lif=Lif, sew=SEW, block=Block)[request['what']](request, data)
            device = request['device']
        elif op == 'result':
            torch.save(side.result(), request['path'])
        elif op == 'logits':
            torch.save(side.logits_in_evaluation(), request['path'])
        elif op == 'kept':
            answer = side.kept()
        else:
            synchronize(device)
            start, cpu = time.perf_counter(), time.process_time()
            getattr(side, op)()
            synchronize(device)
            answer = dict(seconds=time.perf_counter() - start, cpu_seconds=time.process_time() - cpu)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == '__main__':
    main()
