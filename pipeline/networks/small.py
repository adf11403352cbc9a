"""Networks for small images that timm has no argument for, built from timm's own parts."""

import timm
from timm.models.efficientnet import EfficientNet, decode_arch_def
from timm.models.resnet import BasicBlock, ResNet
from torch import nn


def mobilenetv2_28(num_classes: int = 10, in_chans: int = 1, img_size: int = 28) -> nn.Module:
    """timm's MobileNetV2 of width 0.5 whose stem keeps the resolution: 28 x 28 images end at 2 x 2, not at 1 x 1."""
    network = timm.create_model("mobilenetv2_050", num_classes=num_classes, in_chans=in_chans)
    network.conv_stem.stride = (1, 1)
    return network


def tiny(num_classes: int = 10, in_chans: int = 1, img_size: int = 28) -> nn.Module:
    """A MobileNetV2 of three hidden units of 16 neurons, for proofs that run in seconds: timm's own class and blocks."""
    blocks = decode_arch_def([["ir_r1_k3_s2_e1_c8"]])
    return EfficientNet(blocks, num_classes=num_classes, num_features=16, stem_size=16, in_chans=in_chans, act_layer=nn.ReLU6)


def resnet_28(num_classes: int = 10, in_chans: int = 1, img_size: int = 28) -> nn.Module:
    """timm's ResNet of basic blocks, eight of them at 16 to 128 channels, without the first pool: 28 x 28 images end at 2 x 2."""
    network = ResNet(
        BasicBlock, (2, 2, 2, 2), num_classes=num_classes, in_chans=in_chans, stem_type="deep", stem_width=8, channels=(16, 32, 64, 128)
    )
    network.maxpool = nn.Identity()
    return network
