# Per-step logits (Yu et al., ICML 2025) on classifiers: every step learns from the teacher and from the mean of those
# steps that are right
distill = dict(
    task_weight=0.0,
    losses=dict(
        loss_steps=dict(
            type='StepLogitKL', student='backbone.layer4|neck|head.fc', teacher='head.fc', alpha=0.2, beta=0.5, tau=3.0
        ),
    ),
)
