"""Terms: what is refused before the first iteration, and what heads and connectors they go with."""

import copy

import pytest
import torch
from mmdet.models.dense_heads import FCOSHead
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from tiny import CLASSES, MEAN, SPIKING, STD, Noise, classifier, detector
from torch.nn import functional as F

from mmsnn.distill import DistillLoss, PixelKL, Progress
from mmsnn.registry import MODELS as OWN_MODELS

STAGES = [f'backbone.layer{i}' for i in range(1, 5)]
FEATURE = dict(type='FeatureMSE', student=STAGES, teacher=STAGES, connector=dict(type='ConvBN'))
STEPS = 'backbone.layer4|neck|head.fc'


def segmentor(spiking: bool, num_classes: int = CLASSES, cascade: bool = False, **backbone) -> dict:
    """Config of an mmseg FCN on a ResNet-18 of an eighth of the width; or of a cascade, as OCRNet's."""
    ann = dict(type='mmseg.ResNet', depth=18, base_channels=8)
    head = dict(
        type='FCNHead', in_channels=64, in_index=3, channels=16, num_convs=1, dropout_ratio=0, num_classes=num_classes
    )
    ocr = dict(
        type='OCRHead', in_channels=64, in_index=3, channels=16, ocr_channels=8, dropout_ratio=0,
        num_classes=num_classes,
    )  # fmt: skip
    return dict(
        type='mmseg.CascadeEncoderDecoder' if cascade else 'mmseg.EncoderDecoder',
        **(dict(num_stages=2) if cascade else {}),
        data_preprocessor=dict(type='SegDataPreProcessor', mean=MEAN, std=STD, bgr_to_rgb=True, size=(64, 64)),
        backbone={**(SPIKING if spiking else ann), **backbone},
        decode_head=[head, ocr] if cascade else head,
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )


def detr(spiking: bool) -> dict:
    """Config of a DETR with one layer each."""
    from mmengine.hub import get_config

    model = get_config('mmdet::detr/detr_r18_8xb2-500e_coco.py').model.to_dict()
    ann = dict(type='mmdet.ResNet', depth=18, base_channels=8)
    model['type'] = 'mmdet.DETR'
    model['backbone'] = {**(SPIKING if spiking else ann), 'out_indices': (3,)}
    model['neck']['in_channels'] = [64]
    model['num_queries'] = 5
    for part in ('encoder', 'decoder'):
        model[part]['num_layers'] = 1
    return model


def build(scope, losses=None, student=None, teacher=None, **kwargs):
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(dict(type='mmsnn.Distiller', student=student, teacher=teacher, losses=losses, **kwargs))
        model.init_weights()
    return model


class SigmoidHead(FCOSHead):
    """Answers the probabilities of its classes."""

    def forward(self, x):
        classes, *others = super().forward(x)
        return [c.sigmoid() for c in classes], *others


def fcos(**head):
    """An FCOS for one class."""
    MODELS.register_module(module=SigmoidHead, force=True)
    model = detector(False)
    model['type'] = 'mmdet.FCOS'
    model['bbox_head'] = dict(
        type='mmdet.FCOSHead', num_classes=1, in_channels=16, feat_channels=16, stacked_convs=1,
        strides=[8, 16, 32, 64], regress_ranges=((-1, 64), (64, 128), (128, 256), (256, 1e8)),
        norm_cfg=dict(type='GN', num_groups=4),
    )  # fmt: skip
    model['bbox_head'].update(head)
    return model


def seg_batch():
    from mmseg.structures import SegDataSample

    images = Noise('mmpretrain').images[:3]
    samples = []
    for image in images:
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=image[:1].long() % CLASSES)))
        samples[-1].set_metainfo(dict(img_shape=(64, 64), ori_shape=(64, 64)))
    return dict(inputs=list(images), data_samples=samples)


