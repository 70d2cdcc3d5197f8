"""R20: malformed annotations are refused by name, or counted by a stated rule in the summary before training."""

import json
import math
import re
from collections.abc import Callable

import cli
import pytest
from mmengine.config import Config

from mmsnn.engine import checks


def change(where: str, index: int | None = 0, **values) -> Callable:
    """Gives one entry of a list, or all of them, other values; None takes a key away."""

    def mutate(content):
        entries = content[where] if index is None else [content[where][index]]
        for entry in entries:
            for key, value in values.items():
                if value is None:
                    del entry[key]
                else:
                    entry[key] = value
        return content

    return mutate


def add(where: str, **values) -> Callable:
    """Appends a copy of the first entry with other values."""

    def mutate(content):
        content[where].append({**content[where][0], **values})
        return content

    return mutate


def box(*numbers, **values) -> Callable:
    """One more annotation with this box."""
    return add('annotations', id=99, bbox=list(numbers), **values)


def without(key: str) -> Callable:
    return lambda content: {k: v for k, v in content.items() if k != key}


# what is changed, and what the refusal says
REFUSED = {
    'a JSON list': (lambda content: [content], 'holds a JSON list'),
    'a JSON text': (lambda content: 'nothing', 'holds a JSON str'),
    'no images': (without('images'), 'has no list images'),
    'no annotations': (without('annotations'), 'has no list annotations'),
    'no categories': (without('categories'), 'has no list categories'),
    'an empty list of images': (lambda content: {**content, 'images': []}, 'lists no images'),
    'an empty list of annotations': (lambda content: {**content, 'annotations': []}, 'has no annotations'),
    'a box is missing': (change('annotations', bbox=None), 'without bbox'),
    'a box of three numbers': (change('annotations', bbox=[1, 2, 3]), 'whose bbox is not four numbers'),
    'a box of five numbers': (change('annotations', bbox=[1, 2, 3, 4, 5]), 'whose bbox is not four numbers'),
    'a box of texts': (change('annotations', bbox=['1', '2', '30', '40']), 'whose bbox is not four numbers'),
    'NaN in a box': (change('annotations', bbox=[math.nan, 2, 30, 40]), 'whose bbox is not four numbers'),
    'an infinite width': (change('annotations', bbox=[1, 2, math.inf, 40]), 'whose bbox is not four numbers'),
    'an enormous width': (change('annotations', bbox=[1, 2, 1e12, 40]), 'whose bbox is not four numbers'),
    'an area is missing': (change('annotations', area=None), 'without area'),
    'an area in words': (change('annotations', area='large'), 'whose area is no number'),
    'a category is missing': (change('annotations', category_id=None), 'without category_id'),
    'a list of categories': (change('annotations', category_id=[1]), 'whose category_id is unhashable'),
    'an image id is missing': (change('annotations', image_id=None), 'without image_id'),
    'an annotation that is a number': (lambda c: {**c, 'annotations': [*c['annotations'], 7]}, 'no JSON object'),
    'two annotations of one id': (add('annotations', bbox=[1, 1, 9, 9]), 'have the id of another one'),
    'two images of one id': (add('images', file_name='1.png'), 'the id of several images'),
    'an image without a width': (change('images', width=None), 'have no width'),
    'an image of no width': (change('images', width=0), 'not positive'),
    'an image of a negative height': (change('images', height=-64), 'not positive'),
    'an image of a width in words': (change('images', width='64'), 'of the wrong type'),
    'an image of 10^12 pixels': (change('images', width=10**6, height=10**6), 'more pixels than an image may have'),
    'an image without a file': (change('images', file_name=None), 'have no file_name'),
    'a file that is not there': (change('images', file_name='gone.png'), 'not there, the first is .*gone.png'),
    'all images by texts': (change('annotations', None, image_id='0'), 'none of the 8 boxes would be read'),
    'all categories unknown': (change('annotations', None, category_id=77), 'none of the 8 boxes would be read'),
    'all boxes outside': (change('annotations', None, bbox=[900, 900, 9, 9]), 'none of the 8 boxes would be read'),
    'all areas zero': (change('annotations', None, area=0), 'none of the 8 boxes would be read'),
    'a category twice': (add('categories', id=9), "'a'"),
    'two categories of one id': (add('categories', name='b'), ''),
}
# what is changed, and what the summary says
COUNTED = {
    'nothing': (lambda content: content, '4 of 4 images, 8 of 8 boxes'),
    'a box of no width': (box(4, 4, 0, 9), '8 of 9 boxes.*dropped: 1 (outside|narrower)'),
    'a box of a negative width': (box(30, 4, -9, 9), '8 of 9 boxes.*dropped: 1 outside of the image'),
    'a box of half a pixel': (box(4, 4, 0.5, 9), '8 of 9 boxes.*dropped: 1 narrower or lower than a pixel'),
    'a box outside': (box(70, 4, 9, 9), '8 of 9 boxes.*dropped: 1 outside of the image'),
    'an area of 0': (box(4, 4, 9, 9, area=0), '8 of 9 boxes.*dropped: 1 of an area of 0 or less'),
    'an area of NaN': (box(4, 4, 9, 9, area=math.nan), '8 of 9 boxes.*dropped: 1 of an area of 0 or less'),
    'an unknown category': (box(4, 4, 9, 9, category_id=77), '8 of 9 boxes.*dropped: 1 of another category'),
    'an image that is not listed': (box(4, 4, 9, 9, image_id=77), '8 of 9 boxes.*dropped: 1 of an image that is not'),
    'marked to be ignored': (box(4, 4, 9, 9, ignore=True), '8 of 9 boxes.*dropped: 1 marked ignore'),
    'a box beyond the image': (box(4, 4, 900, 9), '9 of 9 boxes.*1 box reaches beyond the image, kept'),
    'a box before the image': (box(-20, 4, 40, 9), '9 of 9 boxes.*1 box reaches beyond the image, kept'),
    'a box twice': (add('annotations', id=99), '9 of 9 boxes.*1 the same as another of the same image, kept'),
    'an image of another size': (change('images', width=640, height=480), 'another width and height for 1 of 4'),
    'an image without boxes': (
        lambda content: {**content, 'annotations': content['annotations'][2:]},
        '3 of 4 images, 6 of 6 boxes; 1 image without a box left out',
    ),
    'an image smaller than the filter': (
        change('images', width=64, height=8),
        '3 of 4 images.*1 image with a side below 16 pixels left out',
    ),
}


