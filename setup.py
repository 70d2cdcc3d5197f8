"""Packaging of mmsnn: the compiled kernels, and the ``.mim`` folder by which OpenMMLab finds configs and tools.

The kernels need a C++ compiler, and torch at hand while they are built: ``pip install --no-build-isolation``. CUDA's
need nvcc, too, and minutes. A wheel, which may be for another machine, gets them wherever nvcc is, GPU or no GPU; an
editable install, which is for this machine, only where there is an NVIDIA driver. ``MMSNN_CUDA=1`` asks for them,
``MMSNN_CUDA=0`` refuses them. Without any of these mmsnn works in plain PyTorch, and says so.
"""

import ctypes
import hashlib
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

# Installed beside the package as mmsnn.pth, which Python runs when it starts: mmcv's ops and configs by the name of
# mmsnn are then there for OpenMMLab's own tools, too. Nothing is imported before one of its packages is.
START_UP = """
class MmsnnFirst:
    def find_spec(self, name, path=None, target=None):
        if name in ('mmcv', 'mmengine', 'mmdet', 'mmseg', 'mmpretrain'):
            sys.meta_path.remove(self)
            try:
                import mmsnn
            except Exception:
                pass

import sys
# Python reads the file twice in a virtual environment.
if not any(type(finder).__name__ == 'MmsnnFirst' for finder in sys.meta_path):
    sys.meta_path.insert(0, MmsnnFirst())
"""

ROOT = Path(__file__).parent.resolve()
MIM = ('configs', 'weights', 'tools', 'demo', 'model-index.yml')
LITTER = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints')


class BuildWithMim(build_py):
    """Ship the top-level folders named in ``MIM`` as ``mmsnn/.mim``, and the start-up hook.

    A wheel gets copies. An editable install gets links inside the source tree, so that ``mmsnn::`` configs are always
    the ones being edited.
    """

    def run(self):
        super().run()
        # An editable wheel is packed from the folder that modules would be installed to.
        top = Path(self.get_finalized_command('install').install_lib if self.editable_mode else self.build_lib)
        # One line, because Python runs each line by itself.
        (top / 'mmsnn.pth').write_text(f'import sys; exec({START_UP!r}, {{}})\n')
        mim = ROOT / 'mmsnn' / '.mim' if self.editable_mode else Path(self.build_lib, 'mmsnn', '.mim')
        # What an earlier build left may no longer exist in the sources.
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for name in MIM:
            if self.editable_mode:
                (mim / name).symlink_to(os.path.join('..', '..', name))
            elif (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, mim / name, ignore=LITTER)
            else:
                shutil.copy2(ROOT / name, mim / name)


CSRC = Path('mmsnn', 'ops', 'csrc')
# sm_80 and sm_90, and PTX for what comes after
CUDA_ARCHS = os.environ.get('TORCH_CUDA_ARCH_LIST', '8.0;9.0+PTX')


def kernels() -> tuple[list, dict]:
    """The extension and the commands that build it; none where torch or a compiler is missing."""
    try:
        from torch.utils import cpp_extension
    except ImportError:
        skipped('torch cannot be imported here (pip hides it unless --no-build-isolation is given)')
        return [], {}
    sources = sorted(p for p in (ROOT / CSRC).iterdir() if p.suffix in ('.h', '.cpp', '.cu', '.cuh'))
    digest = hashlib.sha256(b''.join(p.read_bytes() for p in sources)).hexdigest()[:16]
    # A contraction to fused multiply-adds would let a spike that is computed again differ.
    flags = ['-O3', '-g0', '-std=c++17', '-ffp-contract=off', '-fno-trapping-math', '-fno-math-errno']
    flags += [f'-DMMSNN_SOURCES="{digest}"']
    # the threads of torch, which uses OpenMP there
    threads = ['-fopenmp'] if sys.platform == 'linux' else []
    flags += threads
    kind, extra = cpp_extension.CppExtension, {}
    names = [p.name for p in sources if p.suffix == '.cpp']
    home = cpp_extension.CUDA_HOME
    asked = os.environ.get('MMSNN_CUDA')
    with_cuda = wants_cuda(sys.argv, asked, has_driver())
    can_cuda = home and cpp_extension.torch.version.cuda and (Path(home) / 'bin' / 'nvcc').exists()
    if with_cuda and asked and not can_cuda:
        skipped('MMSNN_CUDA=1 needs nvcc and a torch with CUDA', kernels="CUDA's kernels", rest="the CPU's are built")
    compile_args = dict(cxx=flags)
    if with_cuda and can_cuda:
        os.environ['TORCH_CUDA_ARCH_LIST'] = CUDA_ARCHS
        kind = cpp_extension.CUDAExtension
        names += [p.name for p in sources if p.suffix == '.cu']
        compile_args['nvcc'] = ['-O3', '-std=c++17', '--fmad=false', '-Xfatbin=-compress-all']
        # a bare toolkit has its libraries in lib, and torch's packages the headers that it lacks
        extra = dict(library_dirs=[str(toolkit(home) / 'lib')], include_dirs=cuda_headers())
    extension = kind(
        'mmsnn.ops._C',
        [str(CSRC / name) for name in names],
        # headers, which an earlier build in this folder may be older than
        depends=[str(CSRC / p.name) for p in sources],
        extra_compile_args=compile_args,
        extra_link_args=threads,
        py_limited_api=True,
        optional=True,
        **extra,
    )
    return [extension], dict(build_ext=BuildKernels.on(cpp_extension.BuildExtension))


