"""The networks that several suites compare."""

# One of each kind of residual network, of about the cost of ResNet-50. timm has them under the same names.
TEN = (
    "resnet50",
    "resnet50d",
    "resnext50_32x4d",
    "seresnext50_32x4d",
    "skresnet50",
    "resnest50d",
    "res2net50_26w_4s",
    "densenet121",
    "dpn68",
    "inception_v3",
)