class TestOtherClasses:
    """A teacher of other classes is refused by every loss that compares answers, before the first iteration."""

    LOGITS = dict(student='head.fc', teacher='head.fc')
    EVERY_STEP = dict(student=STEPS, teacher='head.fc')
    PIXELS = dict(student='decode_head.conv_seg', teacher='decode_head.conv_seg')
    CASES = {
        'LogitKL': LOGITS,
        'WeightedSoftLabels': LOGITS,
        'DIST': LOGITS,
        'EnOF': dict(student='neck[0]', teacher='neck[0]'),
        'StepLogitKL': EVERY_STEP,
        'SeAl': EVERY_STEP,
        'TemporalSeparation': dict(**EVERY_STEP, alpha=0.4, gamma=0.1, tau=2.0),
        'PixelKL': PIXELS,
        'ChannelWiseKL': PIXELS,
        'DenseResponse': dict(student='bbox_head[0]', teacher='bbox_head[0]'),
    }
    # losses on features, which know no classes, and losses without a teacher
    OTHERS = {'FeatureMSE', 'BlurMSE', 'AttentionMSE', 'AffineMSE', 'PKD', 'FGD', 'BoxResponse'}

    def test_every_loss_is_here(self):
        ours = [c for c in OWN_MODELS.module_dict.values() if c.__module__.startswith('mmsnn.')]
        taught = {c.__name__ for c in ours if issubclass(c, DistillLoss) and c.needs_teacher}
        assert taught == {*self.CASES, *self.OTHERS}, 'add the new loss to CASES, unless it knows no classes'

    @staticmethod
    def pair(taps):
        if 'decode_head' in taps['student']:
            return 'mmseg', segmentor(True), segmentor(False, num_classes=9)
        if 'bbox_head' in taps['student']:
            teacher = detector(False)
            teacher['bbox_head']['num_classes'] = 9
            return 'mmdet', detector(True), teacher
        return 'mmpretrain', classifier(True), classifier(False, head=dict(num_classes=9))

    @pytest.mark.parametrize('loss', CASES)
    def test_refused(self, loss):
        scope, student, teacher = self.pair(self.CASES[loss])
        with pytest.raises(ValueError, match=r'^model\.losses\.mine: ') as error:
            build(scope, dict(mine=dict(type=loss, **self.CASES[loss])), student, teacher)
        message = str(error.value)
        assert f'{CLASSES}' in message and '9' in message and 'student' in message and 'teacher' in message
        assert 'Take a teacher that was trained on' in message and 'FeatureMSE' in message

    def test_features_go_on(self):
        model = build('mmpretrain', dict(a=FEATURE), classifier(True), classifier(False, head=dict(num_classes=9)))
        data = model.data_preprocessor(Noise('mmpretrain').batch(0, 1), True)
        assert model.loss(**data)['loss_a'] > 0

    def test_given_number_of_classes(self):
        """num_classes is no way around."""
        teacher = detector(False)
        teacher['bbox_head']['num_classes'] = 9
        term = dict(type='DenseResponse', num_classes=9, **{r: 'bbox_head[0]' for r in ('student', 'teacher')})
        with pytest.raises(ValueError, match='bbox_head are 5 in the student and 9 in the teacher'):
            build('mmdet', dict(a=term), detector(True), teacher)

    def test_connector_to_the_teachers_classes(self):
        """Whoever maps one to the other knows what it means."""
        term = dict(type='LogitKL', **self.LOGITS, connector=dict(type='Affine'))
        model = build('mmpretrain', dict(a=term), classifier(True), classifier(False, head=dict(num_classes=9)))
        assert model.connectors.loss_a[0].out_features == 9


