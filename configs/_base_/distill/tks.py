# TKS (Dong et al., 2024) on classifiers, without a teacher, as released: the steps that are right teach
# all
distill = dict(
    task_weight=0.0,
    losses=dict(loss_tks=dict(type='TKS', student='backbone.layer4|neck|head.fc')),
)