def toolkit(home: str) -> Path:
    """The folder of nvcc's toolkit, also where ``home`` holds only a script that calls it."""
    said = subprocess.run(
        [Path(home) / 'bin' / 'nvcc', '--dryrun', '-E', '-x', 'cu', os.devnull], capture_output=True, text=True
    )
    found = re.search(r'^#\$ TOP=(.+)$', said.stderr, re.MULTILINE)
    return Path(found.group(1)).resolve() if found else Path(home)


def cuda_headers() -> list[str]:
    """Where pip has put CUDA's headers."""
    found = [Path(p) / 'nvidia' / 'cu13' / 'include' for p in sys.path]
    return [str(p) for p in found if p.is_dir()]


def wants_cuda(arguments: list[str], asked: str | None, driver: bool) -> bool:
    """Whether to compile CUDA's kernels where nvcc is.

    Args:
        arguments: of the build's command line.
        asked: the environment's ``MMSNN_CUDA``.
        driver: whether this machine has an NVIDIA driver.
    """
    if asked:
        return asked != '0'
    editable = {'editable_wheel', 'develop', '--inplace', '-i'} & set(arguments)
    return driver or not editable


def has_driver() -> bool:
    """Whether this machine has an NVIDIA driver; it may still have no GPU."""
    try:
        ctypes.CDLL('nvcuda.dll' if sys.platform == 'win32' else 'libcuda.so.1')
    except OSError:
        return Path('/proc/driver/nvidia/version').exists()
    return True


def skipped(reason: str, kernels: str = 'the compiled kernels', rest: str = 'plain PyTorch will serve') -> None:
    """Say which kernels are not built, why, and what serves instead."""
    print(f'mmsnn: {kernels} are skipped: {reason}; {rest}', file=sys.stderr)


class BuildKernels:
    """A build that goes on without the kernels where they cannot be compiled."""

    @staticmethod
    def on(base: type[build_ext]) -> type[build_ext]:
        """Torch's build command, with that manner."""

        class Build(base):
            def build_extensions(self):
                try:
                    super().build_extensions()
                # whatever a missing or broken compiler makes of it
                except Exception as error:
                    skipped(f'{type(error).__name__}: {error}')

            def build_extension(self, extension):
                super().build_extension(extension)
                runpy.run_path(str(ROOT / 'mmsnn' / 'ops' / 'sealing.py'))['seal'](
                    self.get_ext_fullpath(extension.name)
                )

        return Build.with_options(use_ninja=False, no_python_abi_suffix=True)


extras = {
    # What `make demo` needs.
    'demo': ['scikit-learn>=1.3'],
    # The reference implementation, for comparisons.
    'spikingjelly': ['spikingjelly>=2.0.0'],
    'timm': ['timm>=1.0'],
    # report.html and `mmsnn report`; mmengine and torch bring both along.
    'report': ['jinja2>=3', 'matplotlib>=3.7'],
    # `mmsnn deploy --to nir`; the second reader is SpikingJelly.
    'nir': ['nir>=1.0.7', 'nirtorch>=2.6'],
    # The notebooks in demo/.
    'notebooks': ['ipykernel>=6.29', 'nbclient>=0.10', 'scikit-learn>=1.3'],
    # `tools/benchmarks/level2.py`.
    'search': ['optuna>=4'],
    # `mmsnn deploy --to onnx` writes with the first two, and runs and quantises with the third.
    'onnx': ['onnx>=1.16', 'onnxscript>=0.2', 'onnxruntime>=1.18'],
}
# What `make docs` needs.
extras['docs'] = ['mkdocs-material>=9.6', 'mkdocstrings[python]>=1.0']
extras['dev'] = ['pytest>=8', 'pytest-xdist>=3.6', 'ruff>=0.6', 'mypy>=1.11', 'pre-commit>=3']
# Without these the tests of what they are for would be skipped.
extras['dev'] += [*extras['spikingjelly'], *extras['nir'], *extras['onnx'], *extras['docs'], *extras['notebooks']]
extras['dev'] += extras['search']

ext_modules, commands = kernels()
setup(
    name='mmsnn',
    version=runpy.run_path(str(ROOT / 'mmsnn' / 'version.py'))['__version__'],
    description='Spiking neural networks for OpenMMLab',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='mmsnn contributors',
    license='Apache-2.0',
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=['mmsnn', 'mmsnn.*']),
    python_requires='>=3.11',
    install_requires=[
        # With torch 2.6.0, torchvision 0.21.0, numpy 1.26.4 and no compiled kernels, tests/layers, test_neurons.py,
        # test_reading.py and test_surrogates.py pass but for one: torch.compile of a surrogate that a user registers.
        'torch>=2.6',
        'torchvision>=0.21',
        'numpy>=1.26',
        # The maintained OpenMMLab packages; they keep the import names mmengine, mmcv, mmdet, mmseg and mmpretrain.
        'onedl-mmengine>=0.10.8',
        'onedl-mmcv>=2.3',
        'onedl-mmdetection>=3.4',
        'onedl-mmsegmentation>=1.3',
        'onedl-mmpretrain>=1.3',
    ],
    extras_require=extras,
    entry_points=dict(console_scripts=['mmsnn = mmsnn.__main__:main']),
    ext_modules=ext_modules,
    package_data={'mmsnn.ops': ['csrc/*'], 'mmsnn.report': ['*.html']},
    cmdclass={'build_py': BuildWithMim, **commands},
    zip_safe=False,
)