class TestAnswers:
    def test_one_class(self):
        """Its softmax is always 1, so that the loss would always be 0."""
        term = dict(type='PixelKL', **TestOtherClasses.PIXELS)
        pair = [segmentor(spiking) for spiking in (True, False)]
        for model in pair:
            model['decode_head'].update(num_classes=2, out_channels=1, threshold=0.3)
        with pytest.raises(ValueError, match='model.losses.a: PixelKL .*a single one.*out_channels=2'):
            build('mmseg', dict(a=term), *pair)

    def test_softmax_of_a_dense_head(self):
        pair = [detector(spiking) for spiking in (True, False)]
        for model in pair:
            model['bbox_head']['loss_cls'] = dict(type='CrossEntropyLoss', use_sigmoid=False)
        term = dict(type='DenseResponse', student='bbox_head[0]', teacher='bbox_head[0]')
        with pytest.raises(ValueError, match=r'model.losses.a: .*bbox_head \(RetinaHead\) answers by a softmax'):
            build('mmdet', dict(a=term), *pair)

    @pytest.mark.parametrize(
        'item, message', [('bbox_head[1]', r'anchors \* 5, H, W\], tensor 0'), ('backbone', r'anchors \* 5')]
    )
    def test_no_class_logits(self, item, message):
        term = dict(type='DenseResponse', student=item, teacher=item)
        with pytest.raises(ValueError, match=f'model.losses.a: DenseResponse reads class logits .*{message}'):
            build('mmdet', dict(a=term), detector(True), detector(False))

    @pytest.mark.parametrize('loss', ['DenseResponse', 'BoxResponse'])
    def test_probabilities(self, loss):
        """A head that answers behind a sigmoid is refused; that logits lie between 0 and 1 by chance is not."""
        taps = ['bbox_head[0]', 'bbox_head[1]'][: 1 + (loss == 'BoxResponse')]
        term = dict(type=loss, student=taps, teacher=taps)
        for seed in range(6):
            torch.manual_seed(seed)
            head = build('mmdet', dict(a=term), fcos(), fcos()).teacher.model.bbox_head
            assert all(p.min() > -9 for p in head.parameters())
        with pytest.raises(ValueError, match='model.losses.a: .*everything tapped lies between 0 and 1, as after a si'):
            build('mmdet', dict(a=term), fcos(), fcos(type='SigmoidHead'))

    @pytest.mark.parametrize('norm_on_bbox', [False, True])
    def test_the_teacher_answers_in_the_students_unit(self, norm_on_bbox):
        """FCOS gives boxes in strides in training, and in pixels in evaluation, where norm_on_bbox is set."""
        taps = ['bbox_head[0]', 'bbox_head[1]']
        term = dict(type='BoxResponse', student=taps, teacher=taps)
        pair = [fcos(num_classes=CLASSES, norm_on_bbox=norm_on_bbox) for _ in range(2)]
        model = build('mmdet', dict(a=term), *pair)
        teacher = model.teacher.model
        teacher.load_state_dict(model.student.state_dict())
        model.train()
        for module in model.student.modules():
            if 'Norm' in type(module).__name__:
                module.eval()
        data = model.data_preprocessor(Noise('mmdet').batch(0, 1), True)
        assert model.loss(**data)['loss_a'] == 0
        assert not teacher.bbox_head.training

    def test_heads_of_other_numbers_of_levels(self):
        teacher = detector(False)
        teacher['neck']['num_outs'] = 3
        teacher['bbox_head']['anchor_generator']['strides'] = [8, 16, 32]
        term = dict(type='DenseResponse', student='bbox_head[0]', teacher='bbox_head[0]')
        with pytest.raises(
            ValueError, match='model.losses.a: .* gives 4 .* 3, .*heads with different numbers of levels'
        ):
            build('mmdet', dict(a=term), detector(True), teacher)

    def test_several_answers(self):
        """EncNet's head also names the classes of the whole image, which are no map."""
        pair = [segmentor(spiking) for spiking in (True, False)]
        for model in pair:
            model['decode_head'] = dict(
                type='EncHead', in_channels=(32, 64), in_index=(2, 3), channels=16, num_codes=4, num_classes=CLASSES
            )
        for tap in ('decode_head', 'decode_head[0]'):
            term = dict(type='PixelKL', student=tap, teacher=tap)
            if tap == 'decode_head[0]':
                assert len(build('mmseg', dict(a=term), *pair).terms) == 1
                continue
            with pytest.raises(ValueError, match=r'model.losses.a: PixelKL compares maps .*decode_head\[0\]'):
                build('mmseg', dict(a=term), *pair)

    def test_an_image_that_is_large_enough(self):
        """The last levels of an SSD are nothing of a small one."""
        pair = [detector(spiking) for spiking in (True, False)]
        for model in pair:
            model['neck'].update(add_extra_convs='on_output', num_outs=4)
            # without padding
            model['neck'] = dict(
                type='SSDNeck', in_channels=(32, 64), out_channels=(32, 64, 16, 16), level_strides=(2, 1),
                level_paddings=(1, 0), l2_norm_scale=20,
            )  # fmt: skip
            model['backbone']['out_indices'] = (2, 3)
        model = build('mmdet', dict(a=dict(type='PKD', student='neck', teacher='neck')), *pair)
        assert len(model.terms) == 1

    def test_an_image_that_is_large_enough_for_norms(self):
        """Those with a channel a group refuse maps of one pixel, by an error of another kind."""
        pair = [fcos(norm_cfg=dict(type='GN', num_groups=16)) for _ in range(2)]
        model = build(
            'mmdet', dict(a=dict(type='PKD', student='bbox_head.cls_convs.0', teacher='bbox_head.cls_convs.0')), *pair
        )
        assert len(model.terms) == 1

    def test_steps_of_a_spiking_teacher(self):
        """As many as the student's, or their mean for each."""
        losses = dict(a=dict(type='StepLogitKL', student=STEPS, teacher=STEPS))
        build('mmpretrain', losses, classifier(True), classifier(True))
        with pytest.raises(ValueError, match='model.losses.a: .* the student has 2 .* and the teacher 3 .*head.fc'):
            build('mmpretrain', losses, classifier(True), classifier(True, T=3))
        losses['a']['teacher'] = 'head.fc'
        model = build('mmpretrain', losses, classifier(True), classifier(True, T=3))
        data = model.data_preprocessor(Noise('mmpretrain').batch(0, 1, 2), True)
        assert model.loss(**data)['loss_a'] > 0

    def test_one_time_step(self):
        student = classifier(True, T=1)
        for loss in ('ETC', 'StrongWeak'):
            with pytest.raises(ValueError, match=f'model.losses.a: {loss} compares time steps, and T=1'):
                build('mmpretrain', dict(a=dict(type=loss, student=STEPS)), student)


