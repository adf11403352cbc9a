"""A network whose head is so wide that one answer of a Gram pass takes 50 MB."""

from timm.models.efficientnet import EfficientNet, decode_arch_def
from torch import nn

WIDTH = 2500


def build(num_classes=10, in_chans=1, img_size=28):
    blocks = decode_arch_def([["ir_r1_k3_s2_e1_c8"]])
    return EfficientNet(blocks, num_classes=num_classes, num_features=WIDTH, stem_size=16, in_chans=in_chans, act_layer=nn.ReLU6)
