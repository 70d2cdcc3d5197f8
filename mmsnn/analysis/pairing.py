"""Paired timings, which hold on a busy machine: all sides run in turn, many times, in one process."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import mmsnn
from mmsnn.shipped import commit

SETTLE = 0.03  # seconds
ROOT = Path(__file__).resolve().parents[2]


def stopwatch(work: Callable[[], object], device: str = 'cpu') -> Callable[[], float]:
    """A function that runs ``work`` and returns its seconds, including the work of the device."""

    def run() -> float:
        if device != 'cpu':
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device != 'cpu':
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return run


def kernel_time(work: Callable[[], object], rounds: int = 10) -> float:
    """Milliseconds that the kernels of ``work`` take on the GPU, by torch's profiler, without the time of the host."""
    from torch.profiler import ProfilerActivity, profile

    work()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        for _ in range(rounds):
            work()
        torch.cuda.synchronize()
    events = [e for e in trace.key_averages() if e.device_type == torch.autograd.DeviceType.CUDA]
    return round(sum(e.self_device_time_total for e in events) / rounds / 1e3, 4)


def interleave(sides: dict[str, Callable[[], float]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of every side in every round; each round runs all sides and begins with another one.

    Of several runs in a row the last one counts, because the threads of the previous side still spin during the first.
    """
    for _ in range(warm_up):
        for run in sides.values():
            run()
    seconds = {name: [] for name in sides}
    names = list(sides)
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            settled = time.monotonic() + SETTLE
            while sides[name]() and time.monotonic() < settled:
                pass
            seconds[name].append(sides[name]())
    return seconds


def compare(seconds: dict[str, list[float]], ours: str) -> dict[str, dict[str, float]]:
    """For every side: median and quartiles of its milliseconds, and how many times longer than ``ours`` it took.

    The ratio is the median over rounds of the two times of one round; its quartiles are its spread.
    """
    out = {}
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(values, seconds[ours])]
        row = dict(ratio=_quartiles(ratios), milliseconds=_quartiles([v * 1e3 for v in values]))
        out[name] = {key: dict(zip(('low', 'median', 'high'), quartiles)) for key, quartiles in row.items()}
    return out


def _quartiles(values: list[float]) -> list[float]:
    if len(values) < 2:
        return [round(values[0], 4)] * 3
    return [round(q, 4) for q in statistics.quantiles(values, n=4, method='inclusive')]


def lines(table: dict[str, dict[str, float]]) -> list[str]:
    """The result of `compare` as lines of text, with ratios first."""
    out = []
    for name, row in table.items():
        ratio, ms = row['ratio'], row['milliseconds']
        out.append(
            f'{name:<34}{ratio["median"]:8.2f} x  ({ratio["low"]:.2f} to {ratio["high"]:.2f})'
            f'{ms["median"]:12.2f} ms  ({ms["low"]:.2f} to {ms["high"]:.2f})'
        )
    return out


def circumstances(device: str = 'cpu') -> dict:
    """Command, commit, machine and versions, for a result file."""
    from mmsnn.ops import extension

    script = Path(sys.argv[0]).resolve()
    script = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    return dict(
        command=' '.join(['python', str(script), *sys.argv[1:]]),
        commit=commit(),
        date=time.strftime('%Y-%m-%d'),
        machine=torch.cuda.get_device_name() if device != 'cpu' else _processor(),
        threads=torch.get_num_threads(),
        ops=extension.serving(torch.device(device).type),
        versions=dict(mmsnn=mmsnn.__version__, torch=torch.__version__, python=platform.python_version()),
    )


def _processor() -> str:
    info = Path('/proc/cpuinfo')
    names = [line for line in info.read_text().splitlines() if line.startswith('model name')] if info.exists() else []
    return f'{names[0].partition(":")[2].strip() if names else platform.machine()}, {os.cpu_count()} cores'


def save(path: Path, head: dict, results: list[dict]) -> None:
    """Write a result file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**head, 'results': results}, indent=1) + '\n')


class Peer:
    """A script that runs in a process of its own and answers requests in JSON lines.

    Args:
        script: a script that reads one request per line from stdin and answers each by a line on stdout.
        python: the interpreter, which may belong to another environment.

    Raises:
        RuntimeError: the process ended; the message has its last line of output.
    """

    def __init__(self, script: Path, python: str = sys.executable):
        env = {**os.environ, 'OMP_NUM_THREADS': str(torch.get_num_threads())}
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.process = subprocess.Popen([python, str(script)], text=True, env=env, **pipes)

    def ask(self, **request) -> dict:
        """Send one request and wait for the answer."""
        try:
            self.process.stdin.write(json.dumps(request) + '\n')
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ''
        if not answer:
            words = self.process.communicate()[1].strip().splitlines()
            raise RuntimeError(f'{request.get("op")}: {words[-1] if words else "the process ended"}')
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