class TestHeads:
    @pytest.mark.parametrize('tap', ['decode_head', 'decode_head.-1', 'decode_head.1.conv_seg', 'decode_head.conv_seg'])
    def test_last_of_a_cascade(self, tap):
        model = build(
            'mmseg', dict(a=dict(type='PixelKL', student=tap, teacher=tap, tau=2.0)),
            segmentor(True, cascade=True), segmentor(False, cascade=True),
        ).eval()  # fmt: skip
        data = model.data_preprocessor(seg_batch(), True)
        found = model.loss(**data)
        images = data['inputs']
        ours, theirs = (m(images, mode='tensor') for m in (model.student, model.teacher.model))
        torch.testing.assert_close(found['loss_a'], PixelKL(tau=2.0)([ours], [theirs], data['data_samples']))
        model.train().loss(**data)['loss_a'].backward()
        assert model.decode_head[1].conv_seg.weight.grad.any()

    def test_first_of_a_cascade(self):
        """Its forward is called twice in a training step."""
        term = dict(type='PixelKL', student='decode_head.0', teacher='decode_head.0')
        model = build('mmseg', dict(a=term), segmentor(True, cascade=True), segmentor(False, cascade=True)).eval()
        data = model.data_preprocessor(seg_batch(), True)
        value = model.loss(**data)['loss_a']
        first = [m.decode_head[0](m.extract_feat(data['inputs'])) for m in (model.student, model.teacher.model)]
        torch.testing.assert_close(value, PixelKL()([first[0]], [first[1]], data['data_samples']))
        assert not any('forward' in m.__dict__ for m in model.modules())

    def test_a_head_whose_forward_is_called_by_name(self):
        """As segmentors do while training."""
        term = dict(type='PixelKL', student='decode_head', teacher='decode_head.conv_seg')
        model = build('mmseg', dict(a=term), segmentor(True), segmentor(False)).eval()
        data = model.data_preprocessor(seg_batch(), True)
        ours, theirs = (m(data['inputs'], mode='tensor') for m in (model.student, model.teacher.model))
        torch.testing.assert_close(model.loss(**data)['loss_a'], PixelKL()([ours], [theirs], data['data_samples']))

    def test_a_head_that_answers_more_in_training(self):
        """As K-Net's: every stage, the last of which it answers when tested. Seen before the first iteration."""
        from mmseg.models.decode_heads import FCNHead
        from mmseg.registry import MODELS as MMSEG

        @MMSEG.register_module(name='TestStagesHead', force=True)
        class StagesHead(FCNHead):
            def forward(self, inputs):
                out = super().forward(inputs)
                return [0 * out, out] if self.training else out

            def loss_by_feat(self, seg_logits, batch_data_samples):
                logits = seg_logits[-1] if self.training else seg_logits
                return super().loss_by_feat(logits, batch_data_samples)

        pair = [segmentor(spiking) for spiking in (True, False)]
        for model in pair:
            model['decode_head']['type'] = 'TestStagesHead'
        term = dict(type='PixelKL', student='decode_head', teacher='decode_head')
        with pytest.raises(ValueError, match='model.losses.a: tap decode_head .* 2 tensors, .* 1, .*K-Net'):
            build('mmseg', dict(a=term), *pair)
        model = build('mmseg', dict(a={**term, 'student': 'decode_head[1]'}), *pair)
        assert not any(m.training for m in model.teacher.model.modules())
        data = model.data_preprocessor(seg_batch(), True)
        assert model.train().loss(**data)['loss_a'].isfinite()

    def test_a_head_that_takes_more_in_training(self):
        """As DDRNet's, to which its backbone gives two maps in training and one in evaluation."""
        from mmseg.models.decode_heads import FCNHead
        from mmseg.registry import MODELS as MMSEG

        @MMSEG.register_module(name='TestPairHead', force=True)
        class PairHead(FCNHead):
            def forward(self, inputs):
                if self.training:
                    *_, (inputs, _again) = [[inputs[-1:], inputs[-1:]]] if len(inputs) == 2 else inputs
                return super().forward(inputs)

        @MMSEG.register_module(name='TestPairNeck', force=True)
        class PairNeck(torch.nn.Module):
            def forward(self, inputs):
                return (inputs[-1], inputs[-1]) if self.training else inputs[-1:]

        pair = [segmentor(spiking) for spiking in (True, False)]
        for model in pair:
            model['decode_head'].update(type='TestPairHead', in_index=0)
            model['neck'] = dict(type='TestPairNeck')
        term = dict(type='PixelKL', student='decode_head.conv_seg', teacher='decode_head.conv_seg')
        model = build('mmseg', dict(a=term), *pair)
        data = model.data_preprocessor(seg_batch(), True)
        assert model.train().loss(**data)['loss_a'].isfinite()

    @pytest.mark.parametrize('tap', ['bbox_head.fc_cls', 'encoder', 'decoder.layers'])
    def test_queries_have_no_counterpart(self, tap):
        losses = dict(
            fine=dict(type='PKD', student='neck', teacher='neck'), a=dict(type='FeatureMSE', student=tap, teacher=tap)
        )
        with pytest.raises(
            ValueError, match='model.losses.a: .* does not run on feature maps alone: it takes'
        ) as error:
            build('mmdet', losses, detr(True), detr(False))
        assert 'FeatureMSE, PKD or AttentionMSE' in str(error.value) and 'model.losses.fine' not in str(error.value)

    def test_features_of_a_query_detector(self):
        losses = dict(a=dict(type='FeatureMSE', student='backbone.layer4', teacher='backbone.layer4'),
                      b=dict(type='PKD', student='neck', teacher='neck'))  # fmt: skip
        model = build('mmdet', losses, detr(True), detr(False), transfer=True)
        data = model.data_preprocessor(Noise('mmdet').batch(0, 1), True)
        for sample in data['data_samples']:
            sample.set_metainfo(dict(batch_input_shape=(64, 64)))
        found = model.loss(**data)
        assert found['loss_a'] > 0 and found['loss_b'] > 0
        model.parse_losses(found)[0].backward()

    @pytest.mark.parametrize('tap, what', [('bbox_head[7]', 'has no item 7'), ('bbox_head.loss_cls', 'was not called')])
    def test_the_term_is_named(self, tap, what):
        """What is wrong with a tap is told with the key of its term, not of the others."""
        losses = dict(
            fine=dict(type='PKD', student='neck', teacher='neck'),
            boxes=dict(type='BoxResponse', student=['bbox_head[0]', 'bbox_head[1]'], teacher=['bbox_head[0]', tap]),
        )
        with pytest.raises(ValueError, match=rf'^model\.losses\.boxes: teacher tap .*{what}'):
            build('mmdet', losses, detector(True), detector(False))

    def test_boxes_of_other_classes(self):
        """Boxes have no classes; the teacher's only say where objects are."""
        teacher = detector(False)
        teacher['bbox_head']['num_classes'] = 9
        taps = ['bbox_head[0]', 'bbox_head[1]']
        term = dict(type='BoxResponse', student=taps, teacher=taps)
        model = build('mmdet', dict(boxes=term), detector(True), teacher)
        assert model.terms[0].loss.num_classes == 9
        data = model.data_preprocessor(Noise('mmdet').batch(0, 1), True)
        losses = model.loss(**data)
        assert losses['loss_boxes'] > 0
        model.parse_losses(losses)[0].backward()

    def test_one_config_for_both(self):
        """Models write into their configs; the given ones stay as they are, and may be shared."""
        config = detr(False)
        before = copy.deepcopy(config)
        losses = dict(a=dict(type='PKD', student='neck', teacher='neck'))
        for _ in range(2):
            assert len(build('mmdet', losses, config, config).terms) == 1
        assert config == before

    @pytest.mark.parametrize(
        'tap, near',
        [
            ('backbone.layer5', 'backbone.layer[1-4]'),
            ('head.conv_seg', 'decode_head.conv_seg'),
            ('decode_heads', 'decode_head'),
            ('decode_head.conv_sg', 'decode_head.conv_seg'),
        ],
    )
    def test_near_matches(self, tap, near):
        term = dict(type='PixelKL', student=tap, teacher='decode_head.conv_seg')
        with pytest.raises(
            ValueError, match=f"model.losses.a: student tap '{tap}' names no module.*Did you mean .*{near}"
        ):
            build('mmseg', dict(a=term), segmentor(True), segmentor(False))


