# LaSNN (Hong et al., 2023), a reconstruction, with the paper's beta. The term is a mean over positions, so the larger
# the maps, the less it weighs: detectors and segmentors take this one
_base_ = './lasnn.py'
distill = dict(losses=dict(loss_attention=dict(weight=1000.0)))
