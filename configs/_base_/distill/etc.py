# ETC (Zhao et al., Pattern Recognition 2024) on classifiers, without a teacher: every step learns from every other
distill = dict(losses=dict(loss_etc=dict(type='ETC', student='backbone.layer4|neck|head.fc', tau=4.0)))