class TestViews:
    """Self-supervised models train on several views of each image, and so does what they learn from a teacher."""

    def model(self, spiking, kind='BarlowTwins'):
        ann = dict(type='mmpretrain.ResNet', depth=18, base_channels=8, stem_channels=8, out_indices=(3,))
        return dict(
            type=f'mmpretrain.{kind}',
            data_preprocessor=dict(type='SelfSupDataPreprocessor', mean=MEAN, std=STD, to_rgb=True),
            backbone={**(SPIKING if spiking else ann), 'out_indices': (3,)},
            neck=dict(
                type='NonLinearNeck', in_channels=64, hid_channels=16, out_channels=16, num_layers=2,
                with_last_bn=False, with_avg_pool=True,
            ),
            head=dict(
                type='LatentCrossCorrelationHead', in_channels=16, loss=dict(type='CrossCorrelationLoss')
            ) if kind == 'BarlowTwins' else dict(
                type='ContrastiveHead', loss=dict(type='CrossEntropyLoss'), temperature=0.1
            ),
        )  # fmt: skip

    @pytest.mark.parametrize('kind, calls', [('BarlowTwins', 2), ('SimCLR', 1)])
    def test_every_view(self, kind, calls):
        """BarlowTwins calls the backbone for each view, SimCLR once for all."""
        model = build(
            'mmpretrain', dict(a=FEATURE), self.model(True, kind), classifier(False), transfer=dict(scope='backbone')
        )
        first, second = Noise('mmpretrain').images[:6].split(3)
        data = model.data_preprocessor(dict(inputs=[first, second], data_samples=None), True)
        views, batches = data['inputs'], []
        handle = model.teacher.model.backbone.register_forward_pre_hook(lambda _m, args: batches.append(args[0]))
        model.eval()
        value = model.loss(**data)['loss_a']
        handle.remove()
        if kind == 'SimCLR':
            views = [torch.stack(views, 1).flatten(0, 1)]
        assert len(batches) == calls and all(torch.equal(a, b) for a, b in zip(batches, views))
        expected = []
        for images in views:
            ours, theirs = ([], [])
            hooks = [
                getattr(m.backbone, f'layer{i}').register_forward_hook(lambda _m, _i, out, outs=outs: outs.append(out))
                for m, outs in ((model.student, ours), (model.teacher.model, theirs))
                for i in range(1, 5)
            ]
            model.student.backbone(images), model.teacher.model.backbone(images)
            [hook.remove() for hook in hooks]
            rates = [s.unflatten(0, (2, len(images))).mean(0) for s in ours]
            pairs = zip(model.connectors.loss_a, rates, theirs, strict=True)
            expected.append(sum(F.mse_loss(c(s), t) for c, s, t in pairs))
        torch.testing.assert_close(value, sum(expected) / calls)
        assert not model.backbone._forward_pre_hooks


