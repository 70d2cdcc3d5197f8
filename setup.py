"""Packaging of mmsnn, with the ``.mim`` folder by which OpenMMLab finds a package's configs and tools."""

import os
import runpy
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()
MIM = ('configs', 'tools', 'demo', 'model-index.yml')
LITTER = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints')


class BuildWithMim(build_py):
    """Ship the top-level folders named in ``MIM`` as ``mmsnn/.mim``.

    A wheel gets copies. An editable install gets links inside the source tree, so that ``mmsnn::`` configs are always
    the ones being edited.
    """

    def run(self):
        super().run()
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


extras = {
    # What `make demo` needs.
    'demo': ['scikit-learn>=1.3'],
    # The reference implementation, for comparisons.
    'spikingjelly': ['spikingjelly>=2.0.0; python_version >= "3.11"'],
    'timm': ['timm>=1.0'],
    'nir': ['nir>=1.0.7', 'nirtorch>=2.6'],
    'onnx': ['onnx>=1.16', 'onnxscript>=0.2', 'onnxruntime>=1.18'],
}
extras['dev'] = ['pytest>=8', 'ruff>=0.6', 'pre-commit>=3', *extras['spikingjelly']]

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
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=['mmsnn', 'mmsnn.*']),
    python_requires='>=3.10',
    install_requires=[
        'torch>=2.4',
        'torchvision>=0.19',
        'numpy>=1.26',
        # The maintained OpenMMLab packages; they keep the import names mmengine, mmcv, mmdet, mmseg and mmpretrain.
        'onedl-mmengine>=0.10.8',
        'onedl-mmcv>=2.3',
        'onedl-mmdetection>=3.4',
        'onedl-mmsegmentation>=1.3',
        'onedl-mmpretrain>=1.3',
    ],
    extras_require=extras,
    cmdclass={'build_py': BuildWithMim},
    zip_safe=False,
)
