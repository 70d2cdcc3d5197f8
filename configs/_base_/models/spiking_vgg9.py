# Spiking VGG-9 on event frames, with the neuron of TSSD's paper; T and num_classes are set where it is used
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmsnn.SpikingVGG',
        depth=9,
        pool='avg',
        in_channels=2,  # polarities
        out_indices=(3,),
        # soft reset
        neuron=dict(type='LIF', tau=2.0, decay_input=False, v_reset=None, surrogate='rectangle'),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', in_channels=512, loss=dict(type='CrossEntropyLoss')),
)
