# RetinaNet with MS-ResNet-34 on COCO, with its authors' neuron and norm
_base_ = ['./retinanet_sew34_coco.py', '../_base_/neurons/ms_resnet.py']
model = dict(backbone=_base_.ms_backbone)