@pytest.fixture
def config(tmp_path):
    return cli.write_detector(tmp_path)


def write(config, content) -> None:
    (config.parent / 'ann.json').write_text(content if isinstance(content, str) else json.dumps(content))


def findings(config):
    return checks.check_data(Config.fromfile(config), ('train',))


@pytest.mark.parametrize('kind', REFUSED)
def test_refused(config, kind):
    mutate, message = REFUSED[kind]
    write(config, json.dumps(mutate(cli.coco())))
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        findings(config)
    assert 'train_dataloader.dataset' in str(error.value) and str(config.parent) in str(error.value)


@pytest.mark.parametrize('content', ['', '{"images": [', 'not JSON', '<html></html>', '\x00\x01', '[' * 10**5])
def test_no_json(config, content):
    write(config, content)
    with pytest.raises(ValueError, match=r'train_dataloader.dataset.ann_file: .*ann.json is no JSON'):
        findings(config)


@pytest.mark.parametrize('kind', COUNTED)
def test_counted(config, kind):
    mutate, message = COUNTED[kind]
    write(config, json.dumps(mutate(cli.coco())))
    said = [str(finding) for finding in findings(config) if finding.level in (checks.NOTE, checks.WARNING)]
    summary = '\n'.join(line for line in said if 'ann.json' in line)
    assert re.search(message, summary), said
    assert 'of 4 images' in summary or 'of 5 images' in summary


def test_masks(config):
    """Run lengths of another size than the image, which are decoded at that size."""
    text = config.read_text().replace('with_bbox=True', 'with_bbox=True, with_mask=True')
    config.write_text(text)
    content = cli.coco()
    for annotation in content['annotations']:
        annotation['segmentation'] = [[4, 4, 30, 4, 30, 30]]
    content['annotations'][3]['segmentation'] = dict(size=[10**6, 10**6], counts='x')
    write(config, content)
    with pytest.raises(ValueError, match='whose mask has another size than its image'):
        findings(config)


def test_the_summary_is_one_line_of_the_log(config, tmp_path):
    """Before the first iteration, through the command line."""
    write(config, box(70, 4, 9, 9)(cli.coco()))
    cli.main('train', config, '--work-dir', tmp_path / 'run', '--cfg-options', 'train_cfg.max_epochs=1')
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    line = next(line for line in log.splitlines() if 'of 9 boxes' in line)
    assert '4 of 4 images, 8 of 9 boxes' in line and 'boxes dropped: 1 outside of the image' in line
    assert log.index(line) < log.index('Epoch(train)')


def test_refused_by_the_command_line(config, tmp_path):
    write(config, change('annotations', bbox=[1, 2, math.inf, 40])(cli.coco()))
    with pytest.raises(ValueError, match='whose bbox is not four numbers'):
        cli.main('train', config, '--work-dir', tmp_path / 'run')
    assert not list((tmp_path / 'run').glob('**/*.pth'))
