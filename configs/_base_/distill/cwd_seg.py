# Channel-wise distillation (Shu et al., ICCV 2021) of a segmentor's answers
distill = dict(
    losses=dict(
        loss_cwd=dict(
            type='ChannelWiseKL', tau=4.0, student='decode_head.conv_seg', teacher='decode_head.conv_seg', weight=3.0
        ),
    ),
)
