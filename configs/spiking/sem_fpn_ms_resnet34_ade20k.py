# Semantic FPN with MS-ResNet-34 on ADE20K, with its authors' neuron and norm
_base_ = ['./sem_fpn_sew34_ade20k.py', '../_base_/neurons/ms_resnet.py']
model = dict(backbone=_base_.ms_backbone)