class TestResize:
    @pytest.mark.parametrize('ours, theirs, larger', [('layer4', 'layer2', False), ('layer1', 'layer3', True)])
    def test_stages_of_other_strides(self, ours, theirs, larger):
        connector = dict(type='Resize', connector=dict(type='ConvBN'))
        taps = dict(student=f'backbone.{ours}', teacher=f'backbone.{theirs}')
        model = build('mmpretrain', dict(a=dict(type='FeatureMSE', connector=connector, **taps)),
                      classifier(True), classifier(False)).eval()  # fmt: skip
        data = model.data_preprocessor(Noise('mmpretrain').batch(0, 1, 2), True)
        value = model.loss(**data)['loss_a']
        s, t = getattr(model.backbone, ours), getattr(model.teacher.model.backbone, theirs)
        outs = []
        hooks = [m.register_forward_hook(lambda _m, _i, out: outs.append(out)) for m in (s, t)]
        model.student(data['inputs']), model.teacher.model(data['inputs'])
        [hook.remove() for hook in hooks]
        mine, target = model.connectors.loss_a[0].connector(outs[0].unflatten(0, (2, 3)).mean(0)), outs[1]
        assert (mine.shape[-1] > target.shape[-1]) is larger and mine.shape[1] == target.shape[1]
        size = target.shape[2:]
        mine = F.adaptive_avg_pool2d(mine, size) if larger else F.interpolate(mine, size, mode='bilinear')
        torch.testing.assert_close(value, F.mse_loss(mine, target))

    def test_is_named_where_it_would_help(self):
        term = dict(
            type='FeatureMSE', student='backbone.layer4', teacher='backbone.layer2', connector=dict(type='ConvBN')
        )
        with pytest.raises(
            ValueError, match=r"model.losses.a: .*\(64, 2, 2\).*\(16, 8, 8\).*connector=dict\(type='Resize'"
        ):
            build('mmpretrain', dict(a=term), classifier(True), classifier(False))

    def test_every_step(self):
        """Maps of single steps against the teacher's."""

        @OWN_MODELS.register_module(name='TestStepMaps', force=True)
        class StepMaps(DistillLoss):
            time = 'steps'

            def forward(self, student, teacher, data_samples=None):
                return sum((s - t).square().mean() for s, t in zip(student, teacher, strict=True))

        try:
            connector = dict(type='Resize', connector=dict(type='ConvBN'))
            term = dict(type='TestStepMaps', student='backbone.layer4', teacher='backbone.layer2', connector=connector)
            model = build('mmpretrain', dict(a=term), classifier(True), classifier(False))
            assert model.connectors.loss_a[0].connector[0].out_channels == 16
            data = model.data_preprocessor(Noise('mmpretrain').batch(0, 1, 2), True)
            assert model.loss(**data)['loss_a'] > 0
        finally:
            OWN_MODELS.module_dict.pop('TestStepMaps')


