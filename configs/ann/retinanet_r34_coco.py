# RetinaNet-R34 on COCO, the teacher: mmdet's 1x recipe
_base_ = ['mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', '../_base_/mmsnn.py']
model = dict(backbone=dict(depth=34, init_cfg=dict(checkpoint='torchvision://resnet34')))
