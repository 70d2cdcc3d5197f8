# ResNet-19 on CIFAR-100, the teacher: by the student's recipe. SAKD's own teacher ends in one linear layer; two, as in
# the student, let level 1 copy the head, too
_base_ = './r18_cifar100.py'
model = dict(
    backbone=dict(_delete_=True, type='mmsnn.ResNet19', depth=19, out_indices=(2,)),
    head=dict(type='StackedLinearClsHead', mid_channels=[256]),
)
