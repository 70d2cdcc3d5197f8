# LaSNN (Hong et al., 2023), a reconstruction, for any task: attention maps of the four stages; no projector, so that
# teacher and student need not be alike. Level 1 as in SAKD. The paper's beta is 1000 (lasnn_paper.py), which undoes
# most of level 1 on CIFAR-10 (configs/README.md)
distill = dict(
    transfer=True,
    losses=dict(
        loss_attention=dict(
            type='AttentionMSE',
            student=[f'backbone.layer{i}' for i in range(1, 5)],
            teacher=[f'backbone.layer{i}' for i in range(1, 5)],
            weight=100.0,  # beta
        ),
    ),
)