class TestConfig:
    def test_scopes_that_inheritance_leaves(self):
        """mmengine writes ``_scope_`` into what comes from a package."""
        mark = dict(_scope_='mmsnn')
        feature = dict(
            FEATURE, **mark, connector=dict(type='ConvBN', **mark), weight=dict(values=[2.0], kind='step', **mark)
        )
        model = build(
            'mmpretrain',
            ConfigDict(
                loss_feature=feature,
                loss_kl=dict(type='LogitKL', student='head', teacher='head', from_teacher='b'),
                **mark,
            ),
            classifier(True),
            teachers=dict(b=dict(config=classifier(False), **mark), **mark),
            transfer=dict(scope='backbone', **mark),
            task_weight=dict(values=[0.5], **mark),
        )
        data = model.data_preprocessor(Noise('mmpretrain').batch(0, 1), True)
        assert set(model.loss(**data)) == {'loss', 'loss_feature', 'loss_kl'}
        assert model.transfer == dict(scope='backbone') and list(model.teachers) == ['b']
        assert model.terms[0].weight(Progress()) == 2.0

    def test_a_term_that_is_none_is_left_out(self):
        """As ``--cfg-options model.losses.loss_kl=None`` writes it."""
        model = build('mmpretrain', dict(loss_kl=None, a=FEATURE), classifier(True), classifier(False))
        assert [term.name for term in model.terms] == ['loss_a']

    def test_other_modules_are_no_losses(self):
        with pytest.raises(ValueError, match='model.losses.a: ConvBN is no distillation loss'):
            term = dict(type='ConvBN', in_channels=1, out_channels=1, student='head', teacher='head')
            build('mmpretrain', dict(a=term), classifier(True), classifier(False))


