# RetinaNet-R50 on COCO, the teacher: mmdet's 1x recipe
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/mmsnn.py']
