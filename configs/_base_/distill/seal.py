# SeAl (Sun et al., 2026) on classifiers: every step learns from the teacher where both are right, and from like steps
distill = dict(
    task_weight=0.0,
    losses=dict(loss_seal=dict(type='SeAl', student='backbone.layer4|neck|head.fc', teacher='head.fc')),
)