class TestSetting:
    """A part that is set on a Distiller is the student's."""

    def make(self):
        return build('mmpretrain', dict(a=FEATURE), classifier(True), classifier(False))

    def test_parts(self):
        model = self.make()
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            head = MODELS.build(dict(type='LinearClsHead', num_classes=9, in_channels=64))
        teacher = copy.deepcopy(model.teacher.model.state_dict())
        model.head = head
        assert model.student.head is head and 'head' not in model._modules
        assert model.state_dict()['head.fc.weight'].shape == (9, 64)
        data = model.data_preprocessor(Noise('mmpretrain').batch(0, 1), True)
        model.loss(**data)['loss'].backward()
        assert head.fc.weight.grad.any()
        assert all(torch.equal(v, teacher[k]) for k, v in model.teacher.model.state_dict().items())
        del model.neck
        assert not model.student.with_neck

    def test_its_own(self):
        model = self.make()
        model.progress, model.hooked = Progress(epoch=2), True
        assert model.__dict__['progress'].epoch == 2 and not hasattr(model.student, 'hooked')
        with pytest.raises(AttributeError, match='teacher'):
            model.teacher = torch.nn.Linear(1, 1)
        student = copy.deepcopy(model.student)
        model.student = student
        assert model._modules['student'] is student and model.head is student.head


def test_task_weight_leaves_accuracies_alone():
    """What has no "loss" in its name is shown, and not trained on."""
    head = dict(cal_acc=True)
    plain, weighted = (
        build('mmpretrain', dict(a=FEATURE), classifier(True, head=head), classifier(False), task_weight=w).eval()
        for w in (1.0, 0.25)
    )
    with torch.no_grad():
        plain.head.fc.bias[2] = 9
    weighted.load_state_dict(plain.state_dict())
    data = plain.data_preprocessor(Noise('mmpretrain').batch(*range(8)), True)
    for sample in data['data_samples']:
        sample.set_gt_label(2)
    one, other = plain.loss(**copy.deepcopy(data)), weighted.loss(**copy.deepcopy(data))
    assert set(one) == {'loss', 'accuracy_top-1', 'loss_a'}
    assert one['accuracy_top-1'] == other['accuracy_top-1'] == [100]
    torch.testing.assert_close(other['loss'], one['loss'] / 4)
